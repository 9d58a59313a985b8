"""One batch of an evaluation: what the model says and marks beside what is there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from interp.answer.capturing import captures
from interp.contracts import Segmenter
from interp.evaluation.result import Record, record
from interp.models._lmm import LMM
from interp.segmentation.method import Method
from interp.segmentation.study import segment_capture
from interp.types import Capture, Query, Sample, Skip, Weighting
from interp.work.halves import only_its_own
from interp.work.store import marked

Task = Literal["gcg", "instances", "referring", "narrative"]


TASKS: tuple[Task, ...] = get_args(Task)


GIVEN = ("referring", "narrative")
"""Tasks whose phrases are given: the model reads the data set's text. In the others it answers."""


@dataclass(frozen=True)
class How:
    """What every sample of a run has in common."""

    task: Task
    method: Method
    answers: Literal["reference", "generated"]
    query: Query = "predicting"
    normalise: str = "answer"
    max_new_tokens: int = 128
    weighting: Weighting = "attention"


def beyond(sample: Sample | Skip) -> str:
    """What a data set says of a sample beyond `Sample` and `Target`, which the key of a batch knows."""
    if isinstance(sample, Skip):
        return ""
    plain = {f.name for f in dataclasses.fields(Sample)}
    own = {f.name: getattr(sample, f.name) for f in dataclasses.fields(sample) if f.name not in plain}
    targets = [
        {f.name: getattr(t, f.name) for f in dataclasses.fields(t) if f.name not in ("phrase", "mask")}
        for t in sample.targets
    ]
    return repr((own, targets))


def records_of(
    lmm: LMM, segmenter: Segmenter, group: Sequence[Sample | Skip], how: How
) -> tuple[list[Record], list[Skip]]:
    found = captures(
        lmm,
        group,
        answers=how.answers,
        batch=len(group),
        query=how.query,
        weighting=how.weighting,
        end=how.method.end,
        max_new_tokens=how.max_new_tokens,
        phrases=_phrases_of(how.task),
    )
    records: list[Record] = []
    skipped: list[Skip] = []
    for sample, captured in zip(group, found, strict=True):
        if isinstance(sample, Skip):
            skipped.append(sample)
        else:
            records.append(_record(lmm, segmenter, sample, captured, how))
    return records, skipped


def _record(lmm: LMM, segmenter: Segmenter, sample: Sample, captured: Capture | Skip, how: How) -> Record:
    if isinstance(captured, Skip):
        made = record(sample, captured.reason)
        if how.answers == "generated" and "no noun phrase" in captured.reason:  # its caption is scored all the same
            return dataclasses.replace(made, answer=lmm.generate(sample.image, sample.prompt, how.max_new_tokens))
        return made
    try:
        made = segment_capture(captured, sample.image, segmenter, method=how.method, normalise=how.normalise)
    except Exception as error:
        if not only_its_own(error):
            raise
        failed = record(sample, f"{type(error).__name__}: {error}")
        return dataclasses.replace(failed, answer=captured.answer)
    return record(sample, made)


def _phrases_of(task: str) -> Any:
    """A sample -> the phrases to mark in its answer, as characters; None lets the parser find them."""
    if task == "referring":
        return lambda sample: [(0, len(sample.answer))]
    if task == "narrative":
        return lambda sample: [t.span for t in sample.targets]
    return None


def pack(records: Sequence[Record], skipped: Sequence[Skip]) -> dict[str, np.ndarray]:
    text = {"records": [r.to_json() for r in records], "skipped": [[s.sample_id, s.reason] for s in skipped]}
    arrays = {"json": np.frombuffer(json.dumps(text).encode(), dtype=np.uint8)}
    return marked(arrays, any(r.truths for r in records))


def unpack(arrays: Mapping[str, np.ndarray]) -> tuple[list[Record], list[Skip]]:
    text = json.loads(arrays["json"].tobytes().decode())
    return [Record.from_json(r) for r in text["records"]], [Skip(*s) for s in text["skipped"]]
