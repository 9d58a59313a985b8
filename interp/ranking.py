"""Which heads ground a model's words: every metric for every head over a data set, and how sure that is.

A run streams: it captures a batch of samples, scores it, puts it into the store and forgets it. What is in the store is
not computed again, and batches are always cut the same way, so that a run which was killed ends with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, cast, get_args

import numpy as np
import pandas as pd
from tqdm import tqdm

import interp
from interp import batches, plugins, summary
from interp.batches import REDUCTIONS, Batch, Plan
from interp.contracts import Metric
from interp.localization import mask_free
from interp.nulls import MaskPool, half
from interp.stores import Memory, Store, fingerprint, key_of, setup
from interp.types import Head, HeadScores, Query, Sample, Skip, Weighting

TOP = {"top1": 1, "top3": 3, "top10": 10}
MASK_FREE = ("image_mass", "spatial_entropy")


class NothingToRank(ValueError):
    """Not one phrase could be scored; the message gives the commonest reasons."""


@dataclass(frozen=True)
class Ranking:
    """What a run found.

    ``scores``: metric -> every phrase and head. ``heads``: a row per metric and head (`summary.statistics`).
    ``reductions``: a row per metric and ``heads`` in ``paper`` (mean of all heads), ``released`` (head H-2 of each
    layer), ``top1``, ``top3``, ``top10``: mean map of the best heads by that metric, always chosen on the half of the
    images that the phrase's image is not in. ``phrases``: their values phrase by phrase. ``localization``: the
    mask-free ranking. ``agreement``: Kendall's tau per metric. ``manifest``: what went in.
    """

    scores: dict[str, HeadScores]
    heads: pd.DataFrame
    reductions: pd.DataFrame
    phrases: pd.DataFrame
    localization: pd.DataFrame
    agreement: pd.DataFrame
    skipped: tuple[Skip, ...]
    manifest: dict[str, Any] = field(default_factory=dict)


def rank(
    lmm: Any,
    dataset: Iterable[Sample | Skip],
    metrics: Sequence[str] | None = None,
    samples: int | None = None,
    *,
    answers: Literal["reference", "generated"] = "reference",
    normalise: Literal["answer", "none"] = "answer",
    query: Query = "predicting",
    weighting: Weighting = "attention",
    seed: int = 0,
    batch: int = 8,
    store: Store | None = None,
    progress: bool = True,
    nulls: int = 8,
    max_new_tokens: int = 128,
) -> Ranking:
    """The heads of a model, scored on how well they ground the phrases that name a target.

    Args:
        dataset: goes round twice, for the masks and for the model: a list or another object that can be iterated
            anew. An iterator that cannot is read into memory. A ``Skip`` in place of a sample is recorded.
        metrics: names of files in ``interp/metrics``; None is all of them.
        samples: at most so many of the data set's first samples.
        answers: the samples' own answers, or those that the model generates.
        normalise: the maps of metrics that do not ask for raw attention: minus the answer's mean, or as they are.
        query: the row that predicts a word's token, or the token's own.
        weighting: maps of attention, or of "value": times the norm of each patch's projected value (`interp.record`).
        seed: of null masks, halves, intervals and permutations; together with a sample's id alone, so the order of the
            data set and the batches do not matter to them.
        store: finished batches, with their maps in half precision (layers x heads x patches x 2 bytes a phrase and
            again a sample: 1.2 MB for 7B). None keeps them in memory.
        nulls: masks of other images per phrase, of similar area.

    Raises:
        interp.plugins.UnknownName: no metric of that name.
        ValueError: a bad argument, or a sample id that occurs twice.
        NothingToRank: no phrase could be scored.
    """
    check(answers, normalise, samples, batch, nulls, weighting)
    asked = list(dict.fromkeys(plugins.names("metrics") if metrics is None else metrics))
    found = {name: cast(Metric, plugins.get("metrics", name)) for name in dict.fromkeys([*asked, *MASK_FREE])}
    again = repeatable(dataset, samples)
    ids: list[str] = []
    with tqdm(total=samples, desc="masks", unit="image", disable=not progress) as bar:
        pool = MaskPool.of(_noting(again(), ids, bar))
    settings = {
        "model": getattr(lmm, "name", type(lmm).__name__),
        "weights": fingerprint(getattr(lmm, "model", None)),
        "setup": setup(lmm),
        "metrics": list(found),
        "answers": answers,
        "normalise": normalise,
        "query": query,
        "weighting": weighting,
        "seed": seed,
        "nulls": nulls,
        "max_new_tokens": max_new_tokens,
        "pool": pool.digest(),
        "version": interp.__version__,
    }
    plan = Plan(lmm, found, pool, answers, normalise, query, seed, nulls, max_new_tokens, weighting)
    kept = Memory() if store is None else store
    done, keys = [], []
    with tqdm(total=len(ids), desc="attention", unit="image", disable=not progress) as bar:
        for group in _cut(again(), batch):
            key = key_of(settings, group)
            arrays = kept.get(key)
            if arrays is None:
                arrays = batches.score_batch(plan, group)
                kept.put(key, arrays)
            done.append(Batch.of(arrays, maps=False))
            keys.append(key)
            bar.update(len(group))
    manifest = {**settings, "batch": batch, "samples": len(ids), "asked": asked}
    return _finish(plan, done, lambda i: _again(kept, keys[i]), asked, manifest)


def _again(store: Store, key: str) -> Batch:
    """The batch with its maps."""
    arrays = store.get(key)
    if arrays is None:
        raise LookupError(f"the store lost {key} while the run used it; start the run again, it goes on from the rest")
    return Batch.of(arrays)


def check(answers: str, normalise: str, samples: int | None, batch: int, nulls: int, weighting: str) -> None:
    """Nothing, if the options of a run are such as there are; else a ValueError."""
    for name, value, known in (
        ("answers", answers, ("reference", "generated")),
        ("normalise", normalise, ("answer", "none")),
        ("weighting", weighting, get_args(Weighting)),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}")
    for name, number, least in (("samples", samples, 1), ("batch", batch, 1), ("nulls", nulls, 0)):
        if number is not None and number < least:
            raise ValueError(f"{name} is {number}; expected at least {least}")


def repeatable(dataset: Iterable[Sample | Skip], samples: int | None) -> Callable[[], Iterator[Sample | Skip]]:
    """A function that starts the first ``samples`` samples anew each time."""
    if iter(dataset) is dataset:
        dataset = list(islice(dataset, samples))
    return lambda: islice(dataset, samples)


def _noting(samples: Iterable[Sample | Skip], ids: list[str], bar: tqdm) -> Iterator[Sample]:
    """The samples that could be read; all ids are added to the list."""
    seen = set()
    for sample in samples:
        name = sample.sample_id if isinstance(sample, Skip) else sample.id
        if name in seen:
            raise ValueError(f"the sample id {name!r} occurs twice; ids tell images apart, give each its own")
        seen.add(name)
        ids.append(name)
        if isinstance(sample, Sample):
            yield sample
        bar.update()


def _cut(samples: Iterator[Sample | Skip], batch: int) -> Iterator[list[Sample | Skip]]:
    while group := list(islice(samples, batch)):
        yield group


def _finish(
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
    best = [batches.score_top(plan, load(i), top, TOP) for i, _ in done_with]
    reduced = {name: _reduced(score, [b for _, b in done_with], best) for name, score in scores.items()}
    names = [*REDUCTIONS, *TOP]
    heads = summary.summarise(scores, plan.seed)
    localization = mask_free(*(everything[name].values for name in MASK_FREE))
    higher = {name: plan.metrics[name].higher_is_better for name in asked}
    phrases = [p for _, b in done_with for p in b.phrases]
    manifest |= {"phrases": len(phrases), "images": len({p["sample_id"] for p in phrases}), "skipped": len(skipped)}
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
