"""Which heads make the maps: all, the released code's, the best few or a weighted mean, chosen on validation images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from head_choice import images
from interp import plugins
from interp.answer.maps import coverage, phrase_maps
from interp.statistics.scores import HeadScores
from interp.types import Head, Sample, Skip

TOP = {"top 1": 1, "top 3": 3, "top 10": 10}
NORMALISE = ("answer", "none")


@dataclass(frozen=True)
class Variant:
    """Which heads make a phrase's map, with which weights, from which maps."""

    name: str
    normalise: str
    heads: Any
    weights: tuple[float, ...] | None = None


def choose(lmm: Any, samples: Any, metric: str, batch: int, store: Any) -> tuple[tuple[Variant, ...], float]:
    """The variants, and the radius of a disc of the median target's area as a share of the image's height.

    Heads are ranked by the metric's mean over validation phrases, for each normalisation apart. Weights are how far
    that mean lies above chance, 0 for heads below it.
    """
    scores: dict[str, list[np.ndarray]] = {n: [] for n in NORMALISE}
    radii, chances = [], []
    for key, group in images.groups(lmm, samples, batch, {"metric": metric}):
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
    scores: dict[str, list[np.ndarray]] = {n: [np.zeros((0, lmm.layers, lmm.heads))] for n in NORMALISE}
    radii, chances = [np.zeros(0)], [np.zeros(0)]
    for found in images.named(lmm, group):
        if isinstance(found, Skip):
            continue
        _, capture, named = found
        masks = np.stack([mask for _, mask in named])
        shares = coverage(masks, capture.grid)
        for n in NORMALISE:
            maps = phrase_maps(capture, "none" if module.raw else n).maps[[i for i, _ in named]]
            scores[n].append(module.score(maps.float(), shares, torch.zeros_like(shares)).numpy())
        radii.append(np.sqrt(masks.sum((1, 2)) / np.pi) / masks.shape[1])
        chances.append(module.chance(shares).numpy())
    joined = {n: np.concatenate(parts) for n, parts in scores.items()}
    return {**joined, "radius": np.concatenate(radii), "chance": np.concatenate(chances)}


def told(variant: Variant) -> Any:
    """The variant's heads as plain values; weights only if there are some."""
    if isinstance(variant.heads, str):
        return variant.heads
    listed = [str(Head(*head)) for head in variant.heads]
    return listed if variant.weights is None else dict(zip(listed, variant.weights, strict=True))
