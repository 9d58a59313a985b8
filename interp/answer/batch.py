"""One batch of captures: samples read and checked, generated or read once, their rows cut to what is kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.answer.phrases import answer_text, find_phrases
from interp.answer.replay import Answer, CaptureError, Rows, answer_ids, generate, read, stream
from interp.images import read_image
from interp.models._hf import check_text
from interp.models._lmm import LMM, evaluating
from interp.types import Capture, PatchGrid, Phrase, Query, Skip, Weighting
from interp.work.halves import in_halves, only_its_own, split

Tokens = Literal["phrases", "all"]


_PROBE = "what is there"
ROWS_AT_ONCE = 2**31
"""Bytes of recorded rows above which a batch is cut in halves."""


@dataclass(frozen=True)
class How:
    """What every sample of a run has in common."""

    tokens: Tokens
    query: Query
    streaming: bool
    max_new_tokens: int
    weighting: Weighting = "attention"
    end: bool = False
    on_device: bool = False


@dataclass(frozen=True)
class Job:
    """One sample, read and checked. ``ids`` are the tokens of the ``given`` answer; None = generate."""

    sample_id: str
    image: np.ndarray
    prompt: str
    text: str
    ids: list[int] | None
    phrases: Sequence[Any] | Callable[[str], Sequence[Any]] | str | None
    given: str | None = None


@dataclass(frozen=True)
class Parsed:
    """An answer with its text, phrases, and the tokens whose rows are kept."""

    job: Job
    answer: Answer
    text: str
    phrases: tuple[Phrase, ...]
    kept: Int[np.ndarray, " token"]


def skip_of(sample_id: str, error: Exception) -> Skip:
    return Skip(sample_id, f"{type(error).__name__}: {error}")


def job_of(lmm: LMM, sample_id: str, image: Any, prompt: str, answer: str | None, phrases: Any) -> Job:
    """The sample, read and checked: its whole text, its pixels, and the given answer's tokens."""
    text = lmm.template(prompt)
    _check_turn(lmm, prompt, text)
    if answer is not None and lmm.processor.image_token in answer:
        raise CaptureError(f"the answer holds an image place ({lmm.processor.image_token}): {answer!r}; take it out")
    check_text("answer", answer or "")
    ids = None if answer is None else answer_ids(lmm.tokenizer, text, answer)
    return Job(sample_id, read_image(image), prompt, text, ids, phrases, answer)


def _check_turn(lmm: LMM, prompt: str, text: str) -> None:
    """Nothing, or a warning: a prompt that is a whole template must leave the word to the assistant."""
    if text != prompt:
        return  # the template was put around it
    try:
        turn = lmm.template(_PROBE).partition(_PROBE)[2].split()
    except ValueError:  # there is no template to compare with
        return
    if turn and not text.rstrip().endswith(turn[-1]):
        warnings.warn(
            f"the prompt holds an image place ({lmm.processor.image_token}) and so counts as the whole text before the "
            f"answer, but it does not end with the assistant's turn ({turn[-1]!r}): {prompt!r:.200}. The model will go "
            f"on with the user's words; leave {lmm.processor.image_token} out, or add that turn",
            stacklevel=2,
        )


def capture_batch(lmm: LMM, jobs: Sequence[Job], how: How) -> list[Capture | Exception]:
    """One result per job. A batch that fails as a whole, or that memory cannot hold, is tried again in halves."""
    return in_halves(jobs, lambda some: _try_batch(lmm, some, how))


def _try_batch(lmm: LMM, jobs: Sequence[Job], how: How) -> list[Capture | Exception]:
    inputs = lmm.inputs([job.image for job in jobs], [job.text for job in jobs])
    _check_length(lmm, jobs, inputs["attention_mask"])
    grids, keys = grids_of(lmm, jobs, inputs)
    longest = max(how.max_new_tokens if job.ids is None else len(job.ids) for job in jobs)
    most = longest if how.tokens == "all" or how.streaming else longest // 3 + 1  # about one word in three is a root
    if len(jobs) > 1 and keys.numel() * lmm.layers * lmm.heads * most * 4 > ROWS_AT_ONCE:
        return split(jobs, lambda some: _try_batch(lmm, some, how))
    cache = None
    with evaluating(lmm.model), torch.no_grad():
        if jobs[0].ids is not None:
            answers = [Answer(job.ids or []) for job in jobs]
        elif how.streaming:
            answers = stream(lmm, inputs, keys, how.query, how.max_new_tokens, how.weighting, how.end)
        else:
            answers, cache = generate(lmm, inputs, how.max_new_tokens)
        parsed = [parse(lmm, job, answer, how.tokens) for job, answer in zip(jobs, answers, strict=True)]
        kept = [[] if isinstance(p, Exception) else p.kept.tolist() for p in parsed]
        if how.streaming:
            rows = [answer.rows for answer in answers if answer.rows is not None]
        elif any(kept):
            rows = read(lmm, inputs, keys, how.query, answers, kept, cache, how.weighting, how.end)
        else:
            return [p for p in parsed if isinstance(p, Exception)]  # all of them
    return [
        p if isinstance(p, Exception) else _finish(lmm, p, grid, r, how)
        for p, grid, r in zip(parsed, grids, rows, strict=True)
    ]


def _check_length(lmm: LMM, jobs: Sequence[Job], mask: Int[Tensor, "batch token"]) -> None:
    """Nothing, if the model has positions for every prompt with its answer.

    Raises:
        CaptureError: of a sample that is longer; a batch of several is then tried again in halves.
    """
    most = getattr(lmm.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    for job, prompt in zip(jobs, mask.sum(1).tolist(), strict=True):
        length = prompt + len(job.ids or [0])
        if isinstance(most, int) and length > most:
            raise CaptureError(
                f"the prompt with its image has {prompt} tokens and the answer {len(job.ids or [])}; {lmm.name} has "
                f"positions for {most} (max_position_embeddings): give a shorter prompt or answer"
            )


def grids_of(
    lmm: LMM, jobs: Sequence[Job], inputs: dict[str, Tensor]
) -> tuple[list[PatchGrid], Int[Tensor, "batch key"]]:
    """Each sample's grid, and the columns of its image's tokens (`PatchGrid.tokens`: those of the maps first) with the
    left padding counted; -1 where a sample has fewer."""
    grids, keys = [], []
    for sample, (job, mask) in enumerate(zip(jobs, inputs["attention_mask"], strict=True)):
        grid = lmm.grid(job.image.shape[:2], inputs, sample)
        grids.append(grid)
        keys.append(torch.from_numpy(grid.tokens + int((mask == 0).sum())))
    return grids, torch.nn.utils.rnn.pad_sequence(keys, batch_first=True, padding_value=-1)


def parse(lmm: LMM, job: Job, answer: Answer, tokens: str) -> Parsed | Exception:
    """The answer's text, phrases and the tokens to keep, or what is wrong with it."""
    try:
        text, offsets = answer_text(lmm.tokenizer, answer.ids, job.given)
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
    except Exception as error:
        if not only_its_own(error):
            raise
        return error


def _finish(lmm: LMM, parsed: Parsed, grid: PatchGrid, rows: Rows, how: How) -> Capture | Exception:
    """The sample's capture, on the CPU unless it is to stay, or what is wrong with its rows."""
    patches, tokens = grid.token_index.size, len(grid.tokens)
    everything, mean = rows.attention, rows.mean[..., :patches]
    if how.streaming:  # the rows of all tokens were recorded before the phrases were known
        everything = everything[:, :, torch.from_numpy(parsed.kept).to(everything.device)]
    place = mean.device if how.on_device else torch.device("cpu")
    attention, elsewhere = everything[..., :patches], everything[..., patches:tokens].sum(-1).permute(2, 0, 1).to(place)
    try:
        _check_numbers(mean, lmm.name, rows.layers)
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
        attention=attention.permute(2, 0, 1, 3).reshape(-1, *attention.shape[:2], *grid.shape).to(place),
        mean=mean.reshape(*mean.shape[:2], *grid.shape).to(place),
        phrases=parsed.phrases,
        logprobs=rows.logprobs.cpu().numpy(),
        weighting=how.weighting,
        end=how.end,
        elsewhere=elsewhere if tokens > patches else None,
        layers=rows.layers,
    )


def _check_numbers(mean: Float[Tensor, "layer head key"], name: str, layers: Sequence[int]) -> None:
    """The mean over the tokens is NaN wherever one of them is."""
    broken = [layers[i] for i in (~torch.isfinite(mean)).flatten(1).any(1).nonzero().flatten().tolist()]
    if broken:
        raise CaptureError(
            f"the attention of layer {broken[0]} of {name} is NaN or infinite (layers {broken}): the weights of that "
            "layer or of one before it hold NaN, or float16 overflowed; load the model again, or with dtype='bfloat16'"
        )
