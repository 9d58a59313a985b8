"""Five claims about grounding, over several trainings: what holds, what is reversed, what stays open.

    python analyses/compare_claims.py --llava data/mini-llava runs/seed-1/mini-llava runs/seed-2/mini-llava \
        --difflmm data/mini-difflmm runs/seed-1/mini-difflmm runs/seed-2/mini-difflmm --samples 300 --out runs/claims
    python analyses/compare_claims.py --runs runs/compare-0 runs/compare-1 runs/compare-2 --out runs/claims

Each training is one place in both lists (same data, order and seed for both models), or a folder of `interp compare
LLAVA DIFFLMM`. Without --difflmm claim (b) is left out. A killed run goes on. Writes claims.csv, claims.md, claims.png.

Every claim is asked twice. Of *specificity*: does the map tell the thing that the word names from other named things
of the image? Of the *score* on the own mask, which a head that looks at any thing raises too.

(a) attention of a LLaVA trained on captions alone grounds: its specificity is above 0, its score above that on masks of
other images (the shuffled-mask null); (b) DiffLMM grounds better than LLaVA; (c) subtracting the answer's mean helps;
(d) few heads do better than the mean of all; (e) the row that predicts a word grounds better than the word's own row.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from interp import plugins
from interp.report.run import Run
from interp.work.files import write_bytes
from over_trainings import INDEX, Estimate, mark, one_training, over_trainings, verdict

ALL = "all"
CLAIMS = {
    "a": "LLaVA grounds",
    "b": "DiffLMM grounds better than LLaVA",
    "c": "subtracting the answer's mean helps",
    "d": "few heads do better than the mean of all",
    "e": "the predicting row does better than the own row",
}
HEADS = ("paper", "top3", "top1")
"""Choices of heads for which each claim is looked at; the first is the one that counts. Claim d is about its own."""
FEW = ("top3", "top1", "top10")
QUANTITIES = {"specificity": "specificity", "score": "value"}
"""What a claim is asked of -> the column that holds it."""


def gaps(
    phrases: pd.DataFrame, metric: str, higher_is_better: bool, quantity: str = "score"
) -> dict[tuple[str, str, str], pd.Series]:
    """(claim, model, heads) -> one number per phrase, positive where the claim is right.

    ``phrases`` is the table of one comparison, with ``model`` llava or difflmm.
    """
    sign = 1 if higher_is_better or quantity == "specificity" else -1
    own = phrases[phrases["metric"] == metric]
    columns = ["model", "normalise", "query", "heads"]
    values = own.set_index([*INDEX, *columns])[QUANTITIES[quantity]].unstack(columns, sort=False)
    nulls = own.set_index([*INDEX, *columns])["null"].unstack(columns, sort=False)
    if quantity == "specificity":
        nulls = 0 * values
    found: dict[tuple[str, str, str], pd.Series] = {}

    def add(claim: str, model: str, heads: str, better: tuple, worse: tuple, of: pd.DataFrame = values) -> None:
        if better in values and worse in of:
            found[claim, model, heads] = sign * (values[better] - of[worse])

    models = [m for m in ("llava", "difflmm") if m in set(own["model"])]
    for heads in HEADS:
        main = {m: (m, "answer", "predicting", heads) for m in models}
        if "llava" in main:
            add("a", "llava", heads, main["llava"], main["llava"], nulls)
        if len(models) == 2:
            add("b", "", heads, main["difflmm"], main["llava"])
        for m in models:
            add("c", m, heads, main[m], (m, "none", "predicting", heads))
            add("e", m, heads, main[m], (m, "answer", "self", heads))
    for m in models:
        for heads in FEW:
            add("d", m, heads, (m, "answer", "predicting", heads), (m, "answer", "predicting", "paper"))
    return found


def claims(trainings: Mapping[str, pd.DataFrame], metric: str, higher_is_better: bool) -> pd.DataFrame:
    """A row per claim, model, choice of heads and training (and ``all`` of them together): ``mean low high verdict``.

    ``trainings``: name -> the phrase table of its comparison. A positive mean is in the claim's favour.
    """
    for name, table in trainings.items():
        if metric not in set(table["metric"]):
            raise SystemExit(f"{name} has {', '.join(sorted(set(table['metric'])))}; expected {metric} among them")
    asked = [q for q, column in QUANTITIES.items() if all(column in table for table in trainings.values())]
    return pd.concat([_claims(trainings, metric, higher_is_better, q) for q in asked], ignore_index=True)


def _claims(trainings: Mapping[str, pd.DataFrame], metric: str, higher_is_better: bool, quantity: str) -> pd.DataFrame:
    found = {name: gaps(table, metric, higher_is_better, quantity) for name, table in trainings.items()}
    every = dict.fromkeys(key for one in found.values() for key in one)
    rows = []
    for claim, model, heads in sorted(every, key=lambda key: key[0]):
        each = {name: one[claim, model, heads] for name, one in found.items() if (claim, model, heads) in one}
        estimates = {name: one_training(gap) for name, gap in each.items()} | {ALL: over_trainings([*each.values()])}
        about = {"quantity": quantity, "claim": claim, "model": model, "heads": heads, "metric": metric}
        for name, estimate in estimates.items():
            sizes = [each[name]] if name != ALL else [*each.values()]
            phrases = pd.concat(sizes, axis=1, join="inner").dropna().index
            rows.append(
                {
                    **about,
                    "training": name,
                    "trainings": len(each) if name == ALL else 1,
                    "phrases": len(phrases),
                    "images": phrases.get_level_values("image_id").nunique(),
                    **estimate._asdict(),
                    "verdict": verdict(estimate),
                }
            )
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown, one line per claim, model and choice of heads, the trainings side by side."""
    names = [name for name in dict.fromkeys(table["training"]) if name != ALL]
    head = ["of", "claim", "model", "heads", *names, "over trainings", "95 % interval", "verdict"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (quantity, claim, model, heads), rows in table.groupby(["quantity", "claim", "model", "heads"], sort=False):
        by_name = rows.set_index("training")
        one = [
            f"{r['mean']:+.3f} ({r['low']:+.3f} to {r['high']:+.3f})"
            for r in (by_name.loc[name] for name in names if name in by_name.index)
        ]
        total = by_name.loc[ALL]
        interval = f"{total['low']:+.3f} to {total['high']:+.3f}" if np.isfinite(total["low"]) else "–"
        cells = [str(quantity), f"({claim}) {CLAIMS[str(claim)]}", model or "difflmm − llava", heads, *one]
        lines.append("| " + " | ".join([*cells, f"{total['mean']:+.3f}", interval, f"**{total['verdict']}**"]) + " |")
    metric = table["metric"].iloc[0].replace("_", " ")
    note = (
        f"Differences in {metric}; positive is in the claim's favour. In a training's column: 95 % bootstrap interval "
        "over images. Over trainings: 95 % interval for other trainings and other images."
    )
    return "\n".join([*lines, "", note]) + "\n"


def draw(table: pd.DataFrame, path: Path) -> None:
    """Every claim's differences: small marks are trainings, the large one is over trainings."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from interp.plots.compare import CHOICES, MODELS
    from interp.plots.style import style

    colours = {"llava": MODELS[0], "difflmm": MODELS[1], "": "#222222"}
    with style():
        claims_, asked = list(dict.fromkeys(table["claim"])), list(dict.fromkeys(table["quantity"]))
        heights = [table[table["claim"] == c].groupby(["model", "heads"]).ngroups for c in claims_]
        figure, panels = plt.subplots(
            len(claims_), len(asked), figsize=(4.2 + 3.4 * len(asked), 0.36 * sum(heights) + 0.55 * len(claims_) + 0.6),
            sharex="col", sharey="row", squeeze=False, height_ratios=[h + 0.5 for h in heights], layout="constrained",
        )  # fmt: skip
        cells = [(i, j, c, q) for i, c in enumerate(claims_) for j, q in enumerate(asked)]
        for i, j, claim, quantity in cells:
            axes, some, labels = panels[i, j], table[(table["claim"] == claim) & (table["quantity"] == quantity)], []
            for y, ((model, heads), rows) in enumerate(some.groupby(["model", "heads"], sort=False)):
                labels.append(f"{model or 'difflmm − llava'}, {CHOICES[str(heads)]}")
                single, total = rows[rows["training"] != ALL], rows[rows["training"] == ALL].iloc[0]
                mark(axes, y, single["mean"], Estimate(total["mean"], total["low"], total["high"]), colours[str(model)])
            axes.axvline(0, color="#7f7f7f", linewidth=1)
            axes.set_yticks(range(len(labels)), labels)
            axes.set_ylim(len(labels) - 0.4, -0.6)
            axes.set_title(f"({claim}) {CLAIMS[str(claim)]}" if j == 0 else quantity, fontsize=9)
        metric = table["metric"].iloc[0].replace("_", " ")
        for axes, quantity in zip(panels[-1], asked, strict=True):
            axes.set_xlabel(f"{quantity} ({metric}), > 0: the claim is right")
        figure.savefig(path, dpi=150)
        plt.close(figure)


def read(folder: Path, single: bool = False) -> pd.DataFrame:
    """The phrase table of a folder of `interp compare LLAVA DIFFLMM`, its models called llava and difflmm.

    Raises:
        FileNotFoundError: no run, or one that is not finished.
    """
    run = Run.read(folder)
    if not run.manifest["finished"]:
        raise FileNotFoundError(f"{folder} holds a run that is not finished; start the same `interp compare` again")
    names = run.manifest["comparison"]["names"]
    if "difflmm" in names[0].lower():
        raise SystemExit(f"{folder} compares {' with '.join(names)}; expected LLAVA DIFFLMM in that order")
    roles = dict(zip(names, ("llava", "difflmm"), strict=True))
    phrases = run.read_table("phrases")
    phrases = phrases[phrases["model"] == names[0]] if single else phrases
    return phrases.assign(model=phrases["model"].map(roles))


def measured(a: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Runs `interp compare` for each training, or reads what was run."""
    from interp import cli

    if a.runs:
        return {f"training {i}": read(folder) for i, folder in enumerate(a.runs)}
    if a.difflmm and len(a.difflmm) != len(a.llava):
        raise SystemExit(f"{len(a.llava)} LLaVAs and {len(a.difflmm)} DiffLMMs; expected as many of each, in one order")
    tables = {}
    for i, llava in enumerate(a.llava):
        folder = a.out / f"training-{i}"
        other = a.difflmm[i] if a.difflmm else llava  # beside itself: everything is measured once
        command = ["compare", llava, other, a.dataset, "--out", str(folder), "--names", "llava", "difflmm"]
        command += ["--metrics", a.metric, "--samples", str(a.samples), "--batch", str(a.batch)]
        command += [f"--{option}={value}" for option in ("root", "split", "rows") if (value := getattr(a, option))]
        command += ["--kinds", *a.kinds] if a.kinds else []
        if code := cli.main(command + ([] if a.difflmm else ["--no-recall"])):
            raise SystemExit(code)
        tables[f"training {i}"] = read(folder, single=not a.difflmm)
    return tables


def main() -> None:
    """The table, its Markdown and its figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--runs", nargs="+", type=Path, help="folders of `interp compare LLAVA DIFFLMM`")
    given.add_argument("--llava", nargs="+", help="one model a training")
    parser.add_argument("--difflmm", nargs="+", help="the same trainings, in the same order")
    parser.add_argument("--dataset", default="scenes")
    parser.add_argument("--root")
    parser.add_argument("--split")
    parser.add_argument("--kinds", nargs="+", help="phrases of these kinds alone, as for interp compare")
    parser.add_argument("--rows", help="which of a word's tokens make its map, as for interp compare")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--metric", default="pointing_game")
    parser.add_argument("--out", type=Path, default=Path("runs/claims"))
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    table = claims(measured(a), a.metric, plugins.get("metrics", a.metric).higher_is_better)
    write_bytes(a.out / "claims.csv", table.to_csv(index=False, float_format="%.5g").encode())
    write_bytes(a.out / "claims.md", markdown(table).encode())
    draw(table, a.out / "claims.png")
    print(markdown(table))


if __name__ == "__main__":
    main()
