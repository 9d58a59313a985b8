"""Measures every checkpoint of a series on the same images and words: what `interp emerge` computes.

The store holds one entry per checkpoint and batch, under a key that changes with whatever can change its scores. A
killed run goes on at the batch where it was; a checkpoint that comes later costs only itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from tqdm.auto import tqdm

import interp
from interp.emergence.batch import Job, Ready, example_maps, examples_of, measure
from interp.emergence.frozen import inputs_cache, vision_cache
from interp.emergence.points import digest_of
from interp.emergence.result import METRICS, Emerged
from interp.emergence.tables import emergence
from interp.emergence.timeline import Series
from interp.models._identity import setup
from interp.ranking.asked import Words, metrics_asked, words_of
from interp.ranking.batch import Mentions, Plan
from interp.ranking.result import NothingToRank, no_masks
from interp.ranking.study import check, check_kinds
from interp.statistics.nulls import MaskPool, draw
from interp.types import By, Query, Rows, Sample, Skip, Weighting
from interp.work.halves import only_its_own
from interp.work.samples import held, repeatable
from interp.work.sharing import Several, current
from interp.work.store import Memory, Store


def emerge(
    lmm: Any,
    series: Series,
    dataset: Iterable[Sample | Skip],
    metrics: Sequence[Any] = METRICS,
    samples: int | None = None,
    *,
    answers: Literal["reference", "generated"] = "reference",
    normalise: Literal["answer", "none"] = "answer",
    query: Query = "predicting",
    weighting: Weighting = "attention",
    recall: bool = False,
    examples: int = 3,
    seed: int = 0,
    batch: int = 8,
    nulls: int = 8,
    max_new_tokens: int = 128,
    store: Store | None = None,
    progress: bool = True,
    rows: Rows = "mean",
    mentions: Mentions = "all",
    by: By | None = None,
    phrases: Words = None,
) -> Emerged:
    """Every metric for every head at every sound checkpoint, and when heads begin to look at things, and at the thing
    that their word names (`interp.emergence.tables`).

    ``lmm`` is the series' model, at whichever checkpoint; it has its weights again afterwards. ``recall`` lets the
    model answer at each checkpoint and counts the targets that it names. All else as for `interp.rank`.

    Raises:
        interp.ranking.result.NothingToRank: no checkpoint could be measured; with the reasons.
        interp.plugins.UnknownName: no metric of that name.
    """
    check(answers, normalise, samples, batch, nulls, weighting, seed)
    check_kinds(answers, rows, mentions, "none", by)
    (_, found, sources), (own_words, said) = metrics_asked(metrics), words_of(phrases)
    again = held(repeatable(dataset, samples))
    ids = [s.sample_id if isinstance(s, Skip) else s.id for s in again()]
    if len(set(ids)) < len(ids):
        raise ValueError("two samples have one id; ids tell images apart, give each its own")
    pool = MaskPool.of(s for s in again() if isinstance(s, Sample))
    if not len(pool.bits):
        raise no_masks(again())
    settings = {
        "base": digest_of(series.base_files()),
        "numbers": [str(lmm.model.dtype), lmm.device.type, setup(lmm)],
        "metrics": {name: sources[name] for name in found},
        "phrases": said,
        "how": [answers, normalise, query, weighting, seed, nulls, max_new_tokens, rows, mentions],
        "pool": pool.digest(),
        "version": interp.__version__,
    }
    plan = Plan(lmm, found, pool, answers, normalise, query, seed, nulls, max_new_tokens, weighting, known={})
    plan = replace(plan, rows=rows, mentions=mentions, phrases=own_words)
    shown, kept = _shown(again(), examples, seed), Memory() if store is None else store
    return _emerge(Job(plan, series, again, shown, settings, batch, recall, kept), progress, by)


def _emerge(job: Job, progress: bool, by: By | None) -> Emerged:
    measured, maps, skipped, computed, several = [], {}, [], 0, Several()
    lmm = job.plan.lmm
    with job.series.swap(lmm) as swap, inputs_cache(lmm), vision_cache(lmm.model) as cache:
        bar = tqdm(current().turn(job.series.sound), desc="checkpoints", unit="checkpoint", disable=not progress)
        for point in bar:
            bar.set_postfix_str(f"step {point.step}")
            ready = Ready(swap, cache, point)
            try:
                found = several(measure, job, point, ready)
                maps[point.step] = several(example_maps, job, point, ready)
            except Exception as error:
                if not only_its_own(error):
                    raise
                swap.skipped[point.step] = f"{type(error).__name__}: {error}"
                continue
            computed += ready.used
            if not several.left:
                measured.append(found[0])
                skipped += found[1]
        several.check()
        skipped += [(f"checkpoint {step}", reason) for step, reason in sorted(swap.skipped.items())]
    if not measured:
        raise NothingToRank("no checkpoint could be measured: " + "; ".join(f"{a}: {b}" for a, b in skipped[:5]))
    return Emerged(emergence(measured, seed=job.plan.seed, by=by), examples_of(job, maps), skipped, computed)


def _shown(samples: Iterable[Sample | Skip], count: int, seed: int) -> list[Sample]:
    """Samples with a target to look at, drawn by their ids."""
    with_target = [s for s in samples if isinstance(s, Sample) and s.targets] if count else []
    return sorted(with_target, key=lambda s: draw(seed, "example", s.id).random())[:count]
