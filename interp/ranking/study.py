"""Which heads ground a model's words: every metric for every head over a data set, and how sure that is.

A run streams: it captures a batch of samples, scores it, puts it into the store and forgets it. What is in the store is
not computed again, and batches are always cut the same way, so that a run which was killed ends with the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast, get_args

from tqdm import tqdm

import interp
from interp import plugins
from interp.contracts import Metric
from interp.models._identity import fingerprint, setup
from interp.ranking.batch import Batch, Plan
from interp.ranking.measure import score_batch
from interp.ranking.result import MASK_FREE, Ranking
from interp.ranking.tables import ranking_of
from interp.statistics.nulls import MaskPool
from interp.types import Query, Sample, Skip, Weighting
from interp.work.samples import cut, noting, repeatable
from interp.work.store import Memory, Store, key_of


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
    check(answers, normalise, samples, batch, nulls, weighting, seed)
    asked = list(dict.fromkeys(plugins.names("metrics") if metrics is None else metrics))
    found = {name: cast(Metric, plugins.get("metrics", name)) for name in dict.fromkeys([*asked, *MASK_FREE])}
    again = repeatable(dataset, samples)
    ids: list[str] = []
    with tqdm(total=samples, desc="masks", unit="image", disable=not progress) as bar:
        pool = MaskPool.of(noting(again(), ids, bar))
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
        for group in cut(again(), batch):
            key = key_of(settings, group)
            arrays = kept.get(key)
            if arrays is None:
                arrays = score_batch(plan, group)
                kept.put(key, arrays)
            done.append(Batch.of(arrays, maps=False))
            keys.append(key)
            bar.update(len(group))
    manifest = {**settings, "batch": batch, "samples": len(ids), "asked": asked}
    return ranking_of(plan, done, lambda i: _again(kept, keys[i]), asked, manifest)


def _again(store: Store, key: str) -> Batch:
    """The batch with its maps."""
    arrays = store.get(key)
    if arrays is None:
        raise LookupError(f"the store lost {key} while the run used it; start the run again, it goes on from the rest")
    return Batch.of(arrays)


def check(
    answers: str, normalise: str, samples: int | None, batch: int, nulls: int, weighting: str, seed: int = 0
) -> None:
    """Nothing, if the options of a run are such as there are; else a ValueError."""
    for name, value, known in (
        ("answers", answers, ("reference", "generated")),
        ("normalise", normalise, ("answer", "none")),
        ("weighting", weighting, get_args(Weighting)),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}")
    for name, number, least in (("samples", samples, 1), ("batch", batch, 1), ("nulls", nulls, 0), ("seed", seed, 0)):
        if number is not None and number < least:
            raise ValueError(f"{name} is {number}; expected at least {least}")
