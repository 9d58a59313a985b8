"""The variants' table as Markdown and as a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from over_trainings import Estimate, mark
from training.variants.measured import METRIC

SHOWN = {f"{METRIC}, paper": "pointing, all heads", f"{METRIC}, top3": "pointing, best 3", "noun recall": "noun recall"}
MEANING = {
    "llava": "mini-llava",
    "clip": "CLIP alone",
    "diffusion": "diffusion alone",
    "empty": "empty caption",
    "wide": "wider initial weights",
    "loud": "and a louder feature",
    "diffusion-empty": "diffusion alone,\nempty caption",
    **{f"t-{t}": f"timestep {t}" for t in (1, 50, 300)},
}


def markdown(found: pd.DataFrame) -> str:
    """The rows over all seeds as Markdown, with the seeds' means beside them."""
    head = ["variant", "measure", "mean over seeds", "each seed", "more than both", "95 % interval", ""]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (variant, measure_), rows in found.groupby(["variant", "measure"], sort=False):
        total, each = rows[rows["seed"] == "all"].iloc[0], rows[rows["seed"] != "all"]
        cells = [variant, measure_, f"{total['mean']:.3f}", ", ".join(f"{x:.3f}" for x in each["mean"])]
        if np.isfinite(total["more_than_both"]) and variant != "both":
            interval = (
                f"{total['more_low']:+.3f} to {total['more_high']:+.3f}" if np.isfinite(total["more_low"]) else "–"
            )
            cells += [f"{total['more_than_both']:+.3f}", interval, total["verdict"]]
        else:
            cells += ["", "", ""]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    note = "Intervals are for other trainings and other images, paired by phrase with `both` of the same seed."
    return "\n".join([*lines, "", note]) + "\n"


def draw(found: pd.DataFrame, path: Path) -> None:
    """How much more or less than ``both`` each variant has: small marks are seeds, the large one is over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from interp.plots.style import style

    names = [name for name in dict.fromkeys(found["variant"]) if name != "both"]
    with style():
        figure, panels = plt.subplots(
            1, len(SHOWN), figsize=(2.6 * len(SHOWN) + 1.6, 0.42 * len(names) + 1.2), sharey=True, layout="constrained"
        )
        for axes, (measure_, title) in zip(panels, SHOWN.items(), strict=True):
            for y, name in enumerate(names):
                rows = found[(found["variant"] == name) & (found["measure"] == measure_)]
                if rows.empty:
                    continue
                each, total = rows[rows["seed"] != "all"], rows[rows["seed"] == "all"].iloc[0]
                gap = Estimate(total["more_than_both"], total["more_low"], total["more_high"])
                mark(axes, y, each["more_than_both"], gap, "#222222")
            axes.axvline(0, color="#7f7f7f", linewidth=1)
            axes.set_title(title)
        panels[0].set_yticks(range(len(names)), [MEANING.get(name, name.replace("-", " ")) for name in names])
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        figure.supxlabel("more than with both encoders (small: each training; line: 95 % interval)", fontsize="medium")
        figure.savefig(path, dpi=150)
        plt.close(figure)
