"""Referring expressions: cIoU, gIoU, precision at 0.5, and box accuracy at 0.5 (RefCOCO, RefCOCO+, RefCOCOg)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.evaluation import tables as summary
from interp.evaluation.overlap import RLE, areas, box_iou, boxes, shared_pixels, to_rles
from interp.evaluation.result import Record
from interp.evaluation.tables import Evaluated, Measure
from interp.statistics import intervals

THRESHOLD = 0.5


def evaluate(records: Sequence[Record], *, seed: int = 0) -> Evaluated:
    """The measures with their intervals, and a row per expression. An expression without a mask counts as IoU 0.

    Raises:
        ValueError: a record that has not exactly one true mask.
    """
    wrong = [r for r in records if len(r.truths) != 1]
    if wrong:
        raise ValueError(
            f"{wrong[0].sample_id!r} has {len(wrong[0].truths)} targets; a referring expression has one: take a data "
            "set such as refcoco"
        )
    found = [r.found[0].mask if r.found else _nothing(r.size) for r in records]
    own = [r.truths[0].box or (np.nan,) * 4 for r in records]
    rows = compare(found, [r.truths[0].mask for r in records], np.array(own, dtype=float).reshape(-1, 4))
    about = pd.DataFrame(
        {
            "sample_id": [r.sample_id for r in records],
            "image_id": [r.image_id for r in records],
            "phrase": [r.truths[0].phrase for r in records],
        }
    )
    table = pd.concat([about, rows, pd.Series([r.failed or "" for r in records], name="failed", dtype=object)], axis=1)
    return Evaluated(summary.frame(measures(table, seed)), table, table.drop(columns="failed"))


def compare(
    found: Sequence[RLE], truth: Sequence[RLE], true_boxes: Float[np.ndarray, "pair 4"] | None = None
) -> pd.DataFrame:
    """Per pair: ``intersection`` and ``union`` in pixels, ``iou`` and ``box_iou`` 0..1.

    The box found is the smallest one around the mask; the true one is given, or the smallest one (also where NaN). An
    empty true mask leaves ``iou`` undefined: NaN.
    """
    shared, union = shared_pixels(found, truth)
    around = boxes(truth)
    reference = around if true_boxes is None else np.where(np.isnan(true_boxes), around, true_boxes)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(areas(truth) > 0, shared / union, np.nan)
    return pd.DataFrame(
        {"intersection": shared, "union": union, "iou": iou, "box_iou": box_iou(boxes(found), reference)}
    )


def measures(table: pd.DataFrame, seed: int = 0) -> list[Measure]:
    """cIoU = sum of intersections / sum of unions; gIoU = mean IoU; precision = share with IoU >= 0.5, of masks and of
    boxes. Yu et al. 2016 (arXiv 1608.00272); gIoU as in Lai et al. 2023 (arXiv 2308.00692). All 0..1.

    Pairs with an empty true mask are left out. ``table`` has the columns of `compare` and ``image_id``.
    """
    kept = pd.DataFrame(table[np.isfinite(table["iou"])])
    clusters = list(kept["image_id"].astype(str))

    def at_threshold(column: str) -> np.ndarray:
        values = np.asarray(kept[column], dtype=float)
        return np.where(np.isfinite(values), values >= THRESHOLD, np.nan)

    return [
        _cumulative(kept, clusters, seed),
        summary.mean_of("giou", np.asarray(kept["iou"]), clusters, "expressions", seed),
        summary.mean_of("precision@0.5", at_threshold("iou"), clusters, "expressions", seed),
        summary.mean_of("box_accuracy@0.5", at_threshold("box_iou"), clusters, "expressions", seed),
    ]


def _cumulative(kept: pd.DataFrame, clusters: Sequence[str], seed: int, repeats: int = 2000) -> Measure:
    """cIoU with the interval of a ratio of sums: images are drawn, intersections and unions summed anew."""
    values = kept[["intersection", "union"]].to_numpy(dtype=float)
    total = intervals.cluster_sums(values, clusters).total
    n = len(total)
    low = high = ciou = float("nan")
    if n:
        ciou = float(values[:, 0].sum() / values[:, 1].sum())
    if n > 1:
        draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=repeats) @ total
        low, high = (float(q) for q in np.quantile(draws[:, 0] / draws[:, 1], [0.025, 0.975]))
    return Measure("ciou", ciou, low, high, len(kept), "expressions")


def _nothing(size: tuple[int, int]) -> RLE:
    return to_rles(np.zeros((1, *size), dtype=bool))[0]
