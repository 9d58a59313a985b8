"""Panoptic narrative grounding: average recall over IoU thresholds, phrase by phrase, for kinds of phrases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.evaluation import tables as summary
from interp.evaluation.overlap import pairwise_iou
from interp.evaluation.result import Record
from interp.evaluation.tables import Evaluated, Measure

STEP = 1e-5
"""Between the thresholds of the released evaluation."""
KINDS = ("all", "things", "stuff", "singular", "plural")


def evaluate(records: Sequence[Record], *, seed: int = 0) -> Evaluated:
    """Average recall per kind of phrase, 0..1, and a row per phrase that has a true mask.

    The n-th phrase found belongs to the n-th true one. A record without any (the model failed) counts with IoU 0.

    Raises:
        ValueError: a record with other numbers of phrases than of true masks.
    """
    rows: list[dict[str, Any]] = []
    for one in records:
        if one.found and len(one.found) != len(one.truths):
            raise ValueError(
                f"{one.sample_id!r} has {len(one.found)} masks for {len(one.truths)} phrases; expected one for each"
            )
        for i, truth in enumerate(one.truths):
            iou = pairwise_iou([one.found[i].mask], [truth.mask])[0, 0] if one.found else 0.0
            row = {"sample_id": one.sample_id, "image_id": one.image_id, "phrase": truth.phrase, "iou": float(iou)}
            rows.append({**row, "thing": truth.thing, "plural": truth.plural, "failed": one.failed or ""})
    table = pd.DataFrame(rows, columns=["sample_id", "image_id", "phrase", "iou", "thing", "plural", "failed"])
    table[["thing", "plural"]] = table[["thing", "plural"]].astype("boolean")
    samples = table.groupby("sample_id", sort=False).agg(
        image_id=("image_id", "first"), phrases=("iou", "size"), iou=("iou", "mean"), failed=("failed", "first")
    )
    return Evaluated(summary.frame(measures(table, seed)), samples.reset_index(), table.drop(columns="failed"))


def recall_curve(
    ious: Float[np.ndarray, " phrase"], thresholds: Float[np.ndarray, " threshold"]
) -> Float[np.ndarray, " threshold"]:
    """Share of the phrases with IoU >= each threshold, 0..1; NaN without phrases. Undefined IoUs are left out.

    >>> recall_curve(np.array([0.2, 0.6]), np.array([0.1, 0.5, 0.9])).tolist()
    [1.0, 0.5, 0.0]
    """
    ranked = np.sort(ious[np.isfinite(ious)])
    if not len(ranked):
        return np.full(len(thresholds), np.nan)
    return 1 - np.searchsorted(ranked, thresholds, side="left") / len(ranked)


def average_recall(ious: Float[np.ndarray, " phrase"]) -> float:
    """Area under the curve of recall over IoU thresholds, 0..1: left sums in steps of 1e-5, as released.

    González et al. 2021 (arXiv 2109.04988, section 5). The area under P(IoU >= t) is the mean IoU, so this is the mean
    IoU but for the steps: they differ by at most 1e-5.

    >>> round(average_recall(np.array([0.2, 0.6])), 3)  # the mean IoU, but for the steps
    0.4
    """
    thresholds = np.arange(0, 1, STEP)
    return float((np.diff(thresholds) * recall_curve(ious, thresholds)[:-1]).sum())


def measures(table: pd.DataFrame, seed: int = 0) -> list[Measure]:
    """Average recall of all phrases, things, stuff, singulars and plurals; NaN where the data set does not say.

    Intervals are those of the mean IoU, which the measure is but for its steps.
    """
    found = []
    for kind in KINDS:
        chosen = table[_of(table, kind)]
        ious = np.asarray(chosen["iou"], dtype=float)
        name = "average_recall" if kind == "all" else f"average_recall_{kind}"
        mean = summary.mean_of(name, ious, list(chosen["image_id"].astype(str)), "phrases", seed)
        found.append(Measure(name, average_recall(ious), mean.low, mean.high, mean.n, mean.unit))
    return found


def _of(table: pd.DataFrame, kind: str) -> np.ndarray:
    if kind == "all":
        return np.ones(len(table), dtype=bool)
    column, wanted = ("thing", kind == "things") if kind in ("things", "stuff") else ("plural", kind == "plural")
    return (table[column] == wanted).to_numpy(dtype=bool, na_value=False)
