"""How often each metric's test finds heads where there is nothing to find: simulated maps on simulated and on scenes'
masks, measured by the product's own pool of null masks, metrics and sign-flip test.

    python analyses/simulations.py --out runs/simulations

Kinds of maps: ``noise``, patch by patch; ``smooth noise``, blobs; ``corner`` and ``centre``, always the same place,
with a little noise; ``thing``, one thing of the image, the same whatever the word. Areas: those of
`interp.datasets.scenes`, or lognormal (median 3 % of the image, log-sd 1.3) with pairs of things that have one name.
Tests: ``things``, own mask against masks of other images; ``word``, own mask against those of the other named things of
the image. At 5 % the rate should be 0.05 or less everywhere, but for ``thing`` under ``things``, which is found as it
should be.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter

from interp import plugins
from interp.answer.maps import coverage
from interp.contracts import Metric
from interp.datasets import scenes
from interp.ranking.scoring import score_sample
from interp.statistics import intervals
from interp.statistics.nulls import SIDE, MaskPool, stack
from interp.types import PatchGrid, Sample, Target

KINDS = ("noise", "smooth noise", "corner", "centre", "thing")
LAWS = ("scenes", "lognormal")
NULLS = 8
SCENES = 400


def lognormal_sample(rng: np.random.Generator, name: str) -> Sample:
    """One to five ellipses, more often in the middle; in one of four images two of them have one name."""
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE
    targets: list[Target] = []
    for number in range(rng.integers(1, 6)):
        area = min(0.03 * np.exp(1.3 * rng.normal()), 0.7)
        shape = np.exp(0.3 * rng.normal())
        height, width = (min(np.sqrt(area / np.pi) * s, 0.5) for s in (shape, 1 / shape))
        cy, cx = (half + (1 - 2 * half) * rng.beta(2, 2) for half in (height, width))
        mask = ((y - cy) / height) ** 2 + ((x - cx) / width) ** 2 <= 1
        mask[min(int(cy * SIDE), SIDE - 1), min(int(cx * SIDE), SIDE - 1)] = True
        targets.append(Target("thing 0" if number == 1 and rng.random() < 0.25 else f"thing {number}", mask))
    return Sample(name, np.zeros((SIDE, SIDE, 3), np.uint8), "", None, tuple(targets))


def samples_of(law: str, images: int, rng: np.random.Generator, known: Sequence[Sample]) -> list[Sample]:
    """A data set: scenes drawn from the known ones, or new ellipses."""
    if law == "scenes":
        return [known[i] for i in rng.permutation(len(known))[:images]]
    return [lognormal_sample(rng, f"{i:04d}") for i in range(images)]


def named(sample: Sample) -> list[np.ndarray]:
    """The mask that each name of the sample means."""
    names = dict.fromkeys(t.phrase for t in sample.targets)
    return [np.logical_or.reduce([t.mask for t in sample.targets if t.phrase == name]) for name in names]


def maps_of(kind: str, rng: np.random.Generator, masks: torch.Tensor, image: np.ndarray, heads: int) -> np.ndarray:
    """Maps [phrase head row col] of one kind, all positive."""
    n, side = masks.shape[:2]
    noise = rng.normal(size=(n, heads, side, side))
    if kind == "noise":
        return np.exp(noise)
    if kind == "smooth noise":
        blobs = gaussian_filter(noise, sigma=(0, 0, 1.5, 1.5))
        return np.exp(1.5 * blobs / blobs.std())
    if kind == "thing":
        chosen = np.array([rng.choice(np.flatnonzero(image == i), heads) for i in range(image.max() + 1)])[image]
        return np.exp(2 * masks.numpy()[chosen] + 0.5 * noise)
    y, x = np.mgrid[:side, :side] - (0 if kind == "corner" else (side - 1) / 2)
    return np.exp(-np.hypot(y, x) / 2 + 0.3 * noise)


def one_set(law: str, images: int, heads: int, side: int, seed: int, known: Sequence[Sample]) -> list[dict[str, Any]]:
    """A row per kind of map, metric and test: how many of the heads are found."""
    rng = np.random.default_rng([seed, images, LAWS.index(law)])
    samples = samples_of(law, images, rng, known)
    pool, places = MaskPool.of(samples), []
    for sample in samples:
        height, width = size = sample.image.shape[:2]
        grid = PatchGrid(np.zeros((side, side), dtype=np.int64), (0.0, 0.0, float(width), float(height)))
        usual = pool.usual_places(sample.id, size, grid)
        for i, mask in enumerate(named(sample)):
            nulls = pool.of_others(sample.id, i, float(mask.mean()), size, grid, NULLS, seed)
            places.append((coverage(mask[None], grid)[0], usual, stack([nulls], NULLS)[0], sample.id))
    masks, others, nulls = (torch.stack([p[k] for p in places]) for k in range(3))
    ids = [p[3] for p in places]
    image = np.unique(ids, return_inverse=True)[1]
    known_metrics = {name: cast(Metric, plugins.get("metrics", name)) for name in plugins.names("metrics")}
    metrics = {name: metric for name, metric in known_metrics.items() if metric.uses_mask}
    maps = np.stack([maps_of(kind, rng, masks, image, heads) for kind in KINDS], 1)
    attention = torch.from_numpy(maps).float()
    attention /= attention.sum((-1, -2), keepdim=True)
    scores = score_sample(attention, attention, masks, others, nulls, in_image(image), metrics)
    return [
        {"test": test, "law": law, "images": images, "metric": name, "kind": kind, "set": seed, "heads": heads,
         "found": int((p[k] <= 0.05).sum())}
        for name, metric in metrics.items()
        for test, gap in (
            ("things", (scores[name].values - scores[name].null) * (1 if metric.higher_is_better else -1)),
            ("word", scores[name].specificity),
        )
        for p in [intervals.sign_flip(gap, ids, seed=seed, repeats=2000).p]
        for k, kind in enumerate(KINDS)
    ]  # fmt: skip


def in_image(image: np.ndarray) -> np.ndarray:
    """[phrase slot]: the other phrases of each phrase's image, -1 where there are no more."""
    others = [np.flatnonzero((image == own) & (np.arange(len(image)) != i)) for i, own in enumerate(image)]
    most = max(map(len, others))
    return np.array([np.pad(o, (0, most - len(o)), constant_values=-1) for o in others])


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """The share of heads found at 5 %, ``rate``, with its standard error over data sets, ``error``."""
    by = ["test", "law", "images", "metric", "kind"]
    share = rows.assign(share=rows["found"] / rows["heads"]).groupby(by, sort=False)["share"]
    return share.agg(rate="mean", error="sem").reset_index()


def markdown(found: pd.DataFrame) -> str:
    """A line per test, areas, images and metric; a column per kind of map."""
    keys = ["test", "law", "images", "metric"]
    wide = found.pivot(index=keys, columns="kind", values="rate").loc[:, list(KINDS)]
    lines = ["| " + " | ".join([*keys, *KINDS]) + " |", "|" + "---|" * (len(keys) + len(KINDS))]
    for key, row in wide.iterrows():
        lines.append("| " + " | ".join([*map(str, key), *(f"{x:.3f}" for x in row)]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[16, 40, 200])
    parser.add_argument("--laws", nargs="+", choices=LAWS, default=list(LAWS))
    parser.add_argument("--sets", type=int, default=30, help="data sets of each kind (default: 30)")
    parser.add_argument("--heads", type=int, default=10, help="heads of each kind in a data set (default: 10)")
    parser.add_argument("--side", type=int, default=12, help="patches a side (default: 12)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/simulations"))
    options = parser.parse_args()
    known = list(scenes.load(samples=SCENES)) if "scenes" in options.laws else []
    rows = []
    for law in options.laws:
        for images in options.images:
            for seed in range(options.seed, options.seed + options.sets):
                rows += one_set(law, images, options.heads, options.side, seed, known)
            print(
                markdown(table(pd.DataFrame([r for r in rows if (r["law"], r["images"]) == (law, images)]))), flush=True
            )
    found = table(pd.DataFrame(rows))
    options.out.mkdir(parents=True, exist_ok=True)
    found.to_csv(options.out / "false_positives.csv", index=False)
    (options.out / "false_positives.md").write_text(markdown(found))


if __name__ == "__main__":
    main()
