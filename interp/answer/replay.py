"""Reading an answer: its token ids, and the pass (or the generation itself) that records its attention rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from interp.attention.record import record
from interp.models._lmm import LMM
from interp.models._next import next_inputs, rewinds
from interp.types import Weighting


class CaptureError(ValueError):
    """A sample's attention cannot be captured: no answer, no noun phrase in it, or attention that is not a number.

    What to do: give an answer or ``phrases``; for numbers that are none, load the model with another ``dtype``. A study
    skips such a sample and says so.
    """


@dataclass(frozen=True)
class Answer:
    """An answer's token ids, without its end; whether it ran into the limit; and its rows, if recorded already."""

    ids: list[int]
    truncated: bool = False
    rows: Rows | None = None


@dataclass(frozen=True)
class Rows:
    """Attention 0..1 of one answer's kept tokens, the mean over all its tokens, and each token's log-probability.
    ``layers`` are the numbers of the layers."""

    attention: Float[Tensor, "layer head token key"]
    mean: Float[Tensor, "layer head key"]
    logprobs: Float[Tensor, " answer_token"]
    layers: tuple[int, ...]


def answer_ids(tokenizer: Any, text: str, answer: str) -> list[int]:
    """The answer's token ids where it follows ``text``, as the model would have generated them.

    Both are tokenised together, parted by one space: "ASSISTANT:" + " " + "A dog". Should the tokenizer merge across
    that border, the answer is tokenised alone.

    Raises:
        CaptureError: the answer has no tokens.
    """
    parted = text if text[-1:].isspace() else text + " "
    before, whole = (_unended(tokenizer, tokenizer(t).input_ids) for t in (text, parted + answer.strip()))
    ids = whole[len(before) :]
    if whole[: len(before)] != before:
        ids = tokenizer(answer.strip(), add_special_tokens=False).input_ids
    if not answer.strip() or not ids:
        raise CaptureError(f"the answer is empty ({answer!r}); give a text, or answer=None to let the model generate")
    return list(ids)


def _unended(tokenizer: Any, ids: list[int]) -> list[int]:
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def generate(lmm: LMM, inputs: dict[str, Tensor], max_new_tokens: int) -> tuple[list[Answer], Any]:
    """The model's answers, generated with nothing attached, and the cache that it leaves."""
    out = lmm.generate_ids(inputs, max_new_tokens)
    return _answers(lmm, out.sequences[:, inputs["input_ids"].shape[1] :]), out.past_key_values


def stream(
    lmm: LMM,
    inputs: dict[str, Tensor],
    keys: Tensor,
    query: str,
    max_new_tokens: int,
    weighting: Weighting,
    end: bool = False,
) -> list[Answer]:
    """The model's answers with the rows of all their tokens, recorded at every step of the generation. ``end``: see
    `read`."""
    with record(lmm.decoder, "last", keys, weighting=weighting) as recorder:
        out = lmm.generate_ids(inputs, max_new_tokens, output_logits=True)
        generated = out.sequences[:, inputs["input_ids"].shape[1] :]
        if query == "self":  # the last token has not been a query yet
            real = torch.ones_like(generated)
            lmm.model(**next_inputs(lmm.model, inputs, generated, real, out.past_key_values, last=1))
    first = int(query == "self")  # the first recorded row is that of the prompt's last token
    logprobs = _logprobs(torch.stack(out.logits, 1), generated)
    answers = []
    for b, answer in enumerate(_answers(lmm, generated)):
        own = recorder.attention[b, :, :, first : first + len(answer.ids)]
        last = first + len(answer.ids) + (end and not answer.truncated)
        mean = recorder.attention[b, :, :, first:last].mean(2)
        rows = Rows(own, mean, logprobs[b, : len(answer.ids)], recorder.layers)
        answers.append(Answer(answer.ids, answer.truncated, rows))
    return answers


@dataclass(frozen=True)
class Replay:
    """A pass over answers: what to call the model with, and where its rows lie.

    ``start`` is the position of the row that stands for an answer's first token; the pass has ``rows`` rows from the
    prompt's last token on. Answers are padded at the right.
    """

    call: dict[str, Any]
    start: int
    rows: int
    answer: Int[Tensor, "sample token"]


def replay(
    model: Any, inputs: dict[str, Tensor], ids: Sequence[list[int]], query: str, cache: Any = None, end: bool = False
) -> Replay:
    """The pass that reads the answers with their prompts, or over the ``cache`` that a generation has left, if that can
    be cut back to the prompt.

    ``end``: the row of an answer's last token, which predicts its end, is read too.
    """
    length = inputs["input_ids"].shape[1]
    answer = _padded(ids, 0).to(inputs["input_ids"])  # what stands behind the end is seen by no row that counts
    # What the last token of an answer predicts is its end: for the predicting rows it need not be read.
    fed = answer if query == "self" or end else answer[:, :-1]
    real = _padded([[1] * len(x) for x in ids], 0)[:, : fed.shape[1]]
    cache = cache if rewinds(cache) else None
    if cache is not None:
        # The prompt's last token predicts the first of the answer: it is read again, for its row and its logits.
        cache.crop(length - 1 - cache.get_seq_length())
    call = next_inputs(model, inputs, fed, real, cache, None if cache is None else fed.shape[1] + 1)
    return Replay(call, length if query == "self" else length - 1, fed.shape[1] + 1, answer)


def read(
    lmm: LMM,
    inputs: dict[str, Tensor],
    keys: Tensor,
    query: str,
    answers: Sequence[Answer],
    kept: Sequence[Sequence[int]],
    cache: Any = None,
    weighting: Weighting = "attention",
    end: bool = False,
) -> list[Rows]:
    """The rows of the ``kept`` tokens of each answer, from one pass over all its tokens.

    The pass reads the answers with their prompts, or over the ``cache`` that a generation has left. ``end``: the row
    that predicts the end belongs to the mean over the answer's tokens, unless the answer ran into its limit.
    """
    ids = [answer.ids for answer in answers]
    again = replay(lmm.model, inputs, ids, query, cache, end)
    start = again.start
    queries = _padded([[start + token for token in tokens] for tokens in kept], -1)
    ends = [end and not answer.truncated for answer in answers]
    everything = _padded([range(start, start + len(x) + more) for x, more in zip(ids, ends, strict=True)], -1)
    with record(lmm.decoder, queries, keys, mean=everything, weighting=weighting) as recorder:
        out = lmm.model(**again.call, logits_to_keep=again.rows)
    logprobs = _logprobs(out.logits[:, : again.answer.shape[1]], again.answer)
    return [
        Rows(recorder.attention[b, :, :, : len(kept[b])], recorder.mean[b], logprobs[b, : len(ids[b])], recorder.layers)
        for b in range(len(ids))
    ]


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Int[Tensor, "sample column"]:
    return pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True, padding_value=fill)


def _logprobs(logits: Tensor, answer: Tensor) -> Float[Tensor, "sample token"]:
    return logits.float().log_softmax(-1).gather(-1, answer[..., None].to(logits.device))[..., 0]


def _answers(lmm: LMM, generated: Int[Tensor, "sample token"]) -> list[Answer]:
    """Each answer's ids before its end.

    One that ends at once is kept as one token here, so that its batch can be read; ``capturing`` refuses it.
    """
    ends = lmm.model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends]) | {lmm.tokenizer.eos_token_id}
    answers = []
    for row in generated.tolist():
        stop = next((i for i, token in enumerate(row) if token in ends), None)
        answers.append(Answer(row[:stop] if stop != 0 else row[:1], truncated=stop is None))
    return answers
