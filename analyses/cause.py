"""What grounding heads do in the shipped models: grounding against effect, and how both form over the checkpoints.

    python analyses/cause.py mini-llava mini-difflmm --samples 120 --out runs/cause

For each model one `interp effects` at its last checkpoint and a shorter one at every checkpoint, each in a folder of
its own below --out; what is finished is not run again. Writes cause.csv and cause.md (the last checkpoints), steps.csv
(all checkpoints) and cause.png. With --pairs N also patching-MODEL.csv: N pairs of nouns on one background, one head's
output at the row that predicts the noun patched from the one into the other (needs the extra ``lens``).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import interp
from head_patching import patching
from interp import cli
from interp.report.run import Run
from interp.types import Head
from interp.work.files import write_bytes

MEASURE = "logprob"
COLOURS = ("#0072b2", "#d55e00")


def study(model: str, out: Path, samples: int, a: argparse.Namespace) -> Run:
    """The finished run folder of `interp effects`."""
    command = ["effects", model, a.dataset, "--out", str(out), "--samples", str(samples), "--metric", a.metric]
    command += ["--draws", str(a.draws), "--intervention", a.intervention, "--batch", str(a.batch)]
    done = (out / "manifest.json").exists() and Run.read(out).manifest["finished"]
    if not done and (code := cli.main(command)):
        raise SystemExit(code)
    return Run.read(out)


def row(run: Run, metric: str) -> dict[str, Any]:
    """One line of figures of a study."""
    own = {n: run.read_table(n) for n in ("edges", "contrasts", "sets", "correlation", "heads")}
    edges, contrasts, sets = (own[n][own[n]["measure"] == MEASURE] for n in ("edges", "contrasts", "sets"))
    edges, contrasts, sets = edges.set_index("keys"), contrasts.set_index("keys"), sets.set_index("unit")
    rho = own["correlation"].set_index("measure").loc[MEASURE]
    heads = own["heads"]
    best = heads[heads["metric"] == metric].sort_values("mean", ascending=False).iloc[0]
    acting = heads[heads["metric"] == MEASURE].sort_values("mean", ascending=False).iloc[0]
    found: dict[str, Any] = {"phrases": int(edges.loc["own", "n"]), "images": int(edges.loc["own", "images"])}
    for keys in edges.index:
        found |= {f"{keys}{end}": edges.loc[keys, name] for name, end in _ENDS}
    gap = (("difference", ""), ("low", "_low"), ("high", "_high"))
    for keys in contrasts.index:
        found |= {f"own_less_{keys}{end}": contrasts.loc[keys, name] for name, end in gap}
    for unit in sets.index:
        found |= {f"{unit}{end}": sets.loc[unit, name] for name, end in (*_ENDS, ("null", "_random"))}
        found |= {f"{unit}_less_random{end}": sets.loc[unit, f"gap_{name}"] for name, end in gap}
    found |= {"rho": rho["rho"], "rho_low": rho["low"], "rho_high": rho["high"]}
    found |= {"best_grounding": _name(best), "grounding": best["mean"], "greatest_effect": _name(acting)}
    tested = heads[heads["metric"] == MEASURE]["p_corrected"]
    return {**found, "effect": acting["mean"], "heads_with_effect": int((tested < 0.05).sum())}


_ENDS = (("mean", ""), ("low", "_low"), ("high", "_high"))


def _name(head: pd.Series) -> str:
    return str(Head(int(head["layer"]), int(head["head"])))


def over_steps(model: str, a: argparse.Namespace) -> pd.DataFrame:
    """A row per checkpoint of the shipped series."""
    rows = []
    for point in interp.series(model).sound:
        run = study(f"{model}/checkpoint-{point.step}", a.out / f"{model}-{point.step}", a.step_samples, a)
        rows.append({"model": model, "step": point.step, "stage": point.stage, **row(run, a.metric)})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """The last checkpoints' figures, a model a column."""
    spans = {
        "own": "own thing hidden from the word",
        "others": "other things hidden",
        "background": "background hidden",
        "sinks": "most attended patches elsewhere hidden",
        "own_less_background": "own thing less background, paired",
        "top1": "best head by grounding away",
        "top1_less_random": "... less random heads of the layer",
        "top3": "best 3 away",
        "top3_less_random": "... less random heads of the layers",
        "top10": "best 10 away",
        "rho": "Spearman's rho, grounding and effect over heads",
    }
    lines = ["| harm in nats of the word's log-probability | " + " | ".join(table["model"]) + " |"]
    lines.append("|---|" + "---|" * len(table))
    for name, words in spans.items():
        if name not in table:
            continue
        cells = [
            "–" if not np.isfinite(r[name]) else f"{r[name]:.3f} ({r[f'{name}_low']:.3f} to {r[f'{name}_high']:.3f})"
            for r in table.to_dict("records")
        ]
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    for name in ("best_grounding", "greatest_effect", "heads_with_effect", "phrases", "images"):
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(str(x) for x in table[name]) + " |")
    return "\n".join(lines) + "\n"


def draw(steps: pd.DataFrame, runs: dict[str, Run], metric: str, path: Path) -> None:
    """Per model: effect against grounding of every head at the end; harm of hiding the thing over the checkpoints."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from interp.plots.style import style

    with style():
        figure, panels = plt.subplots(
            2, len(runs), figsize=(4.4 * len(runs) + 0.6, 6.4), squeeze=False, layout="constrained"
        )
        for column, (model, run) in enumerate(runs.items()):
            colour = COLOURS[column % 2]
            _heads(panels[0, column], model, run, metric, colour)
            _steps(panels[1, column], steps[steps["model"] == model].sort_values("step"), metric, colour)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _heads(axes: Any, model: str, run: Run, metric: str, colour: str) -> None:
    """Effect against grounding, a mark a head, with the intervals of both."""
    from interp.plots.style import NULL, words

    heads = run.read_table("heads").set_index(["layer", "head"])
    x, y = (heads[heads["metric"] == name] for name in (metric, MEASURE))
    y = y.reindex(x.index)
    axes.vlines(x["mean"], y["low"], y["high"], color="#c4c9d0", linewidth=0.7)
    axes.hlines(y["mean"], x["low"], x["high"], color="#c4c9d0", linewidth=0.7)
    axes.plot(x["mean"], y["mean"], "o", color=colour, markersize=4)
    rho = run.read_table("correlation").set_index("measure").loc[MEASURE]
    said = f"ρ {rho['rho']:.2f} [{rho['low']:.2f}, {rho['high']:.2f}]"
    axes.set(xlabel=words(metric), ylabel="harm without the head (nats)", title=f"{model}: {said}")
    axes.axhline(0, color=NULL, linewidth=0.8)


def _steps(axes: Any, own: pd.DataFrame, metric: str, colour: str) -> None:
    """Harm of hiding the thing, of hiding background, and the best head's grounding, checkpoint by checkpoint."""
    from interp.plots.style import NULL, words

    places = range(len(own))
    for name, shade, label in (("own", colour, "own thing hidden"), ("background", NULL, "background hidden")):
        axes.plot(places, own[name], "o-", color=shade, markersize=4, label=label)
        axes.fill_between(places, own[f"{name}_low"], own[f"{name}_high"], color=shade, alpha=0.18, linewidth=0)
    axes.set_xticks(places, [str(s) for s in own["step"]], rotation=60)
    axes.set(xlabel="training step", ylabel="harm (nats)")
    other = axes.twinx()
    other.plot(places, own["grounding"], "s:", color="#009e73", markersize=3.5, label=f"best head's {words(metric)}")
    other.set_ylabel(words(metric))
    other.spines["right"].set_visible(True)
    lines = [*axes.get_lines(), *other.get_lines()]
    axes.legend(lines, [str(line.get_label()) for line in lines], loc="upper left", fontsize=7)


def main() -> None:
    """Tables and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["mini-llava", "mini-difflmm"])
    parser.add_argument("--dataset", default="scenes")
    parser.add_argument("--samples", type=int, default=120, help="at the last checkpoint")
    parser.add_argument("--step-samples", type=int, default=24, help="at every checkpoint")
    parser.add_argument("--metric", default="pointing_game")
    parser.add_argument("--intervention", default="mean", choices=("mean", "zero", "resample"))
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/cause"))
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    runs = {model: study(model, a.out / model, a.samples, a) for model in a.models}
    table = pd.DataFrame([{"model": model, **row(run, a.metric)} for model, run in runs.items()])
    write_bytes(a.out / "cause.csv", table.to_csv(index=False, float_format="%.5g").encode())
    write_bytes(a.out / "cause.md", markdown(table).encode())
    print(markdown(table))
    for model in a.models if a.pairs else ():
        found = patching(model, a.pairs)
        write_bytes(a.out / f"patching-{model}.csv", found.to_csv(index=False, float_format="%.5g").encode())
        best = found.loc[found.groupby("pair")["recovered"].idxmax()]
        print(
            f"{model}: the best head recovers {best['recovered'].median():.2f} in the median of {a.pairs} pairs, from "
            f"layer {best['layer'].min()} to {best['layer'].max()}; it turns the word in {int(best['flips'].sum())}"
        )
    steps = pd.concat([over_steps(model, a) for model in a.models], ignore_index=True)
    write_bytes(a.out / "steps.csv", steps.to_csv(index=False, float_format="%.5g").encode())
    draw(steps, runs, a.metric, a.out / "cause.png")


if __name__ == "__main__":
    main()
