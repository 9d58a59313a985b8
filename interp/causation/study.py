"""Grounding beside its effect: which heads look at the thing that a word names, and which of them make it said.

One study of a model: heads are ranked by grounding (`interp.rank`); each is taken away by itself, and the best of them
together beside random heads of the same layers (`interp.effects`); and the edges from a word to its thing's patches are
knocked out, beside as many other patches, in all layers and in each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from interp.answer.layers import layers_with_heads
from interp.answer.replay import Answer
from interp.attention.ablation import Reference
from interp.causation.asked import study_of
from interp.causation.correlation import correlations
from interp.causation.harm import measured
from interp.causation.result import Cause, Effects
from interp.causation.setting import EDGES
from interp.causation.tables import contrast_table, edge_table, layer_table, set_table
from interp.causation.usual import draws_for
from interp.causation.usual import reference as reference_of
from interp.models._given import lmm_of
from interp.ranking.result import TOP
from interp.ranking.study import rank
from interp.statistics.scores import HeadScores
from interp.statistics.summary import summarise
from interp.types import By, Sample, Skip, Weighting
from interp.work.samples import held, repeatable
from interp.work.sharing import together
from interp.work.store import Memory, Store

BY_LAYER = ("own", "background")


def cause(
    lmm: Any,
    dataset: Iterable[Sample | Skip],
    samples: int | None = None,
    *,
    metric: str = "pointing_game",
    weighting: Weighting = "attention",
    intervention: str = "mean",
    where: str = "answer",
    reference: Reference | None = None,
    generate: bool = False,
    answers: str = "reference",
    draws: int = 200,
    seed: int = 0,
    batch: int = 8,
    copies: int = 64,
    max_new_tokens: int = 128,
    store: Store | None = None,
    progress: bool = True,
    by: By | None = None,
) -> Cause:
    """The study of one model on one data set.

    Args:
        metric, weighting, by: of grounding; heads are ranked by its specificity, where there is one, or by ``mean``, on
            maps of attention or of attention times value norm.
        intervention, where, reference: how heads are taken away: "mean", "zero" or "resample", as for `interp.effects`.
        generate: also whether the sets' and edges' words are still named when the model answers by itself.
        draws: random sets beside each set of the best heads, among which it has a rank.

    All else is as for `interp.rank` and `interp.effects`.

    Raises:
        ValueError: a bad argument, or "knockout" as intervention: edges are knocked out anyway.
        interp.ranking.result.NothingToRank, interp.causation.result.NothingToMeasure: no phrase names a target.
    """
    if intervention == "knockout":
        raise ValueError("intervention is 'knockout'; expected 'mean', 'zero' or 'resample': edges are cut besides")
    lmm, said = lmm_of(lmm), dict[str, Answer]()
    data, kept = held(repeatable(dataset, samples)), Memory() if store is None else store
    common: Any = {"answers": answers, "seed": seed, "batch": batch, "max_new_tokens": max_new_tokens}
    common |= {"store": kept, "progress": progress}
    with together():  # which heads are best is asked of the whole ranking, and that is the small part of the work
        ranking = rank(lmm, data, [metric], weighting=weighting, by=by, **common)
    grounding = ranking.scores[metric]
    if intervention != "zero" and reference is None:
        rows: Any = "all" if where == "all" else "answer"
        reference = reference_of(lmm, data, rows=rows, draws=draws_for(intervention), said=said, **common)
    how: Any = {"draws": draws, "copies": copies, "weighting": weighting, "batch": batch, "seed": seed}
    how |= {"answers": answers, "max_new_tokens": max_new_tokens}
    away: Any = {"intervention": intervention, "where": where, "reference": reference, **how}
    numbers = layers_with_heads(lmm)
    best = {name: grounding.top(k, by) for name, k in TOP.items() if k < len(numbers) * lmm.heads}
    single, joint, *rest = measured(
        lmm,
        [
            study_of(lmm, "all", **away),
            study_of(lmm, best, **away, generate=generate),
            *(study_of(lmm, {"all heads": "all"}, "knockout", keys=k, generate=generate, **how) for k in EDGES),
            *(study_of(lmm, "layers", "knockout", keys=k, **how) for k in BY_LAYER),
        ],
        data, said, batch=batch, store=kept, progress=progress,
    )  # fmt: skip
    cut: dict[str, Effects] = dict(zip(EDGES, rest[: len(EDGES)], strict=True))
    layers: dict[str, Effects] = dict(zip(BY_LAYER, rest[len(EDGES) :], strict=True))
    scores = {metric: grounding} | {n: _by_head(score, numbers, lmm.heads) for n, score in single.scores.items()}
    return Cause(
        heads=summarise(scores, seed),
        correlation=correlations(scores, metric, seed),
        sets=set_table(joint, seed),
        edges=edge_table(cut),
        contrasts=contrast_table(cut, seed),
        layers=layer_table(layers),
        phrases=cut["own"].phrases,
        skipped=single.skipped,
        manifest={
            "metric": metric,
            "grounding": ranking.manifest,
            "effects": single.manifest,
            "sets": {name: [list(h) for h in heads] for name, heads in best.items()},
            "seed": seed,
        },
    )


def _by_head(score: HeadScores, layers: tuple[int, ...], heads: int) -> HeadScores:
    """Units that are all heads in order, as layers and heads."""
    shape = (len(score.values), len(layers), heads)
    values, null = (None if x is None else x.reshape(shape) for x in (score.values, score.null))
    assert values is not None
    about = {"image_ids": score.image_ids, "layers": layers}
    return HeadScores(score.metric, True, score.sample_ids, score.phrases, values, null, **about)
