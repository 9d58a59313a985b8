"""What the choice of heads is worth to attend-and-segment: one table and one figure.

    python analyses/segment_heads.py mini-llava mini-difflmm --samples 500 --validation 200 --out runs/segment-heads

Each test image is captured once and embedded once per segmenter; then every variant makes its masks from the same
attention: the mean of all heads (the paper), the released code's heads, the best 1, 3 and 10 heads and a weighted mean
of all, chosen and weighted on the validation split alone; with and without subtracting the answer's mean map; beside
the image's centre and a random point as prompts. Phrases are those of the reference answers that name a target.

Masks are scored by IoU, by recall at IoU 0.5, and points by whether they lie in the target; intervals are bootstrapped
over images, and so are the paired differences to the paper's mean of all heads. Killed at any moment, the same command
goes on where it was. Writes segment_heads.csv, .md and .png into ``figures/`` of the run folder ``--out``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

import interp
from head_choice.figure import draw
from head_choice.scores import Setting, measure
from head_choice.tables import markdown, summarise
from head_choice.variants import choose, told
from interp import plugins
from interp.report.run import Run
from interp.types import Skip
from interp.work.files import write_bytes


def options() -> argparse.Namespace:
    """What the study is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="shipped models, folders or hub ids")
    parser.add_argument("--segmenters", nargs="+", default=["mini-sam", "threshold"])
    parser.add_argument("--dataset", default="scenes")
    parser.add_argument("--root")
    parser.add_argument("--split", default="test")
    parser.add_argument("--validation-split", default="validation")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--validation", type=int, default=200, help="images that heads are chosen on")
    parser.add_argument("--metric", default="pointing_game", help="that heads are chosen by")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    if a.dataset == "scenes" and a.split == a.validation_split:
        raise SystemExit("heads must be chosen on other images than they are measured on: give two splits")
    return a


def studied(
    a: argparse.Namespace, lmms: dict[str, Any], segmenters: dict[str, Any], run: Run
) -> tuple[pd.DataFrame, dict[str, Any], list[Skip]]:
    """A row per phrase, variant and segmenter of each model; each model's chosen heads; what was skipped and why."""
    source = plugins.get("datasets", a.dataset)
    frames, chosen, skipped = [], {}, []
    for name, lmm in lmms.items():
        validation = source.load(root=a.root, split=a.validation_split, samples=a.validation)
        variants, radius = choose(lmm, validation, a.metric, a.batch, run)
        setting = Setting(lmm, segmenters, variants, radius, a.seed)
        chosen[name] = {f"{v.name}, {v.normalise}": told(v) for v in variants}
        test = source.load(root=a.root, split=a.split, samples=a.samples)
        rows, left_out = measure(setting, test, a.batch, run)
        frames.append(rows.assign(model=name))
        skipped += left_out
    return pd.concat(frames, ignore_index=True), chosen, skipped


def main() -> None:
    """Runs the study and prints the table."""
    a = options()
    segmenters = {name: interp.load_segmenter(name, device=a.device) for name in a.segmenters}
    arguments = {k: v for k, v in vars(a).items() if k not in ("out", "force")}
    lmms = {name: interp.load(name, device=a.device) for name in a.models}
    weights = "-".join(interp.hash_weights(lmm.model)[:16] for lmm in lmms.values())
    run = Run.open(a.out, arguments, weights=weights, seed=a.seed, force=a.force)
    phrases, chosen, skipped = studied(a, lmms, segmenters, run)
    run.write_table("phrases", phrases)
    table = summarise(phrases, a.seed)
    run.manifest["heads"] = chosen
    run.write_table("summary", table)
    write_bytes(a.out / "figures" / "segment_heads.csv", table.to_csv(index=False).encode())
    write_bytes(a.out / "figures" / "segment_heads.md", markdown(table).encode())
    draw(table).savefig(a.out / "figures" / "segment_heads.png", metadata={"Software": None})
    run.finish([{"sample_id": s.sample_id, "reason": s.reason} for s in skipped])
    print(markdown(table))


if __name__ == "__main__":
    main()
