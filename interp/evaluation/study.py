"""A model's answers about a data set, segmented: one `Record` a sample, kept batch by batch so that a run goes on.

A sample that cannot be read is skipped and counts nowhere; one that the model fails on is a record without masks and
counts as a miss. Both are named in what comes back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

import interp
from interp.contracts import Segmenter
from interp.evaluation import gcg, instances, narrative, referring
from interp.evaluation.batch import GIVEN, TASKS, How, Task, beyond, pack, records_of, unpack
from interp.evaluation.result import Collected, NothingToScore, Record
from interp.evaluation.tables import Evaluated
from interp.models._identity import fingerprint, setup
from interp.models._lmm import LMM
from interp.segmentation.method import Method, check_scale
from interp.types import Query, Sample, Skip, Weighting
from interp.work.parts import Group, Work
from interp.work.samples import Batches, Repeatable
from interp.work.sharing import reading
from interp.work.store import Memory, Store, key_of


def collect(
    lmm: LMM,
    segmenter: Segmenter,
    dataset: Iterable[Sample | Skip],
    task: Task,
    *,
    method: Method | None = None,
    answers: Literal["reference", "generated"] | None = None,
    query: Query = "predicting",
    normalise: Literal["answer", "none"] = "answer",
    weighting: Weighting = "attention",
    samples: int | None = None,
    batch: int = 8,
    max_new_tokens: int = 128,
    store: Store | None = None,
    progress: bool = True,
) -> Collected:
    """What the model says and marks in every image beside what is there.

    Args:
        task: ``gcg`` and ``instances``: the model answers the sample's prompt and each noun phrase gets a mask.
            ``referring``: it reads the expression as an answer, which is the one phrase. ``narrative``: it reads the
            narrative, whose annotated phrases get the masks. In both, a phrase stands for its root word.
        answers: "reference" lets the model read the data set's answers in ``gcg`` and ``instances`` too.
        store: finished batches; the same call with the same store goes on where it was.

    Raises:
        ValueError: an option that the task cannot take, or a sample id that occurs twice.
        NothingToScore: no sample has a mask.
    """
    how = How(task, method or Method(), _answers(task, answers), query, normalise, max_new_tokens, weighting)
    _check(how)
    settings = {
        **dataclasses.asdict(dataclasses.replace(how, method=Method())),
        "method": repr(how.method),
        "model": lmm.name,
        "weights": fingerprint(lmm.model),
        "setup": setup(lmm),
        "segmenter": segmenter.name,
        "segmenter_weights": fingerprint(getattr(segmenter, "model", None)),
        "version": interp.__version__,
    }
    _look_ahead(dataset, samples)
    kept = Memory() if store is None else store
    records: list[Record] = []
    skipped: list[Skip] = []
    computed, seen = list[int](), set[str]()

    def key(group: Group) -> str:
        _once((item.sample_id if isinstance(item, Skip) else item.id for item in group), seen)
        _suits(group, task)
        return key_of({**settings, "beyond": [beyond(s) for s in group]}, group).replace("scores", "records")

    def compute(group: Group) -> dict[str, np.ndarray]:
        computed.append(len(group))
        return pack(*records_of(lmm, segmenter, group, how))

    work = Work(kept, {"what": "records", **settings}, _batches(dataset, samples, batch), key, compute)
    with tqdm(total=samples, desc="answers", unit="image", disable=not progress) as bar, reading():
        for more in work.in_order(lambda part: unpack(part.arrays), bar):
            records += more[0]
            skipped += more[1]
    if not any(r.truths for r in records):
        raise _nothing(len(records), skipped)
    failed = [Skip(r.sample_id, f"counted as a miss: {r.failed}") for r in records if r.failed]
    return Collected(tuple(records), (*skipped, *failed), len(computed))


def _answers(task: str, answers: str | None) -> Any:
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; expected one of {', '.join(TASKS)}")
    if task in GIVEN and answers == "generated":
        raise ValueError(f"in the task {task} the model reads the data set's text; leave out answers='generated'")
    return "reference" if task in GIVEN else answers or "generated"


def _check(how: How) -> None:
    if how.normalise not in ("answer", "none"):
        raise ValueError(f"normalise is {how.normalise!r}; expected 'answer' or 'none'")
    m = how.method
    check_scale(m, how.weighting)
    if how.task in GIVEN and (m.drop_words or m.min_confidence is not None or m.merge == "drop"):
        raise ValueError(
            f"the task {how.task} needs a mask for every phrase; leave out drop_words, min_confidence and merge='drop'"
        )


def _batches(dataset: Iterable[Sample | Skip], samples: int | None, batch: int) -> Batches:
    for name, number in (("samples", samples), ("batch", batch)):
        if number is not None and number < 1:
            raise ValueError(f"{name} is {number}; expected at least 1")
    return Batches(Repeatable(dataset, samples), batch)


def _look_ahead(dataset: Iterable[Sample | Skip], samples: int | None) -> None:
    """Nothing, if some sample has a mask: that none has must show before the model answers about all of them."""
    if iter(dataset) is dataset:
        return
    skipped, count = [], 0
    for item in islice(dataset, samples):
        if isinstance(item, Skip):
            skipped.append(item)
        elif item.targets:
            return
        else:
            count += 1
    raise _nothing(count, skipped)


def _nothing(count: int, skipped: Sequence[Skip]) -> NothingToScore:
    first = f", the first because {skipped[0].reason}" if skipped else ""
    return NothingToScore(
        f"none of {count} samples has a mask to compare with ({len(skipped)} were skipped{first}); take a data set "
        "with masks"
    )


def _once(names: Iterable[str], seen: set[str]) -> None:
    for name in names:
        if name in seen:
            raise ValueError(f"the sample id {name!r} occurs twice; ids tell samples apart, give each its own")
        seen.add(name)


def _suits(group: Sequence[Sample | Skip], task: str) -> None:
    for sample in group:
        if isinstance(sample, Skip):
            continue
        if task == "referring" and len(sample.targets) != 1:
            raise ValueError(
                f"{sample.id!r} has {len(sample.targets)} targets; the task referring needs one expression a sample, "
                "as the data set refcoco has it"
            )
        if task == "narrative" and any(not hasattr(target, "span") for target in sample.targets):
            raise ValueError(
                f"{sample.id!r} does not say where its phrases stand in the text; the task narrative needs the data "
                "set narratives"
            )


def evaluate(task: str, records: Sequence[Record], encode: Any = "no text encoder", seed: int = 0) -> Evaluated:
    """The task's measures, with their rows."""
    if task == "gcg":
        return gcg.evaluate(records, encoder=encode, seed=seed)
    return {"instances": instances, "referring": referring, "narrative": narrative}[task].evaluate(records, seed=seed)
