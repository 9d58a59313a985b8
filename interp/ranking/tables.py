"""Scored batches -> a `Ranking`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp.contracts import Metric
from interp.ranking.batch import Batch, Plan
from interp.ranking.localization import mask_free
from interp.ranking.reductions import REDUCTIONS, score_top
from interp.ranking.result import MASK_FREE, TOP, NothingToRank, Ranking
from interp.statistics import summary
from interp.statistics.nulls import half
from interp.statistics.scores import HeadScores
from interp.types import Head


def ranking_of(
    plan: Plan, done: Sequence[Batch], load: Callable[[int], Batch], asked: Sequence[str], manifest: dict[str, Any]
) -> Ranking:
    skipped = tuple(skip for batch in done for skip in batch.skipped)
    if not any(len(batch) for batch in done):
        reasons = pd.Series([s.reason for s in skipped], dtype=object).value_counts()
        listed = (
            "; ".join(f"{count} x {reason}" for reason, count in reasons.head(3).items()) or "the data set is empty"
        )
        raise NothingToRank(f"no phrase of {manifest['samples']} samples could be scored: {listed}")
    done_with = [(i, batch) for i, batch in enumerate(done) if len(batch)]
    everything = {name: join([b for _, b in done_with], name, metric) for name, metric in plan.metrics.items()}
    scores = {name: everything[name] for name in asked}
    top = {name: _cross_fitted(score, plan.seed) for name, score in scores.items()}
    best = [score_top(plan, load(i), top, TOP) for i, _ in done_with]
    reduced = {name: _reduced(score, [b for _, b in done_with], best) for name, score in scores.items()}
    names = [*REDUCTIONS, *TOP]
    heads = summary.summarise(scores, plan.seed)
    localization = _localization(*(everything[name].values for name in MASK_FREE))
    higher = {name: plan.metrics[name].higher_is_better for name in asked}
    phrases = [p for _, b in done_with for p in b.phrases]
    manifest |= {"phrases": len(phrases), "images": len({p["sample_id"] for p in phrases}), "skipped": len(skipped)}
    silent = Counter(text for batch in done for text in batch.unmatched)
    manifest["unmatched"] = {"phrases": silent.total(), "commonest": [list(row) for row in silent.most_common(10)]}
    return Ranking(
        scores=scores,
        heads=heads,
        reductions=summary.summarise_reductions(reduced, names, plan.seed),
        phrases=summary.phrase_frame(reduced, names, phrases, plan.seed),
        localization=localization,
        agreement=summary.agreement(heads, localization, higher),
        skipped=skipped,
        manifest=manifest,
    )


def _localization(mass: np.ndarray, entropy: np.ndarray) -> pd.DataFrame:
    """The mask-free ranking, and beside it how often the published code's threshold would choose each head."""
    published = mask_free(mass, entropy, first_layer=2, published=True)
    beside = published.assign(frequency_as_published=published["frequency"])
    return mask_free(mass, entropy).merge(beside[["layer", "head", "frequency_as_published"]], on=["layer", "head"])


def join(done: Sequence[Batch], name: str, metric: Metric) -> HeadScores:
    """One metric's scores of several batches as one."""
    phrases = [p for batch in done for p in batch.phrases]
    return HeadScores(
        metric=name,
        higher_is_better=metric.higher_is_better,
        sample_ids=tuple(p["sample_id"] for p in phrases),
        phrases=tuple(p["text"] for p in phrases),
        values=np.concatenate([b.scores[name].values for b in done]),
        null=np.concatenate([b.scores[name].null for b in done]),
        chance=np.concatenate([b.scores[name].chance for b in done]),
    )


def _cross_fitted(score: HeadScores, seed: int) -> tuple[list[Head], list[Head]]:
    """For each half of the images, the best heads of the *other* half, best first."""
    which = np.array([half(seed, i) for i in score.sample_ids])
    chosen = []
    for own in (0, 1):
        other = HeadScores(score.metric, score.higher_is_better, (), (), score.values[which != own])
        chosen.append(other.top(max(TOP.values())))
    return chosen[0], chosen[1]


def _reduced(score: HeadScores, done: Sequence[Batch], best: Sequence[Mapping[str, Any]]) -> HeadScores:
    """The five reductions as heads of one layer."""
    name = score.metric
    both = [np.concatenate([getattr(b.reduced[name], part) for b in done]) for part in ("values", "null")]
    tops = [np.concatenate([getattr(b[name], part) for b in best]) for part in ("values", "null")]
    values, null = (np.concatenate(pair, 2) for pair in zip(both, tops, strict=True))
    return HeadScores(
        name, score.higher_is_better, score.sample_ids, score.phrases, values, null=null, chance=score.chance
    )
