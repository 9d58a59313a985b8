"""The same scores over other sets and weights of phrases: who gains from common nouns, large things, long words?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.statistics import intervals
from interp.statistics.scores import HeadScores

SIZES = ("small", "medium", "large")


def subsets(phrases: pd.DataFrame, scores: HeadScores, names: Sequence[str], seed: int) -> pd.DataFrame:
    """``metric heads subset n images mean low high specificity specificity_low specificity_high``, a row per reduction.

    ``subset``: ``all``; ``one token``, ``several tokens``; ``small``, ``medium``, ``large``, terciles of the things'
    area; ``first mention``; ``kind: free`` and others, where the data set tells them; ``image-weighted``, where each
    image counts as one phrase; ``noun-weighted``, where each noun does (macro average): common nouns weigh no more than
    rare ones. ``phrases``: a row a phrase, with the columns ``image_id root tokens area mention kind``; ``scores`` hold
    the reductions, ``names``, as heads of one layer.
    """
    given = [scores.values, np.full(scores.values.shape, np.nan) if scores.specificity is None else scores.specificity]
    values = np.concatenate([part[:, 0].astype(np.float64) for part in given], 1)
    rows: list[list[dict[str, Any]]] = [[] for _ in names]
    for subset, chosen, weights in _subsets(phrases):
        images = phrases.loc[chosen, "image_id"].tolist()
        about = {"subset": subset, "n": len(images), "images": len(set(images))}
        found = _estimate(values[chosen], weights[chosen], images, seed).reshape(3, 2, len(names))
        for k, (name, own) in enumerate(zip(names, rows, strict=True)):
            row: dict[str, Any] = {"metric": scores.metric, "heads": name, **about}
            for label, (mean, low, high) in zip(("", "specificity_"), found[:, :, k].T.tolist(), strict=True):
                row |= {label.rstrip("_") or "mean": mean, f"{label}low": low, f"{label}high": high}
            own.append(row)
    return pd.DataFrame([row for own in rows for row in own])


def _subsets(some: pd.DataFrame) -> Iterator[tuple[str, Bool[np.ndarray, " phrase"], Float[np.ndarray, " phrase"]]]:
    """Name, phrases and weights of each subset."""
    same, everyone = np.ones(len(some)), np.ones(len(some), dtype=bool)
    tokens, kind = some["tokens"].to_numpy(), some["kind"].to_numpy()
    yield "all", everyone, same
    yield "one token", tokens == 1, same
    yield "several tokens", tokens > 1, same
    edges = np.quantile(some["area"], [1 / 3, 2 / 3]) if len(some) else [0.0, 0.0]
    place = np.searchsorted(edges, some["area"].to_numpy(), side="left")
    for k, name in enumerate(SIZES):
        yield name, place == k, same
    yield "first mention", some["mention"].to_numpy() == 1, same
    for name in sorted(set(kind) - {""}):
        yield f"kind: {name}", kind == name, same
    for name, column in (("image-weighted", "image_id"), ("noun-weighted", "root")):
        yield name, everyone, 1 / some.groupby(some[column].str.lower())[column].transform("size").to_numpy()


def _estimate(
    values: Float[np.ndarray, "phrase column"], weights: Float[np.ndarray, " phrase"], images: list[str], seed: int
) -> Float[np.ndarray, "3 column"]:
    """Weighted means with their intervals over images, in which weights stay as they are."""
    weight = np.where(np.isfinite(values), weights[:, None], np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(values * weight, 0) / np.nansum(weight, 0)
        # The mean of w (x - mean) is 0; its interval over images, in units of the mean weight, is the weighted mean's.
        off = weight / intervals.mean(weight) * (values - mean)
    ends = intervals.bootstrap(off, images, seed=seed, rates=False)
    return np.stack([mean, mean + ends.low, mean + ends.high])
