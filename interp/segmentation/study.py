"""Attend-and-segment (arXiv 2410.08209): from the maps of an answer's noun phrases to pixel masks.

`segment` does all of it for one image and prompt; `segment_capture` starts from recorded attention, and `segment_maps`
from phrase maps, so that a study of many head choices records once and embeds once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.answer.capturing import capture as _capture
from interp.answer.maps import phrase_maps, reduce_heads
from interp.answer.pixels import argmax_points, to_pixels
from interp.contracts import Segmenter
from interp.images import read_image
from interp.models._lmm import LMM
from interp.segmentation.method import Method, check_scale, method_of, told
from interp.segmentation.prompts import prompts_of
from interp.segmentation.proposals import chosen_mask, confident, merged
from interp.segmenters._load import load_segmenter
from interp.types import Capture, PhraseMaps, Proposals, Query, Segmentation, Skip, Weighting

_NO_POINT = "its map has no highest pixel: it is constant or not a number there"


_NO_BOX = "its map gives no box: nowhere is it high enough"


def segment(
    lmm: LMM,
    image: Any,
    prompt: str,
    *,
    preset: str | None = None,
    segmenter: Segmenter | str | None = None,
    answer: str | None = None,
    phrases: Sequence[Any] | str | None = None,
    query: Query = "predicting",
    normalise: str | Capture = "answer",
    weighting: Weighting = "attention",
    max_new_tokens: int = 128,
    sample_id: str = "",
    keep_candidates: bool = False,
    **options: Any,
) -> Segmentation:
    """The answer with a mask for every noun phrase, in the image's pixels.

    Args:
        preset: ``paper`` or ``released``: arXiv 2410.08209 and its code, step for step; options that would change
            either are refused, but for ``prompting="mask"``, its second mode. (Phrases whose root is a pronoun are
            left out in both; the released code keeps them.)
        segmenter: a loaded one, or a name as `load_segmenter` takes it (None: mini-sam where it ships, else threshold).
        answer, phrases, query, weighting, max_new_tokens: see `interp.capture`.
        normalise: see `interp.phrase_maps`.
        options: fields of `interp.segmentation.method.Method`: heads, weights, prompting, choice, merge, ...

    Raises:
        CaptureError: no answer, no noun phrase in it, or attention that is not a number.
        ValueError: bad image, prompt or option.
    """
    method = method_of(preset, **options)
    if preset is not None and (query, normalise, weighting) != ("predicting", "answer", "attention"):
        raise ValueError(
            f"preset {preset!r} takes query='predicting', normalise='answer' and weighting='attention'; got {query!r}, "
            f"{normalise!r} and {weighting!r}"
        )
    check_scale(method, weighting)
    loaded = load_segmenter(segmenter) if segmenter is None or isinstance(segmenter, str) else segmenter
    pixels = read_image(image)
    how: Any = {"query": query, "weighting": weighting, "phrases": phrases, "max_new_tokens": max_new_tokens}
    how["end"] = method.end
    found = _capture(lmm, pixels, prompt, answer, sample_id=sample_id, **how)
    made = segment_capture(found, pixels, loaded, method=method, normalise=normalise, keep_candidates=keep_candidates)
    return replace(made, details={**made.details, "preset": preset})


def segment_capture(
    capture: Capture,
    image: Any,
    segmenter: Segmenter,
    *,
    method: Method | None = None,
    normalise: str | Capture = "answer",
    embedded: Any = None,
    keep_candidates: bool = False,
    **options: Any,
) -> Segmentation:
    """The capture's phrases with one mask each. ``embedded``: what ``segmenter.embed(image)`` gave, to embed once.

    ``options`` are fields of `interp.segmentation.method.Method`.

    Raises:
        ValueError: as `segment_maps`, or a method that cannot take the capture's kind of map.
    """
    method = replace(method or Method(), **options)
    check_scale(method, capture.weighting)
    if method.end and not capture.end:
        raise ValueError(
            "the method (preset 'paper' or 'released') takes in the row that predicts the end of the answer, and this "
            "capture has not read it; capture with end=True, or take the method with end=False"
        )
    made = segment_maps(
        phrase_maps(capture, normalise),
        image,
        segmenter,
        method=method,
        embedded=embedded,
        keep_candidates=keep_candidates,
    )
    about = {"query": capture.query, "normalise": normalise if isinstance(normalise, str) else "generic prompt"}
    about |= {"weighting": capture.weighting}
    return replace(made, prompt=capture.prompt, answer=capture.answer, details={**made.details, **about})


def segment_maps(
    maps: PhraseMaps,
    image: Any,
    segmenter: Segmenter,
    *,
    method: Method | None = None,
    embedded: Any = None,
    keep_candidates: bool = False,
    **options: Any,
) -> Segmentation:
    """The phrases of the maps (normalised already: see `interp.phrase_maps`) with one mask each.

    A phrase whose map is constant or NaN has a NaN point, an empty mask and NaN confidence, and is named in
    ``skipped``; so is one without a box where boxes are asked for.

    Raises:
        ValueError: a bad option, or a segmenter whose masks are not of the image's size.

    >>> import interp
    >>> grid = interp.PatchGrid(np.arange(16).reshape(4, 4), box=(0.0, 0.0, 32.0, 32.0))
    >>> maps = torch.zeros(1, 1, 1, 4, 4)
    >>> maps[..., 1, 2] = 1.0
    >>> dog = interp.Phrase("a dog", "dog", "dog", 2, 5, (1,))
    >>> image = np.zeros((32, 32, 3), dtype=np.uint8)
    >>> found = interp.PhraseMaps("1.jpg", (dog,), grid, maps)
    >>> made = segment_maps(found, image, interp.load_segmenter("threshold"))
    >>> made.points.tolist(), bool(made.masks[0, 12, 20])  # x and y of the patch's middle
    ([[19.0, 11.0]], True)
    """
    method = replace(method or Method(), **options)
    pixels = read_image(image)
    size = pixels.shape[:2]
    kept, skipped = _visible(maps, method.drop_words)
    reduced = reduce_heads(maps.maps[kept].float(), method.heads, method.weights, maps.layers)
    if method.remove_corners:
        reduced = lowered_corners(reduced)
    over = to_pixels(reduced, maps.grid, size)
    prompts = prompts_of(over, method, _patch(maps))
    proposals = segmenter.propose(segmenter.embed(pixels) if embedded is None else embedded, prompts, method.several)
    _check(proposals, len(kept), size, segmenter.name)
    chosen = chosen_mask(proposals, method.choice if method.choice is not None else segmenter.choice)  # type: ignore[arg-type]
    points = argmax_points(over)
    undefined = _undefined(points, prompts.boxes)
    row = np.arange(len(kept))
    masks, scores = proposals.masks[row, chosen], proposals.scores[row, chosen]
    masks[list(undefined)] = False
    scores[list(undefined)] = np.nan
    phrases = tuple(maps.phrases[i] for i in kept)
    skipped += [Skip(maps.sample_id, f"{phrases[i].text!r} has no mask: {why}") for i, why in undefined.items()]
    made = Segmentation(
        sample_id=maps.sample_id,
        prompt="",
        answer="",
        phrases=phrases,
        points=points,
        masks=masks,
        confidence=scores,
        boxes=prompts.boxes,
        candidates=proposals if keep_candidates else None,
        skipped=tuple(skipped),
        details={**told(method), "segmenter": segmenter.name},
    )
    return merged(confident(made, method.min_confidence), method.merge, method.merge_above)


def lowered_corners(maps: Float[Tensor, "phrase row col"]) -> Float[Tensor, "phrase row col"]:
    """The maps with their four corner patches at the lowest value of *all* the maps, as ``remove_corner`` has it."""
    lowered = maps.clone()
    if len(maps):
        for row in (0, -1):
            for col in (0, -1):
                lowered[:, row, col] = maps.nan_to_num(nan=torch.inf).min()
    return lowered


def _visible(maps: PhraseMaps, words: Sequence[str]) -> tuple[list[int], list[Skip]]:
    """The phrases that are kept, and why the others are not."""
    gone = [p.lemma.lower() in words or p.root.lower() in words for p in maps.phrases]
    skips = [
        Skip(maps.sample_id, f"{phrase.text!r} names nothing visible: its root is {phrase.lemma!r}")
        for phrase, drop in zip(maps.phrases, gone, strict=True)
        if drop
    ]
    return [i for i, drop in enumerate(gone) if not drop], skips


def _patch(maps: PhraseMaps) -> tuple[float, float]:
    """Width and height of a patch in pixels."""
    (x0, y0, x1, y1), (rows, cols) = maps.grid.box, maps.grid.shape
    return (x1 - x0) / cols, (y1 - y0) / rows


def _check(proposals: Proposals, phrases: int, size: tuple[int, ...], name: str) -> None:
    came = (len(proposals.masks), *proposals.masks.shape[2:])
    if came != (phrases, *size):
        raise ValueError(
            f"{name} gave masks of (phrase, height, width) {came}, expected {(phrases, *size)}; was ``embedded`` made "
            "from another image?"
        )


def _undefined(points: np.ndarray, boxes: np.ndarray | None) -> dict[int, str]:
    """The phrases without a prompt, and why."""
    missing = {int(i): _NO_POINT for i in np.flatnonzero(np.isnan(points).any(1))}
    if boxes is not None:
        missing |= {int(i): _NO_BOX for i in np.flatnonzero(np.isnan(boxes).any(1)) if i not in missing}
    return missing
