"""Grounded conversation generation (GCG, GranD-f): AP50, mIoU, mask recall, METEOR and CIDEr.

As the released evaluation of GLaMM (Rasheed et al. 2024, arXiv 2311.03356, section 5.1) and, after it, of
Attend-and-Segment (arXiv 2410.08209, section 4.2) computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.evaluation import captions
from interp.evaluation import tables as summary
from interp.evaluation.encoders import Encoder, cosine
from interp.evaluation.instances import Instance, coco_precision
from interp.evaluation.overlap import pairwise_iou
from interp.evaluation.result import Record
from interp.evaluation.tables import Evaluated, Measure

IOU = SIMILARITY = 0.5
Pair = tuple[int, int]
"""(true phrase, found phrase)."""


def evaluate(
    records: Sequence[Record], *, encoder: Encoder | str, seed: int = 0, java: bool | None = None
) -> Evaluated:
    """All measures, with a row per true phrase and per sample.

    ``encoder`` says how alike phrases are; a text in its place is the reason why there is none, and mask recall is NaN
    with that reason.
    """
    likeness = None if isinstance(encoder, str) else _Likeness(records, encoder)
    samples, phrases = [], []
    for one in records:
        row, own = _sample(one, likeness)
        samples.append(row)
        phrases += own
    told = pd.DataFrame(
        phrases, columns=["sample_id", "image_id", "phrase", "best_iou", "recalled", "recalled_corrected"]
    )
    table = pd.DataFrame(samples)
    written = [r for r in records if r.captions]
    texts = captions.score([r.answer for r in written], [r.captions for r in written], java)
    table["cider"] = pd.Series(texts.each, index=[i for i, r in enumerate(records) if r.captions], dtype=float)
    reason = encoder if isinstance(encoder, str) else ""
    clusters = list(told["image_id"])
    measures = [
        _precision(records),
        summary.mean_of("miou", table["miou"].to_numpy(dtype=float), list(table["image_id"]), "images", seed),
        summary.mean_of("mask_recall", told["recalled"].to_numpy(dtype=float), clusters, "phrases", seed, reason),
        summary.mean_of(
            "mask_recall_corrected",
            told["recalled_corrected"].to_numpy(dtype=float),
            clusters,
            "phrases",
            seed,
            reason or "goes on after a pair that fails",
        ),
        *_caption_measures(texts, table, seed),
    ]
    return Evaluated(summary.frame(measures), table, told)


def mean_iou(iou: Float[np.ndarray, "found truth"]) -> float:
    """Mean IoU 0..1 of the pairs of one image: the pair of highest IoU first, each mask in one pair, until none
    overlaps; 0 where no pair does. True masks without a partner do not lower it: the mean is over pairs, as released.
    Where both masks of a pair are empty their IoU is undefined and the pair is left out; in the released code its NaN
    makes the whole image's value 0.

    >>> mean_iou(np.array([[0.9, 0.8], [0.7, 0.0]]))  # 0.9 first; what is left does not overlap
    0.9
    """
    pairs = _greedy(iou, iou > 0)
    return float(np.mean([iou[pair] for pair in pairs])) if pairs else 0.0


def released_pairs(iou: Float[np.ndarray, "truth found"], similarity: Float[np.ndarray, "truth found"]) -> list[Pair]:
    """The pairs that mask recall counts as released: greedily by highest IoU, stopping at the first pair that fails.

    A pair passes with IoU >= 0.5 and similarity >= 0.5. The pair of highest IoU whose phrases are unlike ends the count
    for the image, even if others would pass. Of equal IoUs the first in reading order counts. Undefined IoUs (both
    masks empty) fail.

    >>> iou = np.array([[0.9, 0.0], [0.0, 0.6]])  # 2 true masks, 2 found ones
    >>> alike = np.array([[0.1, 0.0], [0.0, 0.8]])  # the best pair is called something else
    >>> released_pairs(iou, alike)
    []
    """
    left, pairs = np.nan_to_num(iou, nan=0.0), []
    while left.size:
        pair = _highest(left)
        if left[pair] < IOU or not similarity[pair] >= SIMILARITY:
            break
        pairs.append(pair)
        left[pair[0]] = left[:, pair[1]] = 0.0
    return pairs


def corrected_pairs(iou: Float[np.ndarray, "truth found"], similarity: Float[np.ndarray, "truth found"]) -> list[Pair]:
    """The same, but a pair that fails is passed over: greedily by highest IoU among the pairs that pass.

    >>> iou = np.array([[0.9, 0.0], [0.0, 0.6]])  # 2 true masks, 2 found ones
    >>> alike = np.array([[0.1, 0.0], [0.0, 0.8]])  # the best pair is called something else
    >>> corrected_pairs(iou, alike)
    [(1, 1)]
    """
    with np.errstate(invalid="ignore"):
        return _greedy(iou, (iou >= IOU) & (similarity >= SIMILARITY))


def _greedy(iou: np.ndarray, admitted: np.ndarray) -> list[Pair]:
    left, pairs = np.where(admitted, iou, -1.0), []
    while left.size and left.max() >= 0:
        pair = _highest(left)
        pairs.append(pair)
        left[pair[0]] = left[:, pair[1]] = -1.0
    return pairs


def _highest(left: np.ndarray) -> Pair:
    row, col = np.unravel_index(int(left.argmax()), left.shape)
    return int(row), int(col)


class _Likeness:
    """Cosines of the phrases of a data set; each text is encoded once."""

    def __init__(self, records: Sequence[Record], encoder: Encoder):
        texts = {t.phrase for r in records for t in r.truths} | {f.phrase.text for r in records for f in r.found}
        ordered = sorted(texts)
        self.place = {text: i for i, text in enumerate(ordered)}
        self.vectors = np.asarray(encoder(ordered)) if ordered else np.zeros((0, 1))
        if self.vectors.ndim != 2 or len(self.vectors) != len(ordered):
            raise ValueError(
                f"the text encoder gave an array {self.vectors.shape} for {len(ordered)} texts; expected (text, dim)"
            )

    def __call__(self, first: Sequence[str], second: Sequence[str]) -> np.ndarray:
        a, b = (self.vectors[[self.place[t] for t in some]] for some in (first, second))
        return cosine(a, b)


def _sample(one: Record, likeness: _Likeness | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The sample's row, and a row per true phrase."""
    truth, found = [t.mask for t in one.truths], [f.mask for f in one.found]
    iou = pairwise_iou(found, truth).T
    recalled = np.full((2, len(truth)), np.nan)
    if likeness is not None:
        alike = likeness([t.phrase for t in one.truths], [f.phrase.text for f in one.found])
        for i, pairs in enumerate((released_pairs(iou, alike), corrected_pairs(iou, alike))):
            recalled[i] = np.isin(np.arange(len(truth)), [row for row, _ in pairs])
    best = np.nan_to_num(iou).max(1, initial=0.0)
    phrases = [
        {
            "sample_id": one.sample_id,
            "image_id": one.image_id,
            "phrase": t.phrase,
            "best_iou": float(best[i]),
            "recalled": recalled[0, i],
            "recalled_corrected": recalled[1, i],
        }
        for i, t in enumerate(one.truths)
    ]
    row = {
        "sample_id": one.sample_id,
        "image_id": one.image_id,
        "answer": one.answer,
        "true_phrases": len(truth),
        "found_phrases": len(found),
        "recalled": recalled[0].sum() if likeness else np.nan,
        "miou": mean_iou(iou.T),
        "failed": one.failed or "",
    }
    return row, phrases


def _precision(records: Sequence[Record]) -> Measure:
    """COCO's AP at IoU 0.5 with one category and all scores equal, as released; images in the order of their ids."""
    truth = [Instance(r.key, "object", t.mask, 1.0, t.crowd, t.area) for r in records for t in r.truths]
    found = [Instance(r.key, "object", f.mask) for r in records for f in r.found]
    value = coco_precision(truth, found, [r.key for r in records])["ap50"]
    note = "one category, all scores equal: it depends on the order of the images' ids, as released"
    return summary.without_interval("ap50", value, len(truth), "masks", note)


def _caption_measures(texts: captions.CaptionScores, table: pd.DataFrame, seed: int) -> list[Measure]:
    note = f"tokeniser: {texts.tokeniser}"
    cider = summary.mean_of(
        "cider",
        table["cider"].to_numpy(dtype=float),
        list(table["image_id"]),
        "captions",
        seed,
        texts.notes.get("cider", note),
    )
    meteor = summary.without_interval("meteor", texts.meteor, cider.n, "captions", texts.notes.get("meteor", note))
    return [meteor, cider]
