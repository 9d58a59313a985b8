"""Scores per phrase -> tidy tables: means, intervals, nulls, p-values, halves and their agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import kendalltau

from interp.statistics import intervals
from interp.statistics.nulls import halves
from interp.statistics.scores import HeadScores
from interp.types import By

SPECIFIC = (
    "specificity",
    "specificity_low",
    "specificity_high",
    "p_specific",
    "pairs",
    "specificity_a",
    "specificity_b",
)
"""Columns of `statistics` that speak of specificity."""


def summarise(scores: Mapping[str, HeadScores], seed: int, by: By | None = None) -> pd.DataFrame:
    """One row per metric, layer and head, with the columns of `statistics`, ``higher_is_better`` (of the mean) and
    ``rank``: 1 is the best, by ``by`` or, without it, by specificity where there is one, else by the mean."""
    frames = []
    for name, score in scores.items():
        layers, heads = score.values.shape[1:]
        frame = pd.DataFrame(statistics(score, seed))
        layer, head = np.divmod(np.arange(layers * heads), max(heads, 1))
        frame.insert(0, "head", head)
        frame.insert(0, "layer", score.numbers[layer])
        frame.insert(0, "metric", name)
        frame["higher_is_better"] = score.higher_is_better
        chosen = score.chosen_by(by)
        frame["rank"] = frame[chosen].rank(ascending=chosen == "mean" and not score.higher_is_better, method="min")
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def summarise_reductions(scores: Mapping[str, HeadScores], names: Sequence[str], seed: int) -> pd.DataFrame:
    """One row per metric and reduction (``heads``); the scores hold the reductions as heads of one layer."""
    frames = []
    for name, score in scores.items():
        frame = pd.DataFrame(statistics(score, seed))
        frame.insert(0, "heads", list(names))
        frame.insert(0, "metric", name)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def statistics(score: HeadScores, seed: int) -> dict[str, np.ndarray]:
    """Per head, layer by layer, over the phrases for which the metric is defined:

    - ``n``, ``images``: how many phrases, of how many images;
    - ``mean``, and ``low`` to ``high``: 95 % bootstrap interval, images drawn anew (`intervals.bootstrap`);
    - ``chance``: mean of the area-matched chance; ``null``: mean score of the same maps on masks of other images;
    - ``p``: sign-flip test over images that the head does better on its own masks than on the null masks, one-sided;
      ``p_corrected``: the same, corrected for all heads of this metric (`intervals.sign_flip`): it looks at *things*;
    - ``specificity``, ``specificity_low`` to ``specificity_high``: mean over phrases with a partner, and its interval;
      ``p_specific``: sign-flip test that it is above 0, corrected for all heads: it looks at *this word's* thing;
      ``pairs``: how many pairs of named things that rests on;
    - ``half_a``, ``half_b``, ``specificity_a``, ``specificity_b``: means over each half of the images (`nulls.halves`),
      to choose on the one and to report on the other.
    """
    values = score.values.reshape(len(score.values), -1).astype(np.float64)
    ids, defined = score.images, np.isfinite(values)
    which = halves(seed, ids)
    second = np.array([which[i] for i in ids], dtype=bool)
    null = np.full_like(values, np.nan) if score.null is None else score.null.reshape(values.shape)
    chance = np.full(len(values), np.nan) if score.chance is None else score.chance
    interval = intervals.bootstrap(values, ids, seed=seed)
    better = (values - null) * (1 if score.higher_is_better else -1)
    test = intervals.sign_flip(better, ids, seed=seed)
    return {
        "n": defined.sum(0),
        "images": (intervals.cluster_sums(values, ids).number > 0).sum(0),
        "mean": intervals.mean(values),
        "low": interval.low,
        "high": interval.high,
        "chance": intervals.mean(np.where(defined, chance[:, None], np.nan)),
        "null": intervals.mean(np.where(defined, null, np.nan).astype(np.float64)),
        "p": test.p,
        "p_corrected": test.p_corrected,
        "half_a": intervals.mean(values[~second]),
        "half_b": intervals.mean(values[second]),
        **_specific(score, second, seed),
    }


def _specific(score: HeadScores, second: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The columns of specificity; all NaN where no phrase has a partner."""
    found, partners = score.specificity, score.partners
    found = np.full(score.values.shape, np.nan) if found is None else found
    partners = np.zeros(len(found), dtype=np.int64) if partners is None else partners
    flat = found.reshape(len(found), -1).astype(np.float64)
    interval = intervals.bootstrap(flat, score.images, seed=seed, rates=False)
    return {
        "specificity": intervals.mean(flat),
        "specificity_low": interval.low,
        "specificity_high": interval.high,
        "p_specific": intervals.sign_flip(flat, score.images, seed=seed).p_corrected,
        "pairs": (np.isfinite(flat) * partners[:, None]).sum(0) // 2,
        "specificity_a": intervals.mean(flat[~second]),
        "specificity_b": intervals.mean(flat[second]),
    }


def agreement(heads: pd.DataFrame, localization: pd.DataFrame, higher_is_better: Mapping[str, bool]) -> pd.DataFrame:
    """Kendall's tau-b over heads, one row per metric: ``metric, halves, halves_specific, mask_free``, each -1..1, NaN
    where undefined.

    ``halves``: between the means on the two halves of the images; ``halves_specific``: between the specificities.
    ``mask_free``: between the mean (turned round where low is better) and the selection frequency of the mask-free
    ranking, in which many heads share frequency 0.
    """
    rows = []
    frequency = localization.set_index(["layer", "head"])["frequency"]
    for name, frame in heads.groupby("metric", sort=False):
        frame = frame.set_index(["layer", "head"])
        oriented = frame["mean"] * (1 if higher_is_better[str(name)] else -1)
        rows.append(
            {
                "metric": name,
                "halves": tau(frame["half_a"].to_numpy(), frame["half_b"].to_numpy()),
                "halves_specific": tau(frame["specificity_a"].to_numpy(), frame["specificity_b"].to_numpy()),
                "mask_free": tau(oriented.to_numpy(), frequency.reindex(frame.index).to_numpy()),
            }
        )
    return pd.DataFrame(rows, columns=["metric", "halves", "halves_specific", "mask_free"])


def tau(a: Float[np.ndarray, " head"], b: Float[np.ndarray, " head"]) -> float:
    """Kendall's tau-b over the heads where both are defined, -1..1; NaN if fewer than two, or if one is constant.

    >>> round(tau(np.array([0.1, 0.2, 0.3]), np.array([1.0, 3.0, 2.0])), 3)  # two of three pairs in the same order
    0.333
    """
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 2 or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return float("nan")
    return float(kendalltau(a[both], b[both])[0])  # type: ignore[arg-type]


def phrase_frame(
    scores: Mapping[str, HeadScores], names: Sequence[str], about: Sequence[Mapping[str, Any]], seed: int
) -> pd.DataFrame:
    """One row per phrase, metric and reduction: ``sample_id, image_id, phrase, root, tokens, area, mention, kind,
    partners, half, metric, heads, value, null, chance, specificity``. ``tokens``: how many the root word has; ``area``:
    the mask's share of the image; ``mention``: 1 where its things are named for the first time in the answer, else
    more; ``kind``: what told them before (`interp.types.Target`), empty where unknown; ``partners``: how many other
    named things it is compared with; ``half``: a, b."""
    frames = []
    for name, score in scores.items():
        n, _, count = score.values.shape
        which = halves(seed, score.images)
        columns = {
            "sample_id": score.sample_ids,
            "image_id": score.images,
            "phrase": score.phrases,
            **{key: [phrase[key] for phrase in about] for key in ("root", "tokens", "area", "mention", "kind")},
            "partners": score.partners if score.partners is not None else 0,
            "half": ["ab"[which[i]] for i in score.images],
        }
        frame = pd.DataFrame(columns).loc[lambda f, count=count: f.index.repeat(count)].reset_index(drop=True)
        frame["metric"] = name
        frame["heads"] = list(names) * n
        frame["value"] = score.values.ravel()
        frame["null"] = score.null.ravel() if score.null is not None else np.nan
        frame["chance"] = np.repeat(score.chance, count) if score.chance is not None else np.nan
        frame["specificity"] = score.specificity.ravel() if score.specificity is not None else np.nan
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
