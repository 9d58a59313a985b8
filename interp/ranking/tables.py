"""Scored batches -> a `Ranking`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from interp.ranking.batch import Plan
from interp.ranking.gathered import Load, Words, gather
from interp.ranking.localization import mask_free
from interp.ranking.reductions import REDUCTIONS
from interp.ranking.result import MASK_FREE, TOP, Ranking, nothing
from interp.ranking.scoring import MetricScores
from interp.ranking.subsets import subsets
from interp.statistics import summary
from interp.statistics.nulls import halves
from interp.statistics.scores import HeadScores
from interp.types import By, Head, Rows

Top = Mapping[str, tuple[list[Head], list[Head]]]
"""The best heads by each metric, best first, for images of the one half and of the other."""
Best = Callable[[int, Top, Mapping[str, int]], Mapping[str, MetricScores]]
"""`interp.ranking.reductions.score_top` of the batch of that number, given those heads and each image's half."""


def ranking_of(
    plan: Plan,
    words: Words,
    load: Load,
    best: Best,
    asked: list[str],
    by: By | None,
    manifest: dict[str, Any],
    folder: str | Path | None = None,
) -> Ranking:
    """All tables of a run, whose batches ``load`` gives one at a time; ``folder`` is where large arrays may lie.

    Raises:
        NothingToRank: no phrase could be scored.
    """
    if not len(words):
        raise nothing(manifest["samples"], [s.reason for s in words.skipped])
    everything, named, by_rows = gather(words, load, plan.metrics, plan.by_rows, folder)
    scores = {name: everything[name] for name in asked}
    images = next(iter(everything.values())).images
    which = halves(plan.seed, images)
    half = np.array([which[i] for i in images])
    top = {name: _cross_fitted(score, half, by) for name, score in scores.items()}
    there = [i for i, count in enumerate(words.counts) if count]
    reduced = _reduced({name: named[name] for name in asked}, [best(i, top, which) for i in there])
    names = [*REDUCTIONS, *TOP]
    heads = summary.summarise(scores, plan.seed, by)
    localization = _localization(everything, words.layers)
    higher = {name: plan.metrics[name].higher_is_better for name in asked}
    manifest |= {"phrases": len(words), "images": len(set(images)), "skipped": len(words.skipped)}
    manifest |= {"by": {name: score.chosen_by(by) for name, score in scores.items()}}
    silent = words.unmatched
    manifest["unmatched"] = {"phrases": silent.total(), "commonest": [list(row) for row in silent.most_common(10)]}
    about = {name: words.column(name) for name in summary.ABOUT}
    table, main = summary.PhraseTable(reduced, tuple(names), about, plan.seed), manifest["headline"]
    known = pd.DataFrame({"image_id": images, **about})
    return Ranking(
        scores=scores,
        heads=heads,
        reductions=summary.summarise_reductions(reduced, names, plan.seed),
        phrases=table,  # type: ignore[arg-type]
        rows=_by_rows(by_rows, words, plan),
        subsets=subsets(known, reduced[main], names, plan.seed) if main in reduced else pd.DataFrame(),
        localization=localization,
        agreement=summary.agreement(heads, localization, higher),
        skipped=tuple(words.skipped),
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


def _cross_fitted(score: HeadScores, half: np.ndarray, by: By | None) -> tuple[list[Head], list[Head]]:
    """For each half of the images, the best heads of the *other* half, best first."""
    by = score.chosen_by(by)
    return tuple(score.top(max(TOP.values()), by, half != own) for own in (0, 1))  # type: ignore[return-value]


def _by_rows(by_rows: Mapping[str, HeadScores], words: Words, plan: Plan) -> pd.DataFrame:
    """``metric rows tokens kind`` and the columns of `summary.summarise`: a row per kind of row, class of words
    (``one`` token, ``several``, ``all``) and head; and per kind of phrase, where the data set tells it, over all words
    (else ``all``)."""
    if not plan.by_rows:
        return pd.DataFrame()
    several, kinds, frames = words.column("tokens") > 1, words.column("kind"), []
    sets = [("all", "all", several | ~several), ("one", "all", ~several), ("several", "all", several)]
    sets += [("all", kind, kinds == kind) for kind in sorted(set(kinds.tolist()) - {""})]
    for rows in get_args(Rows):
        for tokens, kind, chosen in sets:
            if not chosen.any():
                continue
            frame = summary.summarise({plan.by_rows: by_rows[rows]}, plan.seed, rows=chosen)
            frame.insert(1, "kind", kind)
            frame.insert(1, "tokens", tokens)
            frame.insert(1, "rows", rows)
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _reduced(named: Mapping[str, HeadScores], best: list[Mapping[str, MetricScores]]) -> dict[str, HeadScores]:
    """The five reductions of each metric as heads of one layer."""
    found = {}
    for name, score in named.items():
        parts = {
            part: np.concatenate([getattr(score, part), np.concatenate([getattr(b[name], part) for b in best])], 2)
            for part in ("values", "null", "specificity")
        }
        found[name] = replace(score, **parts)
    return found
