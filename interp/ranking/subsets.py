"""The same scores over other sets and weights of phrases: who gains from common nouns, large things, long words?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.statistics import intervals

SIZES = ("small", "medium", "large")


def subsets(phrases: pd.DataFrame, seed: int) -> pd.DataFrame:
    """``metric heads subset n images mean low high specificity specificity_low specificity_high``, a row per reduction.

    ``subset``: ``all``; ``one token``, ``several tokens``; ``small``, ``medium``, ``large``, terciles of the things'
    area; ``first mention``; ``kind: free`` and others, where the data set tells them; ``image-weighted``, where each
    image counts as one phrase; ``noun-weighted``, where each noun does (macro average): common nouns weigh no more than
    rare ones. ``phrases`` is `summary.PhraseTable`.
    """
    rows = []
    for key, some in phrases.groupby(["metric", "heads"], sort=False):
        metric, heads = cast(tuple[str, str], key)
        for name, chosen, weights in _subsets(some):
            own, images = some.loc[chosen], some.loc[chosen, "image_id"].tolist()
            row = {"metric": metric, "heads": heads, "subset": name, "n": len(own), "images": len(set(images))}
            for column, label in (("value", ""), ("specificity", "specificity_")):
                values = own[column].to_numpy(dtype=np.float64)
                found = _estimate(values, weights[chosen.to_numpy()], images, seed)
                row |= dict(zip((label.rstrip("_") or "mean", f"{label}low", f"{label}high"), found, strict=True))
            rows.append(row)
    return pd.DataFrame(rows)


def _subsets(some: pd.DataFrame) -> Iterator[tuple[str, Any, Any]]:
    """Name, phrases and weights of each subset."""
    same, everyone = np.ones(len(some)), pd.Series(True, some.index)
    yield "all", everyone, same
    yield "one token", some["tokens"] == 1, same
    yield "several tokens", some["tokens"] > 1, same
    edges = np.quantile(some["area"], [1 / 3, 2 / 3]) if len(some) else [0.0, 0.0]
    place = np.searchsorted(edges, some["area"].to_numpy(), side="left")
    for k, name in enumerate(SIZES):
        yield name, pd.Series(place == k, some.index), same
    yield "first mention", some["mention"] == 1, same
    for kind in sorted(set(some["kind"]) - {""}):
        yield f"kind: {kind}", some["kind"] == kind, same
    for name, column in (("image-weighted", "image_id"), ("noun-weighted", "root")):
        yield name, everyone, 1 / some.groupby(some[column].str.lower())[column].transform("size").to_numpy()


def _estimate(
    values: Float[np.ndarray, " phrase"], weights: Float[np.ndarray, " phrase"], images: list[str], seed: int
) -> tuple[float, float, float]:
    """Weighted mean with its interval over images, in which weights stay as they are."""
    defined: Bool[np.ndarray, " phrase"] = np.isfinite(values)
    if not defined.any():
        return np.nan, np.nan, np.nan
    kept, weight = values[defined], weights[defined]
    mean = float((kept * weight).sum() / weight.sum())
    # The mean of w (x - mean) is 0; its interval over images, in units of the mean weight, is the weighted mean's.
    off = weight / weight.mean() * (kept - mean)
    ends = intervals.bootstrap(off, [i for i, d in zip(images, defined, strict=True) if d], seed=seed, rates=False)
    return mean, mean + float(ends.low), mean + float(ends.high)
