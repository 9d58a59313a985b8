"""Attend-and-segment (arXiv 2410.08209): from the maps of an answer's noun phrases to pixel masks.

`segment` does all of it for one image and prompt; `segment_capture` starts from recorded attention, and `segment_maps`
from phrase maps, so that a study of many head choices records once and embeds once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from interp.contracts import Segmenter
from interp.lmm import LMM
from interp.maps import Heads
from interp.types import Capture, PhraseMaps, Query, Segmentation

Prompting = Literal["argmax", "peaks", "box", "mask"]
Choice = Literal["last", "best", "first"] | int
"""Which of the proposed masks is taken: the last (the paper), the one of the highest score, or the n-th."""


def segment(
    lmm: LMM,
    image: Any,
    prompt: str,
    *,
    preset: Literal["paper", "released"] | None = None,
    heads: Heads = "all",
    weights: Sequence[float | int] | None = None,
    segmenter: Segmenter | str | None = None,
    prompting: Prompting = "argmax",
    answer: str | None = None,
    phrases: Sequence[Any] | str | None = None,
    query: Query = "predicting",
    normalise: str | Capture = "answer",
    **options: Any,
) -> Segmentation:
    """The answer with every noun phrase's mask."""
    raise NotImplementedError


def segment_capture(
    capture: Capture,
    image: Any,
    segmenter: Segmenter,
    *,
    heads: Heads = "all",
    weights: Sequence[float | int] | None = None,
    prompting: Prompting = "argmax",
    normalise: str | Capture = "answer",
    remove_corners: bool = False,
    choice: Choice = "last",
    embedded: Any = None,
    **options: Any,
) -> Segmentation:
    """The capture's phrases with one mask each. ``embedded``: what ``segmenter.embed(image)`` gave, to embed once."""
    raise NotImplementedError


def segment_maps(
    maps: PhraseMaps,
    image: Any,
    segmenter: Segmenter,
    *,
    heads: Heads = "all",
    weights: Sequence[float | int] | None = None,
    prompting: Prompting = "argmax",
    remove_corners: bool = False,
    choice: Choice = "last",
    embedded: Any = None,
    **options: Any,
) -> Segmentation:
    """The phrases of the maps (normalised already: see `interp.phrase_maps`) with one mask each."""
    raise NotImplementedError


def load_segmenter(name: str | None = None, checkpoint: str | None = None, device: str | None = None) -> Segmenter:
    """A segmenter by name; the default is ``mini-sam`` where it ships, else ``threshold``."""
    raise NotImplementedError
