"""Scored batches -> a `Ranking`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pandas as pd

from interp.contracts import Metric
from interp.ranking.batch import Batch, Plan
from interp.ranking.localization import mask_free
from interp.ranking.reductions import REDUCTIONS, score_top
from interp.ranking.result import MASK_FREE, TOP, Ranking, nothing
from interp.ranking.scoring import MetricScores
from interp.ranking.subsets import subsets
from interp.statistics import summary
from interp.statistics.nulls import halves
from interp.statistics.scores import HeadScores
from interp.types import By, Head, Rows


def ranking_of(
    plan: Plan,
    done: Sequence[Batch],
    load: Callable[[int], Batch],
    asked: Sequence[str],
    by: By | None,
    manifest: dict[str, Any],
) -> Ranking:
    """All tables of a run; ``load`` gives a batch with its maps.

    Raises:
        NothingToRank: no phrase could be scored.
    """
    skipped = tuple(skip for batch in done for skip in batch.skipped)
    if not any(len(batch) for batch in done):
        raise nothing(manifest["samples"], [s.reason for s in skipped])
    done_with = [(i, batch) for i, batch in enumerate(done) if len(batch)]
    everything = {name: join([b for _, b in done_with], name, metric) for name, metric in plan.metrics.items()}
    scores = {name: everything[name] for name in asked}
    which = halves(plan.seed, next(iter(everything.values())).images)
    top = {name: _cross_fitted(score, which, by) for name, score in scores.items()}
    best = [score_top(plan, load(i), top, TOP, which) for i, _ in done_with]
    reduced = {name: _reduced(score, [b for _, b in done_with], best) for name, score in scores.items()}
    names = [*REDUCTIONS, *TOP]
    heads = summary.summarise(scores, plan.seed, by)
    localization = _localization(everything, done_with[0][1].layers)
    higher = {name: plan.metrics[name].higher_is_better for name in asked}
    phrases = [p for _, b in done_with for p in b.phrases]
    manifest |= {"phrases": len(phrases), "images": len({p["image_id"] for p in phrases}), "skipped": len(skipped)}
    manifest |= {"by": {name: score.chosen_by(by) for name, score in scores.items()}}
    silent = Counter(text for batch in done for text in batch.unmatched)
    manifest["unmatched"] = {"phrases": silent.total(), "commonest": [list(row) for row in silent.most_common(10)]}
    table = summary.phrase_frame(reduced, names, phrases, plan.seed)
    return Ranking(
        scores=scores,
        heads=heads,
        reductions=summary.summarise_reductions(reduced, names, plan.seed),
        phrases=table,
        rows=_by_rows([b for _, b in done_with], everything, plan),
        subsets=subsets(table.loc[table["metric"] == manifest["headline"], :], plan.seed),
        localization=localization,
        agreement=summary.agreement(heads, localization, higher),
        skipped=skipped,
        manifest=manifest,
    )


def _localization(scores: Mapping[str, HeadScores], layers: tuple[int, ...]) -> pd.DataFrame:
    """The mask-free ranking, and beside it how often the published code's threshold would choose each head; without a
    row unless the run measured what it needs."""
    if not set(MASK_FREE) <= set(scores):
        nothing = np.zeros((0, 1, 1))
        return mask_free(nothing, nothing).head(0).assign(frequency_as_published=np.zeros(0))
    mass, entropy = (scores[name].values for name in MASK_FREE)
    published = mask_free(mass, entropy, first_layer=2, published=True, layers=layers)
    beside = published.assign(frequency_as_published=published["frequency"])
    return mask_free(mass, entropy, layers=layers).merge(
        beside[["layer", "head", "frequency_as_published"]], on=["layer", "head"]
    )


def join(done: Sequence[Batch], name: str, metric: Metric) -> HeadScores:
    """One metric's scores of several batches as one."""
    phrases = [p for batch in done for p in batch.phrases]
    return HeadScores(
        metric=name,
        higher_is_better=metric.higher_is_better,
        sample_ids=tuple(p["sample_id"] for p in phrases),
        phrases=tuple(p["text"] for p in phrases),
        partners=np.array([p["partners"] for p in phrases], dtype=np.int64),
        image_ids=tuple(p["image_id"] for p in phrases),
        layers=done[0].layers,
        **_joined([b.scores[name] for b in done]),
    )


def _joined(parts: Sequence[MetricScores]) -> dict[str, Any]:
    """The arrays of several batches, one after the other."""
    return {part: np.concatenate([getattr(p, part) for p in parts]) for part in MetricScores._fields}


def _cross_fitted(score: HeadScores, which: Mapping[str, int], by: By | None) -> tuple[list[Head], list[Head]]:
    """For each half of the images, the best heads of the *other* half, best first."""
    half = np.array([which[i] for i in score.images])
    by = score.chosen_by(by)
    return tuple(score.of(half != own).top(max(TOP.values()), by) for own in (0, 1))  # type: ignore[return-value]


def _by_rows(done: Sequence[Batch], everything: Mapping[str, HeadScores], plan: Plan) -> pd.DataFrame:
    """``metric rows tokens kind`` and the columns of `summary.summarise`: a row per kind of row, class of words
    (``one`` token, ``several``, ``all``) and head; and per kind of phrase, where the data set tells it, over all words
    (else ``all``)."""
    if not plan.by_rows:
        return pd.DataFrame()
    own, frames, phrases = everything[plan.by_rows], [], [p for b in done for p in b.phrases]
    several, kinds = np.array([p["tokens"] > 1 for p in phrases], bool), np.array([p["kind"] for p in phrases])
    sets = [("all", "all", several | ~several), ("one", "all", ~several), ("several", "all", several)]
    sets += [("all", kind, kinds == kind) for kind in sorted(set(kinds.tolist()) - {""})]
    for rows in get_args(Rows):
        scores = replace(own, **_joined([b.by_rows[rows] for b in done]))
        for tokens, kind, chosen in sets:
            if not chosen.any():
                continue
            frame = summary.summarise({plan.by_rows: scores.of(chosen)}, plan.seed)
            frame.insert(1, "kind", kind)
            frame.insert(1, "tokens", tokens)
            frame.insert(1, "rows", rows)
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _reduced(score: HeadScores, done: Sequence[Batch], best: Sequence[Mapping[str, Any]]) -> HeadScores:
    """The five reductions as heads of one layer."""
    name = score.metric
    joined = {}
    for part in ("values", "null", "specificity"):
        named = np.concatenate([getattr(b.reduced[name], part) for b in done])
        joined[part] = np.concatenate([named, np.concatenate([getattr(b[name], part) for b in best])], 2)
    return replace(score, **joined, layers=())
