"""Scores per phrase -> tidy tables: means, intervals, nulls, p-values, halves and their agreement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

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


def summarise(
    scores: Mapping[str, HeadScores], seed: int, by: By | None = None, rows: Bool[np.ndarray, " phrase"] | None = None
) -> pd.DataFrame:
    """One row per metric, layer and head, with the columns of `statistics`, ``higher_is_better`` (of the mean) and
    ``rank``: 1 is the best, by ``by`` or, without it, by specificity where there is one, else by the mean. ``rows``:
    which phrases count, None all."""
    frames = []
    for name, score in scores.items():
        layers, heads = score.values.shape[1:]
        frame = pd.DataFrame(statistics(score, seed, rows))
        layer, head = np.divmod(np.arange(layers * heads), max(heads, 1))
        frame.insert(0, "head", head)
        frame.insert(0, "layer", score.numbers[layer])
        frame.insert(0, "metric", name)
        frame["higher_is_better"] = score.higher_is_better
        chosen = by or ("specificity" if np.isfinite(frame["specificity"]).any() else "mean")
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


def statistics(score: HeadScores, seed: int, rows: Bool[np.ndarray, " phrase"] | None = None) -> dict[str, np.ndarray]:
    """Per head, layer by layer, over the phrases for which the metric is defined (of those that ``rows`` is True for):

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
    images = score.images if rows is None else tuple(i for i, own in zip(score.images, rows, strict=True) if own)
    which = halves(seed, images)
    second = np.array([which[i] for i in images], dtype=bool)
    things, words = (intervals.Flips(images, seed=seed) for _ in range(2))
    found = [_of_block(block, images, second, seed, things, words) for block in score.blocks(rows)]
    columns = {name: np.concatenate([own[name] for own in found]) for name in found[0]}
    test, specific = things.found(), words.found()
    return {**columns, "p": test.p, "p_corrected": test.p_corrected, "p_specific": specific.p_corrected}


def _of_block(
    score: HeadScores,
    images: Sequence[str],
    second: np.ndarray,
    seed: int,
    things: intervals.Flips,
    words: intervals.Flips,
) -> dict[str, np.ndarray]:
    """The columns of some heads; what the tests need of them is added to the tests."""
    values = score.values[:, 0].astype(np.float64)
    defined = np.isfinite(values)
    null = np.full_like(values, np.nan) if score.null is None else score.null[:, 0]
    chance = np.full(len(values), np.nan) if score.chance is None else score.chance
    interval = intervals.bootstrap(values, images, seed=seed)
    things.add((values - null) * (1 if score.higher_is_better else -1))
    return {
        "n": defined.sum(0),
        "images": (intervals.cluster_sums(values, images).number > 0).sum(0),
        "mean": intervals.mean(values),
        "low": interval.low,
        "high": interval.high,
        "chance": intervals.mean(np.where(defined, chance[:, None], np.nan)),
        "null": intervals.mean(np.where(defined, null, np.nan).astype(np.float64)),
        "p": np.zeros(values.shape[1]),  # in their places among the columns; known once all heads are
        "p_corrected": np.zeros(values.shape[1]),
        "half_a": intervals.mean(values[~second]),
        "half_b": intervals.mean(values[second]),
        **_specific(score, images, second, seed, words),
    }


def _specific(
    score: HeadScores, images: Sequence[str], second: np.ndarray, seed: int, words: intervals.Flips
) -> dict[str, np.ndarray]:
    """The columns of specificity; all NaN where no phrase has a partner."""
    found, partners = score.specificity, score.partners
    found = np.full(score.values.shape, np.nan) if found is None else found
    partners = np.zeros(len(found), dtype=np.int64) if partners is None else partners
    flat = found[:, 0].astype(np.float64)
    interval = intervals.bootstrap(flat, images, seed=seed, rates=False)
    words.add(flat)
    return {
        "specificity": intervals.mean(flat),
        "specificity_low": interval.low,
        "specificity_high": interval.high,
        "p_specific": np.zeros(flat.shape[1]),
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
    from scipy.stats import kendalltau  # a second of its own

    return float(kendalltau(a[both], b[both])[0])  # type: ignore[arg-type]


ABOUT = ("root", "tokens", "area", "mention", "kind")
"""What `PhraseTable` says of each phrase beside its scores' own."""


@dataclass(frozen=True)
class PhraseTable:
    """A table of the reductions' scores, phrase by phrase: all of it when it is called, or in ``pieces``.

    One row per phrase, metric and reduction: ``sample_id, image_id, phrase, root, tokens, area, mention, kind,
    partners, half, metric, heads, value, null, chance, specificity``. ``tokens``: how many the root word has; ``area``:
    the mask's share of the image; ``mention``: 1 where its things are named for the first time in the answer, else
    more; ``kind``: what told them before (`interp.types.Target`), empty where unknown; ``partners``: how many other
    named things it is compared with; ``half``: a, b. ``about``: its columns, `ABOUT`.
    """

    scores: Mapping[str, HeadScores]
    names: tuple[str, ...]
    about: Mapping[str, np.ndarray]
    seed: int

    def __call__(self) -> pd.DataFrame:
        """The whole table."""
        return pd.concat([self.of(name, slice(None), self.names) for name in self.scores], ignore_index=True)

    def pieces(self, rows: int) -> Iterator[pd.DataFrame]:
        """The table in its order, at most so many rows at a time, which are whole phrases of one metric."""
        for name, score in self.scores.items():
            step = max(rows // len(self.names), 1)
            yield from (self.of(name, slice(i, i + step), self.names) for i in range(0, len(score), step))

    def of(self, name: str, phrases: slice, heads: Sequence[str]) -> pd.DataFrame:
        """Some phrases and reductions of one metric."""
        score, count = self.scores[name], len(heads)
        which, images = halves(self.seed, score.images), score.images[phrases]
        columns = {
            "sample_id": score.sample_ids[phrases],
            "image_id": images,
            "phrase": score.phrases[phrases],
            **{key: self.about[key][phrases].tolist() for key in ABOUT},
            "partners": score.partners[phrases] if score.partners is not None else 0,
            "half": ["ab"[which[i]] for i in images],
        }
        frame = pd.DataFrame(columns).loc[lambda f: f.index.repeat(count)].reset_index(drop=True)
        at = [self.names.index(own) for own in heads]
        frame["metric"] = name
        frame["heads"] = list(heads) * len(images)
        frame["value"] = score.values[phrases, 0, at].ravel()
        frame["null"] = score.null[phrases, 0, at].ravel() if score.null is not None else np.nan
        frame["chance"] = np.repeat(score.chance[phrases], count) if score.chance is not None else np.nan
        specific = score.specificity
        frame["specificity"] = specific[phrases, 0, at].ravel() if specific is not None else np.nan
        return frame
