"""Attention of an answer's tokens to the image's patches, for every layer and head.

The model generates with its own fast kernel and nothing attached; then the answer is read once more, all tokens at a
time, over the prompt's kept key-value cache, and only its rows are recorded. Attention is causal, so these are the rows
of generation. An answer that is given is read together with its prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.images import read_image
from interp.lmm import LMM, evaluating
from interp.phrases import find_phrases, token_offsets
from interp.reading import Answer, CaptureError, Rows, answer_ids, generate, read, stream
from interp.types import Capture, PatchGrid, Phrase, Query, Sample, Skip, Weighting

Tokens = Literal["phrases", "all"]

ROWS_AT_ONCE = 2**31
"""Bytes of recorded rows above which a batch is cut in halves."""


@dataclass(frozen=True)
class _How:
    """What every sample of a run has in common."""

    tokens: Tokens
    query: Query
    streaming: bool
    max_new_tokens: int
    weighting: Weighting = "attention"


def _how(tokens: Any, query: Any, streaming: bool, max_new_tokens: int, given: bool, weighting: Any) -> _How:
    for name, value, known in (
        ("tokens", tokens, Tokens),
        ("query", query, Query),
        ("weighting", weighting, Weighting),
    ):
        if value not in get_args(known):
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, get_args(known)))}")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; expected at least 1")
    if given and streaming:
        raise ValueError("streaming records while the model generates; leave it off for answers that are given")
    return _How(tokens, query, streaming, max_new_tokens, weighting)


@dataclass(frozen=True)
class Job:
    """One sample, read and checked. ``ids`` are the given answer's tokens; None = generate."""

    sample_id: str
    image: np.ndarray
    prompt: str
    text: str
    ids: list[int] | None
    phrases: Sequence[Any] | Callable[[str], Sequence[Any]] | str | None


@dataclass(frozen=True)
class Parsed:
    """An answer with its text, phrases, and the tokens whose rows are kept."""

    job: Job
    answer: Answer
    text: str
    phrases: tuple[Phrase, ...]
    kept: Int[np.ndarray, " token"]


def capture(
    lmm: LMM,
    image: Any,
    prompt: str,
    answer: str | None = None,
    tokens: Tokens = "phrases",
    query: Query = "predicting",
    phrases: Sequence[Any] | str | None = None,
    streaming: bool = False,
    max_new_tokens: int = 128,
    sample_id: str = "",
    weighting: Weighting | str = "attention",
) -> Capture:
    """Attention 0..1 of the answer's tokens to the image's patches: the softmax over all keys, cut to the patches.

    Args:
        answer: the answer's text; None lets the model generate it, greedily.
        tokens: keep the tokens of the phrases' root words, or all. The mean over all tokens comes with either.
        query: the row that *predicts* a token (that of the token before it, as in arXiv 2410.08209's code), or its own.
        phrases: words or (start, end) characters of the answer to take in place of its noun phrases.
        streaming: record while generating, in place of reading the answer once more. Slower; the rows are the same.
        weighting: "attention", or "value": times the norm of each patch's projected value (arXiv 2004.10102).

    Raises:
        CaptureError: no answer, no noun phrase in it, or attention that is not a number.
        ValueError: bad image, prompt, answer or option.
    """
    how = _how(tokens, query, streaming, max_new_tokens, answer is not None, weighting)
    (result,) = _capture_batch(lmm, [job_of(lmm, sample_id, image, prompt, answer, phrases)], how)
    if isinstance(result, Exception):
        raise result
    return result


def captures(
    lmm: LMM,
    samples: Iterable[Sample | Skip],
    *,
    answers: Literal["reference", "generated"] = "reference",
    batch: int = 8,
    tokens: Tokens = "phrases",
    query: Query = "predicting",
    streaming: bool = False,
    max_new_tokens: int = 128,
    phrases: Callable[[Sample], Any] | None = None,
    weighting: Weighting = "attention",
) -> Iterator[Capture | Skip]:
    """A ``Capture`` of each sample, in order, or a ``Skip`` with the reason; see ``capture``.

    Samples are read lazily and run ``batch`` at a time. One that fails is skipped and does not touch the others; a
    ``Skip`` among them is handed on. ``phrases`` gives each sample's own phrases, or a function of the answer's text
    that does; None are the noun phrases.
    """
    if answers not in ("reference", "generated"):
        raise ValueError(f"answers is {answers!r}; expected 'reference' or 'generated'")
    if batch < 1:
        raise ValueError(f"batch is {batch}; expected at least 1")
    how = _how(tokens, query, streaming, max_new_tokens, answers == "reference", weighting)
    return _captures(lmm, iter(samples), answers == "reference", batch, how, phrases)


def _captures(
    lmm: LMM,
    samples: Iterator[Sample | Skip],
    reference: bool,
    batch: int,
    how: _How,
    phrases: Callable[[Sample], Any] | None,
) -> Iterator[Capture | Skip]:
    while group := list(islice(samples, batch)):
        jobs: list[Job | Skip] = []
        for sample in group:
            if isinstance(sample, Skip):
                jobs.append(sample)
                continue
            try:
                if reference and sample.answer is None:
                    raise CaptureError("the sample has no reference answer; use answers='generated'")
                answer = sample.answer if reference else None
                asked = phrases(sample) if phrases is not None else None
                jobs.append(job_of(lmm, sample.id, sample.image, sample.prompt, answer, asked))
            except (ValueError, OSError) as error:
                jobs.append(_skip(sample.id, error))
        done = iter(_capture_batch(lmm, [job for job in jobs if isinstance(job, Job)], how))
        for job in jobs:
            result = next(done) if isinstance(job, Job) else job
            yield _skip(job.sample_id, result) if isinstance(result, Exception) else result


def _skip(sample_id: str, error: Exception) -> Skip:
    return Skip(sample_id, f"{type(error).__name__}: {error}")


def job_of(lmm: LMM, sample_id: str, image: Any, prompt: str, answer: str | None, phrases: Any) -> Job:
    text = lmm.family.template(lmm.processor, prompt)
    if answer is not None and lmm.processor.image_token in answer:
        raise CaptureError(f"the answer holds an image place ({lmm.processor.image_token}): {answer!r}; take it out")
    ids = None if answer is None else answer_ids(lmm.tokenizer, text, answer)
    return Job(sample_id, read_image(image), prompt, text, ids, phrases)


def _capture_batch(lmm: LMM, jobs: list[Job], how: _How) -> list[Capture | Exception]:
    """One result per job. A batch that fails as a whole, or that memory cannot hold, is tried again in halves."""
    if not jobs:
        return []
    try:
        return _try_batch(lmm, jobs, how)
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        if len(jobs) == 1 and isinstance(error, torch.OutOfMemoryError):
            raise
        failed = error.with_traceback(None)  # frees the tensors of the failed try
    return [failed] if len(jobs) == 1 else _in_halves(lmm, jobs, how)


def _in_halves(lmm: LMM, jobs: list[Job], how: _How) -> list[Capture | Exception]:
    middle = len(jobs) // 2
    return _capture_batch(lmm, jobs[:middle], how) + _capture_batch(lmm, jobs[middle:], how)


def _try_batch(lmm: LMM, jobs: list[Job], how: _How) -> list[Capture | Exception]:
    inputs = lmm.inputs([job.image for job in jobs], [job.text for job in jobs])
    grids, keys = grids_of(lmm, jobs, inputs)
    longest = max(how.max_new_tokens if job.ids is None else len(job.ids) for job in jobs)
    most = longest if how.tokens == "all" or how.streaming else longest // 3 + 1  # about one word in three is a root
    if len(jobs) > 1 and keys.numel() * lmm.layers * lmm.heads * most * 4 > ROWS_AT_ONCE:
        return _in_halves(lmm, jobs, how)
    cache = None
    with evaluating(lmm.model), torch.no_grad():
        if jobs[0].ids is not None:
            answers = [Answer(job.ids or []) for job in jobs]
        elif how.streaming:
            answers = stream(lmm, inputs, keys, how.query, how.max_new_tokens, how.weighting)
        else:
            answers, cache = generate(lmm, inputs, how.max_new_tokens)
        parsed = [parse(lmm, job, answer, how.tokens) for job, answer in zip(jobs, answers, strict=True)]
        kept = [[] if isinstance(p, Exception) else p.kept.tolist() for p in parsed]
        if how.streaming:
            rows = [answer.rows for answer in answers if answer.rows is not None]
        elif any(kept):
            ids = [answer.ids for answer in answers]
            rows = read(lmm, inputs, keys, how.query, ids, kept, cache, how.weighting)
        else:
            return [p for p in parsed if isinstance(p, Exception)]  # all of them
    return [
        p if isinstance(p, Exception) else _finish(lmm, p, grid, r, how)
        for p, grid, r in zip(parsed, grids, rows, strict=True)
    ]


def grids_of(lmm: LMM, jobs: list[Job], inputs: dict[str, Tensor]) -> tuple[list[PatchGrid], Int[Tensor, "batch key"]]:
    """Each sample's grid, and its patches' columns with the left padding counted; -1 where a sample has fewer."""
    grids, keys = [], []
    for job, ids, mask in zip(jobs, inputs["input_ids"], inputs["attention_mask"], strict=True):
        padding = int((mask == 0).sum())
        grid = lmm.family.grid(lmm.model, lmm.processor, job.image.shape[:2], ids[padding:])
        grids.append(grid)
        keys.append(torch.from_numpy(grid.token_index.reshape(-1) + padding))
    return grids, torch.nn.utils.rnn.pad_sequence(keys, batch_first=True, padding_value=-1)


def parse(lmm: LMM, job: Job, answer: Answer, tokens: str) -> Parsed | Exception:
    """The answer's text, phrases and the tokens to keep, or what is wrong with it."""
    try:
        text, offsets = token_offsets(lmm.tokenizer, answer.ids)
        if not text.strip():
            raise CaptureError("the model's answer is empty; ask in another way, or give an answer")
        asked = job.phrases(text) if callable(job.phrases) else job.phrases
        phrases = find_phrases(text, offsets, asked, truncated=answer.truncated)
        if tokens == "all":
            return Parsed(job, answer, text, phrases, np.arange(len(answer.ids)))
        if not phrases:
            raise CaptureError(
                f"no noun phrase in the answer {text!r}; name words of it with phrases=[...], or use tokens='all'"
            )
        return Parsed(job, answer, text, phrases, np.array(sorted({t for phrase in phrases for t in phrase.tokens})))
    except ValueError as error:
        return error


def _finish(lmm: LMM, parsed: Parsed, grid: PatchGrid, rows: Rows, how: _How) -> Capture | Exception:
    """The sample's capture, on the CPU, or what is wrong with its rows."""
    patches = grid.token_index.size
    attention, mean = rows.attention[..., :patches], rows.mean[..., :patches]
    if how.streaming:  # the rows of all tokens were recorded before the phrases were known
        attention = attention[:, :, torch.from_numpy(parsed.kept).to(attention.device)]
    try:
        _check_numbers(mean, lmm.name)
    except CaptureError as error:
        return error
    return Capture(
        sample_id=parsed.job.sample_id,
        prompt=parsed.job.prompt,
        answer=parsed.text,
        tokens=tuple(lmm.tokenizer.convert_ids_to_tokens(parsed.answer.ids)),
        grid=grid,
        query=how.query,
        kept=parsed.kept,
        attention=attention.permute(2, 0, 1, 3).reshape(-1, *attention.shape[:2], *grid.shape).cpu(),
        mean=mean.reshape(*mean.shape[:2], *grid.shape).cpu(),
        phrases=parsed.phrases,
        logprobs=rows.logprobs.cpu().numpy(),
        weighting=how.weighting,
    )


def _check_numbers(mean: Float[Tensor, "layer head key"], name: str) -> None:
    """The mean over the tokens is NaN wherever one of them is."""
    broken = (~torch.isfinite(mean)).flatten(1).any(1).nonzero().flatten().tolist()
    if broken:
        raise CaptureError(
            f"the attention of layer {broken[0]} of {name} is NaN or infinite (layers {broken}): the weights of that "
            "layer or of one before it hold NaN, or float16 overflowed; load the model again, or with dtype='bfloat16'"
        )
