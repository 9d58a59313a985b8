"""Which heads ground a model's words: every metric for every head over a data set, and how sure that is.

A run streams: it captures a batch of samples, scores it, puts it into the store and forgets it. What is in the store is
not computed again, and batches are always cut the same way, so that a run which was killed ends with the same numbers.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

from tqdm.auto import tqdm

import interp
from interp.contracts import Metric
from interp.models._given import lmm_of
from interp.models._identity import fingerprint, setup
from interp.ranking.asked import Words, metrics_asked, words_of
from interp.ranking.batch import Batch, Control, Mentions, Plan
from interp.ranking.masks import pool_of
from interp.ranking.parts import Parts, size_of
from interp.ranking.result import Ranking, no_masks
from interp.ranking.tables import ranking_of
from interp.types import By, Query, Rows, Sample, Skip, Weighting
from interp.work.parts import Work
from interp.work.samples import Batches, held, repeatable
from interp.work.store import Memory, Store, key_of

HEADLINE = "pointing_game"


def rank(
    lmm: Any,
    dataset: Iterable[Sample | Skip],
    metrics: Sequence[Any] | None = None,
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
    rows: Rows = "mean",
    mentions: Mentions = "all",
    control: Control = "none",
    by: By | None = None,
    phrases: Words = None,
    lean: bool = False,
) -> Ranking:
    """The heads of a model, scored on how well they ground the phrases that name a target: whether they look at things
    (own mask beside masks of other images) and at this word's thing (`interp.ranking.specificity`).

    Args:
        dataset: goes round twice, for the masks and for the model, the second time from memory if it fits: a list or
            another object that can be iterated anew. An iterator that cannot is read into memory. A ``Skip`` in place
            of a sample is recorded.
        lmm: an LMM, (model, processor), or a name as for `interp.load`.
        metrics: names of files in ``interp/metrics``, files or modules like them, or functions of maps and masks
            (`interp.metrics._given.metric_of`); None is all of the first.
        samples: at most so many of the data set's first samples.
        answers: the samples' own answers, or those that the model generates.
        normalise: the maps of metrics that do not ask for raw attention: minus the answer's mean, or as they are.
        query: the row that predicts a word's token, or the token's own.
        weighting: maps of attention, or of "value": times the norm of each patch's projected value (`interp.record`).
        seed: of null masks, halves, intervals and permutations; together with a sample's id alone, so the order of the
            data set and the batches do not matter to them.
        store: finished batches, and beside them their maps in half precision (layers x heads x patches x 2 bytes a
            phrase and again a sample: 1.2 MB for 7B), which the mean maps of the best heads are made of. None keeps
            them in memory. Processes with one store in a folder share the work (`interp.work.sharing`); `interp.shard`
            has each compute a part alone.
        lean: keeps no maps, and takes those away that are in the store: what is missing comes from a second pass of
            the model, to the same numbers.
        nulls: masks of other images per phrase, of similar area.
        rows: a word's map is the mean over its tokens' rows, or the ``first`` or ``last`` of them alone. The first
            predicting row is the only one that cannot have read the word.
        mentions: score all phrases that name a target, or only the first that does.
        control: ``image`` (another image for the same words) or ``sinks``: see `interp.ranking.controls`.
        phrases: which words of the answers are scored (`interp.ranking.asked.Words`): words of one's own, by targets of
            that name. None are the noun phrases.
        by: the best heads are chosen by ``specificity`` or by ``mean``; None: by specificity, where any head has one.

    Raises:
        interp.plugins.UnknownName: no metric of that name.
        ValueError: a bad argument, a metric whose code cannot be read, or a sample id that occurs twice.
        NothingToRank: no phrase could be scored.

    >>> import interp
    >>> from interp.datasets import scenes
    >>> found = interp.rank(interp.load("mini-llava"), scenes.load(samples=2), ["pointing_game"], progress=False)
    >>> len(found.heads), found.manifest["phrases"]  # a row a head
    (48, 10)
    >>> found.scores["pointing_game"].values.shape  # phrase, layer, head
    (10, 6, 8)
    """
    check(answers, normalise, samples, batch, nulls, weighting, seed)
    check_kinds(answers, rows, mentions, control, by)
    lmm = lmm_of(lmm)
    asked, found, sources = metrics_asked(metrics)
    own_words, said = words_of(phrases)
    main = headline(asked, found)
    again = held(repeatable(dataset, samples))
    kept = Memory() if store is None else store
    with tqdm(total=samples, desc="masks", unit="image", disable=not progress) as bar:
        pool, ids = pool_of(kept, again, bar)
    if not len(pool.bits):
        raise no_masks(again())
    settings = {
        "model": getattr(lmm, "name", type(lmm).__name__),
        "weights": fingerprint(getattr(lmm, "model", None)),
        "setup": setup(lmm),
        "metrics": list(found),
        "sources": sources,
        "phrases_asked": said,
        "answers": answers,
        "normalise": normalise,
        "query": query,
        "weighting": weighting,
        "seed": seed,
        "nulls": nulls,
        "max_new_tokens": max_new_tokens,
        "rows": rows,
        "mentions": mentions,
        "control": control,
        "headline": main,
        "pool": pool.digest(),
        "version": interp.__version__,
    }
    plan = Plan(lmm, found, pool, answers, normalise, query, seed, nulls, max_new_tokens, weighting)
    by_rows = main if found[main].uses_mask else ""
    plan = replace(plan, rows=rows, mentions=mentions, control=control, by_rows=by_rows, phrases=own_words)
    size = size_of(plan, again(), len(ids), lean)
    if progress and store is not None and size:
        tqdm.write(f"about {_told(size)}", file=sys.stderr)
    parts = Parts(plan, kept, again, batch, lean)
    work = Work(parts, {"what": "scores", **settings}, Batches(again, batch), partial(key_of, settings), parts.measured)
    with tqdm(total=len(ids), desc="attention", unit="image", disable=not progress) as bar:
        for key, scored in work.in_order(lambda part: (part.key, Batch.of(part.arrays, maps=False)), bar):
            parts.add(key, scored)
    manifest = {
        **settings,
        "raw": [name for name in asked if found[name].raw],
        "batch": batch,
        "samples": len(ids),
        "asked": asked,
        "size": size,
    }
    manifest["batches"] = hashlib.sha256(" ".join(parts.keys).encode()).hexdigest()
    found = ranking_of(plan, parts.words, parts.scores, parts.best, asked, by, manifest, parts.folder)
    parts.let_go()
    return found


def _told(size: Mapping[str, int]) -> str:
    """The sizes of a run, in gigabytes."""
    maps, scores, beside = (f"{size[name] / 1e9:.2g} GB" for name in ("maps", "scores", "beside"))
    return f"{maps} of maps (none with lean) and {scores} of scores are kept, {beside} more while tables are made"


def headline(asked: Sequence[str], metrics: Mapping[str, Metric]) -> str:
    """The metric that a run is about, named before anything is measured: the pointing game if it is asked for, else
    the first that uses a mask, else the first."""
    with_mask = [name for name in asked if metrics[name].uses_mask]
    return HEADLINE if HEADLINE in asked else (with_mask or list(asked))[0]


def check_kinds(answers: str, rows: str, mentions: str, control: str, by: str | None) -> None:
    """Nothing, if there are such kinds of rows, mentions, controls and choices; else a ValueError."""
    kinds = {"rows": (rows, Rows), "mentions": (mentions, Mentions), "control": (control, Control)}
    for name, (value, known) in {**kinds, **({} if by is None else {"by": (by, By)})}.items():
        if value not in get_args(known):
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, get_args(known)))}")
    if control == "image" and answers == "generated":
        raise ValueError("control='image' keeps the words and changes the image; it needs answers='reference'")


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
