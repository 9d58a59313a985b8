"""Instance segmentation: COCO's average precision and point accuracy (PAcc).

A phrase is an instance of the category whose word vector is nearest to that of its root word, if their cosine is at
least 0.5; categories are those that the image holds (arXiv 2410.08209, section 4.1, and its released code).
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.answer.targets import match_targets
from interp.evaluation import tables as summary
from interp.evaluation.encoders import Vectors, cosine, parser_vectors
from interp.evaluation.overlap import RLE, areas, from_rle
from interp.evaluation.result import Found, Record
from interp.evaluation.tables import Evaluated, Measure
from interp.types import Phrase, Target

THRESHOLD = 0.5
STATS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""The first six of pycocotools' twelve."""


@dataclass(frozen=True)
class Instance:
    """One instance in an image, true or found. ``score`` orders those that are found; ``crowd`` and ``area`` (pixels,
    the mask's if None) are of true ones."""

    image: int | str
    category: str
    mask: RLE
    score: float = 1.0
    crowd: bool = False
    area: float | None = None


def evaluate(
    records: Sequence[Record],
    *,
    vectors: Vectors | Literal["parser"] | None = "parser",
    threshold: float = THRESHOLD,
    among: Literal["image", "all"] = "image",
    seed: int = 0,
) -> Evaluated:
    """AP and PAcc, 0..1, with a row per phrase and per sample.

    ``vectors``: word vectors; "parser" are those of the spaCy pipeline if it has any. None compares nouns by lemma.
    ``among``: a phrase is matched to the categories of its own image, as published, or to all of the data set.
    """
    chosen = parser_vectors() if vectors == "parser" else vectors
    how = f"cosine of word vectors >= {threshold:g}" if chosen else "same noun: no word vectors at hand"
    everything = tuple(sorted({t.phrase for r in records for t in r.truths}))
    phrases, found, truth = [], [], []
    for one in records:
        there = everything if among == "all" else tuple(sorted({t.phrase for t in one.truths}))
        matched = categories_of([f.phrase for f in one.found], there, chosen, threshold)
        names = [f.category or name for f, name in zip(one.found, matched, strict=True)]
        truth += [Instance(one.key, t.phrase, t.mask, 1.0, t.crowd, t.area) for t in one.truths]
        for item, category in zip(one.found, names, strict=True):
            phrases.append(_row(one, item, category))
            if category is not None and areas([item.mask])[0]:  # empty masks are left out, as released
                found.append(Instance(one.key, category, item.mask, 1.0 if item.score is None else item.score))
    table = pd.DataFrame(phrases, columns=["sample_id", "image_id", "phrase", "root", "category", "x", "y", "hit"])
    samples = _samples(records, table)
    scored = (
        "no scores: all equal, in order of the answer" if all(f.score is None for r in records for f in r.found) else ""
    )
    precision = coco_precision(truth, found, [r.key for r in records])
    note = "; ".join(filter(None, [how, scored]))
    measures = [summary.without_interval(n, v, len(truth), "instances", note) for n, v in precision.items()]
    hits = summary.mean_of("pacc", table["hit"].to_numpy(dtype=float), list(table["image_id"]), "phrases", seed, how)
    return Evaluated(summary.frame([*measures, hits, *_coverage(records, table, seed)]), samples, table)


def coco_precision(
    truth: Sequence[Instance], found: Sequence[Instance], images: Sequence[int | str] | None = None, most: int = 100
) -> dict[str, float]:
    """COCO's average precision over IoU 0.50:0.95, at 0.50, at 0.75, and of small, medium and large instances.

    0..1, by pycocotools' COCOeval, ``most`` detections an image; NaN where it says -1: nothing of that kind is there.
    Where scores are equal, images count in the order of their ids (numbers as numbers, texts as texts) and instances in
    the order given.
    """
    from pycocotools.cocoeval import COCOeval

    names = sorted({i.category for i in truth} | {i.category for i in found})
    order = _ordered({*(images or ()), *(i.image for i in truth), *(i.image for i in found)})
    if not truth:
        return dict.fromkeys(STATS, float("nan"))
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
        run = COCOeval(_coco(truth, order, names), _coco(found, order, names), "segm")
        run.params.maxDets = [1, 10, most]
        run.evaluate()
        run.accumulate()
        run.summarize()
    return {name: float("nan") if v < 0 else float(v) for name, v in zip(STATS, run.stats, strict=False)}


def point_accuracy(
    points: Float[np.ndarray, "phrase 2"],
    categories: Sequence[str | None],
    truths: Sequence[tuple[str, RLE]],
    size: tuple[int, int],
) -> Float[np.ndarray, " phrase"]:
    """1 where the point (x, y) lies inside the union of its category's masks, else 0; their mean is PAcc.

    NaN for a phrase without category or point: the released code leaves those out. 0 for a category that is not there.
    """
    hits = np.full(len(categories), np.nan)
    for i, (point, category) in enumerate(zip(points, categories, strict=True)):
        if category is not None and not np.isnan(point).any():
            x, y = (int(v) for v in point)
            masks = [from_rle(rle, size, name) for name, rle in truths if name == category]
            inside = 0 <= x < size[1] and 0 <= y < size[0]
            hits[i] = float(inside and any(mask[y, x] for mask in masks))
    return hits


def categories_of(
    phrases: Sequence[Phrase], categories: Sequence[str], vectors: Vectors | None = None, threshold: float = THRESHOLD
) -> list[str | None]:
    """Each phrase's category, or None: the one nearest to its root word by cosine, from ``threshold`` on.

    Without vectors, the category that the phrase names by its nouns (`interp.answer.targets.match_targets`).
    """
    if not categories or not phrases:
        return [None] * len(phrases)
    if vectors is None:
        flags = np.eye(len(categories), dtype=bool)[:, None]
        named = dict(match_targets(phrases, [Target(c, f) for c, f in zip(categories, flags, strict=True)]))
        return [categories[int(named[i][0].argmax())] if i in named else None for i in range(len(phrases))]
    own, theirs = vectors([_bare(p.root) for p in phrases]), vectors([_bare(c) for c in categories])
    likeness = cosine(own, theirs)
    best = likeness.argmax(1)
    return [categories[int(k)] if likeness[i, k] >= threshold else None for i, k in enumerate(best)]


def _bare(text: str) -> str:
    """In lower case, without a leading article."""
    text = text.lower()
    return next((text.removeprefix(a) for a in ("the ", "an ", "a ") if text.startswith(a)), text)


def _row(one: Record, item: Found, category: str | None) -> dict[str, Any]:
    point = np.array([item.point or (np.nan, np.nan)])
    truths = [(t.phrase, t.mask) for t in one.truths]
    return {
        "sample_id": one.sample_id,
        "image_id": one.image_id,
        "phrase": item.phrase.text,
        "root": item.phrase.root,
        "category": category or "",
        "x": point[0, 0],
        "y": point[0, 1],
        "hit": point_accuracy(point, [category], truths, one.size)[0],
    }


def _samples(records: Sequence[Record], table: pd.DataFrame) -> pd.DataFrame:
    hits: dict[str, list[float]] = {}
    for name, hit in zip(table["sample_id"], table["hit"].to_numpy(dtype=float), strict=True):
        hits.setdefault(str(name), []).extend([hit] if np.isfinite(hit) else [])
    ids = [r.sample_id for r in records]
    return pd.DataFrame(
        {
            "sample_id": ids,
            "image_id": [r.image_id for r in records],
            "answer": [r.answer for r in records],
            "instances": [len(r.truths) for r in records],
            "phrases": [len(r.found) for r in records],
            "matched": [len(hits.get(i, ())) for i in ids],
            "hits": [int(sum(hits.get(i, ()))) for i in ids],
            "failed": [r.failed or "" for r in records],
        }
    )


def _coverage(records: Sequence[Record], table: pd.DataFrame, seed: int) -> list[Measure]:
    """Share of each image's categories that some phrase was matched to: PAcc says nothing of what was left unsaid."""
    said = set(zip(table["sample_id"], table["category"], strict=True))
    rows = [((r.sample_id, c) in said, r.image_id) for r in records for c in sorted({t.phrase for t in r.truths})]
    values = np.array([float(named) for named, _ in rows])
    return [summary.mean_of("categories_named", values, [i for _, i in rows], "categories", seed)]


def _ordered(images: set[int | str]) -> dict[int | str, int]:
    """Image -> number in the order in which COCOeval sorts the ids: numbers as such, texts (or both) as texts."""
    numbers = all(isinstance(i, int) for i in images)
    return {name: n for n, name in enumerate(sorted(images, key=None if numbers else str), 1)}  # type: ignore[type-var]


def _coco(instances: Sequence[Instance], order: dict[int | str, int], names: Sequence[str]) -> Any:
    """pycocotools' COCO of these instances, made in memory."""
    from pycocotools.coco import COCO

    pixels = areas([i.mask for i in instances])
    annotations = [
        {
            "id": n,
            "image_id": order[i.image],
            "category_id": names.index(i.category) + 1,
            "segmentation": i.mask,
            "area": float(pixels[n - 1]) if i.area is None else i.area,
            "iscrowd": int(i.crowd),
            "score": i.score,
        }
        for n, i in enumerate(instances, 1)
    ]
    sizes = {name: (0, 0) for name in order} | {i.image: tuple(i.mask["size"]) for i in instances}
    made: Any = COCO()
    made.dataset = {
        "images": [{"id": order[name], "height": h, "width": w} for name, (h, w) in sizes.items()],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, 1)],
        "annotations": annotations,
    }
    made.createIndex()
    return made
