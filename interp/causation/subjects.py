"""Batches of samples with their answers, and the words of them whose things are known: what effects are measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.answer.batch import Job, grids_of, job_of, parse
from interp.answer.maps import coverage
from interp.answer.replay import Answer, Replay, generate, replay
from interp.answer.targets import match_targets
from interp.models._lmm import LMM, evaluating
from interp.types import PatchGrid, Phrase, Sample, Skip
from interp.work.halves import in_halves, only_its_own

Found = TypeVar("Found")


@dataclass(frozen=True)
class Subject:
    """A phrase of an answer that names a target. ``sample`` is its place in the batch; ``mask`` is the target's in
    pixels, ``cover`` the share of each patch that it covers."""

    sample: int
    phrase: Phrase
    mask: Bool[np.ndarray, "height width"]
    cover: Float[Tensor, "row col"]


@dataclass(frozen=True)
class Group:
    """A batch: samples that could be read, what the model is given, each answer's tokens, and the subjects.

    ``keys`` are the columns of the image's tokens (`interp.types.PatchGrid.tokens`) with the padding counted, -1 where
    an image has fewer.
    """

    samples: list[Sample]
    inputs: dict[str, Tensor]
    ids: list[list[int]]
    grids: list[PatchGrid]
    keys: Int[Tensor, "sample key"]
    subjects: list[Subject]
    skipped: list[Skip]

    def replay(self, model: Any) -> Replay:
        """The pass over prompts and answers."""
        return replay(model, self.inputs, self.ids, "predicting")


def read_group(
    lmm: LMM,
    samples: Sequence[Sample | Skip],
    answers: Literal["reference", "generated"],
    max_new_tokens: int,
    first: Callable[[Group], Found],
    said: dict[str, Answer],
) -> tuple[Group, Found | None]:
    """One batch, and what ``first``, a plain pass over it, gives; None if no sample is left.

    Samples that cannot be read, that the model cannot take, or of which no phrase names a target, are skipped with the
    reason. ``said``: generated answers by sample id; those in it are not generated again, and new ones are put there.
    """
    skipped, jobs = [], []
    for sample in samples:
        try:
            if isinstance(sample, Skip):
                skipped.append(sample)
                continue
            if answers == "reference" and sample.answer is None:
                raise ValueError("the sample has no reference answer; use answers='generated'")
            given = sample.answer if answers == "reference" else None
            jobs.append((sample, job_of(lmm, sample.id, sample.image, sample.prompt, given, None)))
        except Exception as error:
            if not only_its_own(error):
                raise
            skipped.append(_skip(sample, error))
    found = _answers(lmm, [job for _, job in jobs], answers, max_new_tokens, said)
    kept = []
    for (sample, job), answer in zip(jobs, found, strict=True):
        parsed = answer if isinstance(answer, Exception) else parse(lmm, job, answer, "phrases")
        if isinstance(parsed, Exception):
            skipped.append(_skip(sample, parsed))
            continue
        if not (named := match_targets(parsed.phrases, sample.targets)):
            skipped.append(Skip(sample.id, f"no phrase of the answer {parsed.text!r} names a target"))
            continue
        kept.append((sample, job, answer, [(parsed.phrases[i], mask) for i, mask in named]))
    if not kept:
        return _group(lmm, [], skipped), None
    try:
        group = _group(lmm, kept, skipped)
        return group, first(group)
    except Exception as error:
        if not only_its_own(error):
            raise
    seen = in_halves(kept, lambda some: _look(lmm, some))
    skipped += [_skip(s, e) for (s, *_), e in zip(kept, seen, strict=True) if isinstance(e, Exception)]
    group = _group(lmm, [k for k, e in zip(kept, seen, strict=True) if not isinstance(e, Exception)], skipped)
    return group, first(group) if group.samples else None


@torch.no_grad()
def _look(lmm: LMM, kept: Sequence[tuple[Sample, Job, Answer, Any]]) -> list[None]:
    """One plain pass over the samples: shows which of them the model cannot take, if the first pass over all failed."""
    with evaluating(lmm.model):
        lmm.model(**_group(lmm, kept, []).replay(lmm.model).call, logits_to_keep=1)
    return [None] * len(kept)


def _group(lmm: LMM, kept: Sequence[tuple[Sample, Job, Answer, Any]], skipped: list[Skip]) -> Group:
    if not kept:
        return Group([], {}, [], [], torch.empty(0, 0, dtype=torch.long), [], skipped)
    jobs = [job for _, job, _, _ in kept]
    inputs = lmm.inputs([job.image for job in jobs], [job.text for job in jobs])
    grids, keys = grids_of(lmm, jobs, inputs)
    subjects = [
        Subject(b, phrase, mask, coverage(mask[None], grids[b])[0])
        for b, (_, _, _, named) in enumerate(kept)
        for phrase, mask in named
    ]
    return Group([s for s, *_ in kept], inputs, [a.ids for _, _, a, _ in kept], grids, keys, subjects, skipped)


def _answers(
    lmm: LMM, jobs: Sequence[Job], answers: str, max_new_tokens: int, said: dict[str, Answer]
) -> list[Answer | Exception]:
    """Each job's answer, or why it has none."""
    if answers == "reference" or not jobs:
        return [Answer(job.ids or []) for job in jobs]
    if all(job.sample_id in said for job in jobs):
        return [said[job.sample_id] for job in jobs]

    def work(some: Sequence[Job]) -> list[Answer]:
        inputs = lmm.inputs([job.image for job in some], [job.text for job in some])
        with evaluating(lmm.model), torch.no_grad():
            return generate(lmm, inputs, max_new_tokens)[0]

    found = in_halves(jobs, work)
    said |= {job.sample_id: x for job, x in zip(jobs, found, strict=True) if isinstance(x, Answer)}
    return found


def _skip(sample: Sample | Skip, error: Exception) -> Skip:
    name = sample.sample_id if isinstance(sample, Skip) else sample.id
    return Skip(name, f"{type(error).__name__}: {error}")
