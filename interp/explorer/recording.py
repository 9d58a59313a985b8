"""What the explorer shows, recorded: a model, several models, or a series, on one image, in several ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from tqdm.auto import tqdm

from interp.answer.capturing import capture
from interp.contracts import Segmenter
from interp.emergence.timeline import Series
from interp.explorer.shown import Taken
from interp.images import read_image
from interp.models._lmm import LMM
from interp.ranking.asked import finder
from interp.segmentation.proposals import chosen_mask
from interp.types import Capture, PatchGrid, Prompts, Sample, Target

WAYS = (("predicting", "attention"), ("self", "attention"), ("predicting", "value"), ("self", "value"))
"""Query and weighting of what is recorded, in the order in which a page takes them in."""
_AT_ONCE = 64


class Asked(NamedTuple):
    """What a model is asked about one image, and what is known of the image."""

    name: str
    image: UInt8[np.ndarray, "height width 3"]
    prompt: str
    answer: str | None
    words: Any
    targets: tuple[Target, ...]
    max_new_tokens: int


def asked(image: Any, prompt: str | None, answer: str | None, words: Any, max_new_tokens: int) -> Asked:
    """The question; a `Sample` brings its own prompt, answer and targets, and ``words`` may be a function of it or
    ``"targets"``.

    Raises:
        ValueError: no image, or no prompt.
    """
    if isinstance(image, Sample):
        known = image.prompt if prompt is None else prompt
        said = image.answer if answer is None else answer
        find = finder(words) if callable(words) or words == "targets" else None
        words = find(image) if find else words
        return Asked(image.id, image.image, known, said, words, image.targets, max_new_tokens)
    if image is None or prompt is None:
        raise ValueError(
            f"a model needs an image and a prompt to look at; got image {type(image).__name__} and prompt {prompt!r}: "
            "interp.explore(lmm, image, prompt), or interp.explore(lmm, sample)"
        )
    name = Path(image).name if isinstance(image, str | Path) else ""
    return Asked(name, read_image(image), prompt, answer, words, (), max_new_tokens)


def recorded(lmm: LMM, question: Asked, ways: Sequence[tuple[str, str]]) -> list[Capture]:
    """A capture of every token in each of the ways (query, weighting). Without an answer one is generated, once."""
    found: list[Capture] = []
    answer = question.answer
    for query, weighting in ways:
        how: Any = {"query": query, "weighting": weighting, "max_new_tokens": question.max_new_tokens}
        found.append(capture(lmm, question.image, question.prompt, answer, tokens="all", phrases=question.words, **how))
        answer = found[0].answer
    return found


def taken_of_series(
    lmm: LMM,
    series: Series,
    question: Asked,
    ways: Sequence[tuple[str, str]],
    steps: Sequence[int] | None,
    progress: bool,
) -> Iterator[Taken]:
    """Captures of each sound checkpoint (of ``steps``), all of the same answer: the last one's, unless it is given.
    ``lmm``: the series' model, which has its weights again afterwards.

    Raises:
        ValueError: a step that the series does not have.
    """
    points = [p for p in series.sound if steps is None or p.step in steps]
    if not points or (steps is not None and len(points) < len(set(steps))):
        there = ", ".join(str(p.step) for p in series.sound)
        raise ValueError(f"steps {list(steps or ())} are not all there; sound checkpoints of {series.name}: {there}")
    with series.swap(lmm) as swap:
        if question.answer is None:
            swap.to(points[-1])
            (said,) = recorded(lmm, question, ways[:1])
            question = question._replace(answer=said.answer)
        for point in tqdm(points, desc="checkpoints", unit="checkpoint", disable=not progress):
            swap.to(point)
            found = recorded(lmm, question, ways)
            title = f"{series.name}, step {point.step}"
            yield Taken(title, found, question.image, question.targets, series.name, point.step)


def peaks(
    segmenter: Segmenter, image: UInt8[np.ndarray, "height width 3"], grid: PatchGrid
) -> Bool[np.ndarray, "patch height width"]:
    """The mask that a point in the middle of each patch gives; empty for a patch whose middle lies outside the image.

    Raises:
        ValueError: a segmenter that works on maps and not on points.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = grid.box
    rows, cols = grid.shape
    x = x0 + (np.arange(cols) + 0.5) * (x1 - x0) / cols
    y = y0 + (np.arange(rows) + 0.5) * (y1 - y0) / rows
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 1, 2)
    inside = ((points >= 0) & (points < (width, height))).all((1, 2))
    masks = np.zeros((len(points), height, width), dtype=bool)
    embedded = segmenter.embed(image)
    for start in range(0, int(inside.sum()), _AT_ONCE):
        some = np.flatnonzero(inside)[start : start + _AT_ONCE]
        proposals = segmenter.propose(embedded, Prompts(points=np.floor(points[some])))
        masks[some] = proposals.masks[np.arange(len(some)), chosen_mask(proposals, segmenter.choice)]
    return masks
