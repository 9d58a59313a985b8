"""Every variant's masks on the test images, and how well they and their points meet the targets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

import interp
from head_choice import images
from head_choice.variants import NORMALISE, Variant
from interp.answer.maps import phrase_maps, reduce_heads
from interp.answer.pixels import argmax_points, to_pixels
from interp.types import Prompts, Sample, Skip

POINTS = ("centre point", "random point")
IDS = ("sample_id", "image_id", "phrase")


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


def measure(setting: Setting, samples: Any, batch: int, store: Any) -> tuple[pd.DataFrame, list[Skip]]:
    """A row per phrase, variant and segmenter: ``iou``, ``recall`` (IoU >= 0.5) and ``point`` (in the target), 0..1."""
    about = {
        "variants": repr(setting.variants),
        "radius": setting.radius,
        "seed": setting.seed,
        "ids": IDS,
        "segmenters": {name: interp.fingerprint(getattr(s, "model", None)) for name, s in setting.segmenters.items()},
    }
    names = [(v.name, v.normalise) for v in setting.variants] + [(p, "") for p in POINTS]
    frames, skipped = [], []
    for key, group in images.groups(setting.lmm, samples, batch, about):
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
    ids: list[tuple[str, str, str]] = []
    skipped: list[tuple[str, str]] = []
    for found in images.named(setting.lmm, group, setting.query):
        if isinstance(found, Skip):
            skipped.append((found.sample_id, found.reason))
            continue
        sample, capture, named = found
        iou, hit = one_image(setting, sample, capture, named)
        ious.append(iou)
        hits.append(hit)
        ids += [(sample.id, sample.image_id, capture.phrases[i].text) for i, _ in named]
    return {
        "iou": np.concatenate(ious),
        "hit": np.concatenate(hits),
        "ids": np.array(ids, dtype=str).reshape(-1, len(IDS)),
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


def _frame(arrays: dict[str, np.ndarray], names: Sequence[tuple[str, str]], segmenters: Sequence[str]) -> pd.DataFrame:
    n, v, s = arrays["iou"].shape
    ids = np.repeat(arrays["ids"], v * s, axis=0)
    return pd.DataFrame(
        {
            **dict(zip(IDS, ids.T, strict=True)),
            "heads": np.tile(np.repeat([name for name, _ in names], s), n),
            "normalise": np.tile(np.repeat([normalise for _, normalise in names], s), n),
            "segmenter": np.tile(list(segmenters), n * v),
            "iou": arrays["iou"].ravel(),
            "recall": (arrays["iou"].ravel() >= 0.5).astype(float),
            "point": np.repeat(arrays["hit"].ravel(), s),
        }
    )
