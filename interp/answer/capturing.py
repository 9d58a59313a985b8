"""Attention of an answer's tokens to the image's patches, for every layer and head.

The model generates with its own fast kernel and nothing attached; then the answer is read once more, all tokens at a
time, over the prompt's kept key-value cache, and only its rows are recorded. Attention is causal, so these are the rows
of generation. An answer that is given is read together with its prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal, get_args

from interp.answer.batch import How, Job, Tokens, capture_batch, job_of, skip_of
from interp.answer.replay import CaptureError
from interp.images import read_image
from interp.models._given import lmm_of
from interp.models._lmm import LMM
from interp.types import Capture, Query, Sample, Skip, Weighting
from interp.work.halves import only_its_own


def _how(tokens: Any, query: Any, streaming: bool, max_new_tokens: int, given: bool, weighting: Any, end: bool) -> How:
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
    if end and query != "predicting":
        raise ValueError(
            "end=True takes in the row that predicts the end of the answer; it goes with query='predicting'"
        )
    return How(tokens, query, streaming, max_new_tokens, weighting, end)


def capture(
    lmm: Any,
    image: Any,
    prompt: Any,
    answer: Any = None,
    tokens: Tokens = "phrases",
    query: Query = "predicting",
    phrases: Sequence[Any] | str | Callable[[str], Any] | None = None,
    streaming: bool = False,
    max_new_tokens: int = 128,
    sample_id: str = "",
    weighting: Weighting | str = "attention",
    end: bool = False,
) -> Capture | Any:
    """Attention 0..1 of the answer's tokens to the image's patches: the softmax over all keys, cut to the patches.

    Args:
        lmm: an LMM, (model, processor), or a name as for `interp.load`.
        image: a path, PIL image, array or tensor; or a list of images, which go through the model together and give a
            list of captures. Prompts and answers are then one for all, or as many.
        answer: the answer's text; None lets the model generate it, greedily.
        tokens: keep the tokens of the phrases' root words, or all. The mean over all tokens comes with either.
        query: the row that *predicts* a token (that of the token before it, as in arXiv 2410.08209's code), or its own.
        phrases: words or (start, end) characters of the answer to take in place of its noun phrases; or a function of
            the answer's text that gives them.
        streaming: record while generating, in place of reading the answer once more. Slower; the rows are the same.
        weighting: "attention", or "value": times the norm of each patch's projected value (arXiv 2004.10102).
        end: the row that predicts the end of the answer belongs to the mean over its tokens, as in the released code
            of arXiv 2410.08209; not where the answer ran into ``max_new_tokens``.

    Raises:
        CaptureError: no answer, no noun phrase in it, or attention that is not a number.
        ValueError: bad image, prompt, answer or option.

    >>> import interp
    >>> from interp.datasets import scenes
    >>> lmm, scene = interp.load("mini-llava"), scenes.sample("test", 0)
    >>> found = interp.capture(lmm, scene.image, scene.prompt, "A cup and a frog.")
    >>> [phrase.text for phrase in found.phrases], tuple(found.attention.shape)  # token, layer, head, row, col
    (['A cup', 'a frog'], (6, 6, 8, 12, 12))
    """
    lmm = lmm_of(lmm)
    images = image if isinstance(image, list) else [image]
    asked = [_each("prompt", prompt, len(images)), _each("answer", answer, len(images))]
    given = len(images) - asked[1].count(None)
    if 0 < given < len(images):
        raise ValueError(f"{given} of {len(images)} answers are given; expected one for each image, or none")
    how = _how(tokens, query, streaming, max_new_tokens, given > 0, weighting, end)
    names = [sample_id] if image is not images else [f"{sample_id}{i}" for i in range(len(images))]
    each = zip(names, images, *asked, strict=True)
    jobs = [job_of(lmm, name, one, asks, said, phrases) for name, one, asks, said in each]
    found = [_sound(lmm, *each) for each in zip(capture_batch(lmm, jobs, how), images, strict=True)]
    return found if image is images else found[0]


def _each(name: str, given: Any, count: int) -> list[Any]:
    """One for each image."""
    if not isinstance(given, list | tuple):
        return [given] * count
    if len(given) != count:
        raise ValueError(f"{len(given)} {name}s for {count} images; expected one for all, or one for each in a list")
    return list(given)


def _sound(lmm: Any, result: Capture | Exception, image: Any) -> Capture:
    """The capture, or what went wrong, raised."""
    if not isinstance(result, Exception):
        return result
    if isinstance(result, ValueError | OSError | TypeError):
        raise result
    size = " x ".join(map(str, read_image(image).shape[:2]))
    raise CaptureError(
        f"{lmm.name} cannot take this image of {size} pixels with this text: {type(result).__name__}: {result}; try "
        "another size or a shorter text"
    ) from result


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
    end: bool = False,
    on_device: bool = False,
) -> Iterator[Capture | Skip]:
    """A ``Capture`` of each sample, in order, or a ``Skip`` with the reason; see ``capture``.

    Samples are read lazily and run ``batch`` at a time. One that fails is skipped and does not touch the others; a
    ``Skip`` among them is handed on. ``phrases`` gives each sample's own phrases, or a function of the answer's text
    that does; None are the noun phrases. ``on_device``: captures stay on the model's device, for work that is done
    there.
    """
    if answers not in ("reference", "generated"):
        raise ValueError(f"answers is {answers!r}; expected 'reference' or 'generated'")
    if batch < 1:
        raise ValueError(f"batch is {batch}; expected at least 1")
    how = _how(tokens, query, streaming, max_new_tokens, answers == "reference", weighting, end)
    how = replace(how, on_device=on_device)
    return _captures(lmm, iter(samples), answers == "reference", batch, how, phrases)


def _captures(
    lmm: LMM,
    samples: Iterator[Sample | Skip],
    reference: bool,
    batch: int,
    how: How,
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
            except Exception as error:
                if not only_its_own(error):
                    raise
                jobs.append(skip_of(sample.id, error))
        done = iter(capture_batch(lmm, [job for job in jobs if isinstance(job, Job)], how))
        for job in jobs:
            result = next(done) if isinstance(job, Job) else job
            yield skip_of(job.sample_id, result) if isinstance(result, Exception) else result
