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
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

import interp
from interp import plugins
from interp.answer.capturing import captures
from interp.answer.maps import argmax_points, coverage, phrase_maps, reduce_heads, to_pixels
from interp.answer.targets import match_targets
from interp.models._identity import fingerprint, hash_weights
from interp.plots.style import BEST, MEAN, style
from interp.report.files import write_bytes
from interp.report.run import Run
from interp.statistics import intervals
from interp.statistics.scores import HeadScores
from interp.types import Head, Prompts, Sample, Skip
from interp.work.store import key_of

TOP = {"top 1": 1, "top 3": 3, "top 10": 10}
NORMALISE = ("answer", "none")
POINTS = ("centre point", "random point")
MEASURES = {"iou": "mean IoU", "recall": "recall at IoU 0.5", "point": "point in target"}


@dataclass(frozen=True)
class Variant:
    """Which heads make a phrase's map, with which weights, from which maps."""

    name: str
    normalise: str
    heads: Any
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Setting:
    """What every image of a model has in common. ``radius`` is that of a disc of the median validation target's area,
    as a share of the image's height: what segmenters that need a map get for a point."""

    lmm: Any
    segmenters: dict[str, Any]
    variants: tuple[Variant, ...]
    radius: float
    seed: int
    query: str = "predicting"


def main() -> None:
    """Runs the study and prints the table."""
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
    segmenters = {name: interp.load_segmenter(name, device=a.device) for name in a.segmenters}
    arguments = {k: v for k, v in vars(a).items() if k not in ("out", "force")}
    lmms = {name: interp.load(name, device=a.device) for name in a.models}
    weights = "-".join(hash_weights(lmm.model)[:16] for lmm in lmms.values())
    run = Run.open(a.out, arguments, weights=weights, seed=a.seed, force=a.force)
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
    phrases = pd.concat(frames, ignore_index=True)
    run.write_table("phrases", phrases)
    table = summarise(phrases, a.seed)
    run.manifest["heads"] = chosen
    run.write_table("summary", table)
    write_bytes(a.out / "figures" / "segment_heads.csv", table.to_csv(index=False).encode())
    write_bytes(a.out / "figures" / "segment_heads.md", markdown(table).encode())
    draw(table).savefig(a.out / "figures" / "segment_heads.png", metadata={"Software": None})
    run.finish([{"sample_id": s.sample_id, "reason": s.reason} for s in skipped])
    print(markdown(table))


# --- choosing heads, on the validation split -------------------------------------------------------------------------


def choose(lmm: Any, samples: Any, metric: str, batch: int, store: Any) -> tuple[tuple[Variant, ...], float]:
    """The variants, and the radius of a disc of the median target's area as a share of the image's height.

    Heads are ranked by the metric's mean over validation phrases, for each normalisation apart. Weights are how far
    that mean lies above chance, 0 for heads below it.
    """
    scores: dict[str, list[np.ndarray]] = {n: [] for n in NORMALISE}
    radii, chances = [], []
    for key, group in groups(lmm, samples, batch, {"metric": metric}):
        arrays = store.get(key)
        if arrays is None:
            arrays = _score_group(lmm, group, metric)
            store.put(key, arrays)
        for n in NORMALISE:
            scores[n].append(arrays[n])
        radii.append(arrays["radius"])
        chances.append(arrays["chance"])
    if not any(len(r) for r in radii):
        raise SystemExit("no validation phrase names a target; give more images with --validation")
    chance = float(np.nanmean(np.concatenate(chances)))
    variants = [v for n in NORMALISE for v in _variants(n, np.concatenate(scores[n]), chance, metric)]
    return tuple(variants), float(np.median(np.concatenate(radii)))


def _variants(normalise: str, values: np.ndarray, chance: float, metric: str) -> Iterator[Variant]:
    table = HeadScores(metric, plugins.get("metrics", metric).higher_is_better, (), (), values)
    mean, (layers, heads) = table.mean(), values.shape[1:]
    yield Variant("all heads (paper)", normalise, "all")
    if heads >= 2:
        yield Variant("released heads", normalise, "released")
    for name, k in TOP.items():
        yield Variant(name, normalise, table.top(k))
    excess = np.nan_to_num((mean - (0 if np.isnan(chance) else chance)).clip(0))
    if excess.any():
        every = [Head(layer, head) for layer in range(layers) for head in range(heads)]
        yield Variant("weighted heads", normalise, every, tuple(float(w) for w in excess.ravel()))


def _score_group(lmm: Any, group: Sequence[Sample], metric: str) -> dict[str, np.ndarray]:
    module = plugins.get("metrics", metric)
    found: dict[str, list[np.ndarray]] = {n: [np.zeros((0, lmm.layers, lmm.heads))] for n in NORMALISE}
    radii, chances = [np.zeros(0)], [np.zeros(0)]
    for sample, capture in zip(group, captures(lmm, group, batch=len(group)), strict=True):
        if isinstance(capture, Skip) or not (named := match_targets(capture.phrases, sample.targets)):
            continue
        masks = np.stack([mask for _, mask in named])
        shares = coverage(masks, capture.grid)
        for n in NORMALISE:
            maps = phrase_maps(capture, "none" if module.raw else n).maps[[i for i, _ in named]]
            found[n].append(module.score(maps.float(), shares, torch.zeros_like(shares)).numpy())
        radii.append(np.sqrt(masks.sum((1, 2)) / np.pi) / masks.shape[1])
        chances.append(module.chance(shares).numpy())
    joined = {n: np.concatenate(parts) for n, parts in found.items()}
    return {**joined, "radius": np.concatenate(radii), "chance": np.concatenate(chances)}


# --- measuring, on the test split --------------------------------------------------------------------------------


def measure(setting: Setting, samples: Any, batch: int, store: Any) -> tuple[pd.DataFrame, list[Skip]]:
    """A row per phrase, variant and segmenter: ``iou``, ``recall`` (IoU >= 0.5) and ``point`` (in the target), 0..1."""
    about = {
        "variants": repr(setting.variants),
        "radius": setting.radius,
        "seed": setting.seed,
        "segmenters": {name: fingerprint(getattr(s, "model", None)) for name, s in setting.segmenters.items()},
    }
    names = [(v.name, v.normalise) for v in setting.variants] + [(p, "") for p in POINTS]
    frames, skipped = [], []
    for key, group in groups(setting.lmm, samples, batch, about):
        arrays = store.get(key)
        if arrays is None:
            arrays = _measure_group(setting, group)
            store.put(key, arrays)
        skipped += [Skip(*row) for row in arrays["skipped"].tolist()]
        frames.append(_frame(arrays, names, list(setting.segmenters)))
    return pd.concat(frames, ignore_index=True), skipped


def _measure_group(setting: Setting, group: Sequence[Sample]) -> dict[str, np.ndarray]:
    shape = (0, len(setting.variants) + len(POINTS))
    ious, hits = [np.zeros((*shape, len(setting.segmenters)))], [np.zeros(shape)]
    ids: list[tuple[str, str]] = []
    skipped: list[tuple[str, str]] = []
    found = captures(setting.lmm, group, batch=len(group), query=setting.query)
    for sample, capture in zip(group, found, strict=True):
        if isinstance(capture, Skip):
            skipped.append((capture.sample_id, capture.reason))
            continue
        named = match_targets(capture.phrases, sample.targets)
        if not named:
            skipped.append((sample.id, "no phrase of the answer names a target"))
            continue
        iou, hit = one_image(setting, sample, capture, named)
        ious.append(iou)
        hits.append(hit)
        ids += [(sample.id, capture.phrases[i].text) for i, _ in named]
    return {
        "iou": np.concatenate(ious),
        "hit": np.concatenate(hits),
        "ids": np.array(ids, dtype=str).reshape(-1, 2),
        "skipped": np.array(skipped, dtype=str).reshape(-1, 2),
    }


def one_image(
    setting: Setting, sample: Sample, capture: Any, named: Sequence[tuple[int, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """IoU [phrase, variant, segmenter] and whether the point is in the target [phrase, variant].

    The maps of all variants go to a segmenter in one call, so that the image is embedded once.
    """
    rows, truth = [i for i, _ in named], np.stack([mask for _, mask in named])
    size = truth.shape[1:]
    normal = {n: phrase_maps(capture, n).maps[rows].float() for n in NORMALISE}
    maps = torch.cat([reduce_heads(normal[v.normalise], v.heads, v.weights) for v in setting.variants])
    over = to_pixels(maps, capture.grid, size)
    fixed = baseline_points(sample.id, len(rows), size, setting.seed)
    points = np.concatenate([argmax_points(over), *fixed])
    bumps = torch.cat([over, torch.from_numpy(discs(np.concatenate(fixed), size, setting.radius)).float()])
    count = len(setting.variants) + len(POINTS)
    hit = inside(points, np.tile(truth, (count, 1, 1))).reshape(count, len(rows)).T
    ious = []
    for segmenter in setting.segmenters.values():
        embedded = segmenter.embed(sample.image)
        made = segmenter.propose(embedded, Prompts(points=points[:, None], maps=bumps))
        last = -1 if segmenter.choice == "last" else None
        masks = made.masks[:, last] if last else best_of(made)
        masks = masks & np.isfinite(points).all(1)[:, None, None]
        ious.append(overlap(masks.reshape(count, len(rows), *size), truth).T)
    return np.stack(ious, -1), hit


def best_of(made: Any) -> np.ndarray:
    """Of each phrase's candidates that of the highest score."""
    return made.masks[np.arange(len(made.masks)), np.nan_to_num(made.scores, nan=-1).argmax(1)]


def baseline_points(name: str, phrases: int, size: Sequence[int], seed: int) -> list[np.ndarray]:
    """(x, y) for every phrase: the image's centre, and a point drawn uniformly, by the sample's id and the seed."""
    centre = np.tile([size[1] // 2, size[0] // 2], (phrases, 1)).astype(float)
    stream = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big")
    drawn = np.random.default_rng(stream).integers(0, (size[1], size[0]), (phrases, 2)).astype(float)
    return [centre, drawn]


def discs(points: np.ndarray, size: Sequence[int], radius: float) -> np.ndarray:
    """A bump at each point that falls to one half at ``radius`` times the image's height."""
    y, x = np.mgrid[: size[0], : size[1]]
    square = (x - points[:, 0, None, None]) ** 2 + (y - points[:, 1, None, None]) ** 2
    return np.exp(-np.log(2) * square / (radius * size[0]) ** 2)


def inside(points: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """1.0 where the point (x, y) lies in its mask, else 0.0; also 0.0 for a map that gave no point."""
    fine = np.isfinite(points).all(1)
    x, y = np.where(fine[:, None], points, 0).astype(int).T
    return (masks[np.arange(len(masks)), y, x] & fine).astype(float)


def overlap(masks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """IoU [variant, phrase] of masks [variant, phrase, height, width] with the phrases' targets."""
    shared = (masks & truth).sum((2, 3))
    return shared / (masks | truth).sum((2, 3))


# --- helpers, table and figure -------------------------------------------------------------------------------------


def groups(lmm: Any, samples: Any, batch: int, about: dict[str, Any]) -> Iterator[tuple[str, list[Sample]]]:
    """The readable samples in batches, with each batch's key in the store."""
    settings = {"model": lmm.name, "weights": fingerprint(lmm.model), "version": interp.__version__, **about}
    some = (s for s in samples if isinstance(s, Sample))
    with tqdm(desc=f"{lmm.name}: {'choosing' if 'metric' in about else 'measuring'}", unit="image") as bar:
        while group := list(islice(some, batch)):
            yield key_of(settings, group).replace("scores", "segment"), group
            bar.update(len(group))


def _frame(arrays: dict[str, np.ndarray], names: Sequence[tuple[str, str]], segmenters: Sequence[str]) -> pd.DataFrame:
    n, v, s = arrays["iou"].shape
    ids = np.repeat(arrays["ids"], v * s, axis=0)
    return pd.DataFrame(
        {
            "sample_id": ids[:, 0],
            "phrase": ids[:, 1],
            "heads": np.tile(np.repeat([name for name, _ in names], s), n),
            "normalise": np.tile(np.repeat([normalise for _, normalise in names], s), n),
            "segmenter": np.tile(list(segmenters), n * v),
            "iou": arrays["iou"].ravel(),
            "recall": (arrays["iou"].ravel() >= 0.5).astype(float),
            "point": np.repeat(arrays["hit"].ravel(), s),
        }
    )


def summarise(phrases: pd.DataFrame, seed: int) -> pd.DataFrame:
    """A row per model, segmenter, heads, normalisation and measure: mean, 95 % interval over images, and the difference
    to the paper's mean of all heads on the same phrases with its interval."""
    rows = []
    by = ["model", "segmenter", "heads", "normalise"]
    for _, own in phrases.groupby(["model", "segmenter"], sort=False):
        paper = own[(own["heads"] == "all heads (paper)") & (own["normalise"] == "answer")]
        for names, some in own.groupby(by, sort=False):
            clusters = list(some["sample_id"])
            for measure_name in MEASURES:
                values, base = some[measure_name].to_numpy(float), paper[measure_name].to_numpy(float)
                low, high = intervals.bootstrap(values, clusters, seed=seed)
                worse, better = intervals.bootstrap(values - base, clusters, seed=seed, rates=False)
                rows.append(
                    {
                        **dict(zip(by, names, strict=True)),
                        "measure": measure_name,
                        "value": float(values.mean()),
                        "low": float(low),
                        "high": float(high),
                        "difference": float((values - base).mean()),
                        "difference_low": float(worse),
                        "difference_high": float(better),
                        "phrases": len(values),
                        "images": some["sample_id"].nunique(),
                    }
                )
    return pd.DataFrame(rows)


def told(variant: Variant) -> Any:
    """The variant's heads as plain values; weights only if there are some."""
    if isinstance(variant.heads, str):
        return variant.heads
    listed = [str(Head(*head)) for head in variant.heads]
    return listed if variant.weights is None else dict(zip(listed, variant.weights, strict=True))


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown: one line per variant, measures as columns with their intervals."""
    lines = []
    for (model, segmenter), own in table.groupby(["model", "segmenter"], sort=False):
        images, phrases = own["images"].iloc[0], own["phrases"].iloc[0]
        lines += [f"### {model}, masks by {segmenter} ({phrases} phrases of {images} images)", ""]
        lines += ["| heads | less the answer's mean | " + " | ".join(MEASURES.values()) + " | IoU less the paper's |"]
        lines += ["| --- | --- |" + " --- |" * (len(MEASURES) + 1)]
        for (heads, normalise), some in own.groupby(["heads", "normalise"], sort=False):
            at = some.set_index("measure")
            cells = [f"{at.value[m]:.3f} ({at.low[m]:.3f}..{at.high[m]:.3f})" for m in MEASURES]
            gap = f"{at.difference['iou']:+.3f} ({at.difference_low['iou']:+.3f}..{at.difference_high['iou']:+.3f})"
            said = {"answer": "yes", "none": "no", "": "–"}[str(normalise)]
            lines.append(f"| {heads} | {said} | {' | '.join(cells)} | {gap} |")
        lines.append("")
    return "\n".join(lines)


def draw(table: pd.DataFrame) -> Figure:
    """A column per model, a row per measure; points with intervals, filled where the answer's mean was subtracted."""
    models, segmenters = list(table["model"].unique()), list(table["segmenter"].unique())
    order = list(dict.fromkeys(table["heads"]))[::-1]
    colours = dict(zip(segmenters, (BEST, MEAN, "#009e73", "#cc79a7"), strict=False))
    with style():
        figure = Figure(figsize=(4.2 * len(models) + 1.6, 2.5 * len(MEASURES)), layout="constrained")
        axes = figure.subplots(len(MEASURES), len(models), squeeze=False, sharey=True, sharex="row")
        for row, (name, label) in enumerate(MEASURES.items()):
            for column, model in enumerate(models):
                ax = axes[row, column]
                own = table[(table["model"] == model) & (table["measure"] == name)]
                for k, segmenter in enumerate(segmenters[:1] if name == "point" else segmenters):
                    _points(ax, own[own["segmenter"] == segmenter], order, colours[segmenter], 0.3 * k, name, segmenter)
                ax.set_yticks(range(len(order)), order)
                ax.set_xlim(left=0)
                ax.grid(axis="x", linewidth=0.4, alpha=0.5)
                ax.set_xlabel(label)
                if row == 0:
                    ax.set_title(Path(model).name)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(segmenters), fontsize=8)
        figure.supxlabel(
            "filled: less the answer's mean map; open: attention as it is; 95 % intervals over images", fontsize=8
        )
    return figure


def _points(ax: Any, own: pd.DataFrame, order: Sequence[str], colour: str, shift: float, name: str, label: str) -> None:
    colour = "#333333" if name == "point" else colour
    for normalise, offset, fill in (("answer", 0.08, colour), ("none", -0.08, "white"), ("", 0.0, colour)):
        some = own[own["normalise"] == normalise]
        y = np.array([order.index(h) for h in some["heads"]], dtype=float) + offset - shift
        error = np.abs(some[["low", "high"]].to_numpy(float).T - some["value"].to_numpy(float))
        ax.errorbar(
            some["value"],
            y,
            xerr=np.nan_to_num(error),
            fmt="o",
            markersize=4,
            color=colour,
            markerfacecolor=fill,
            linewidth=1,
            label=label if normalise == "answer" and name != "point" else None,
        )


if __name__ == "__main__":
    main()
