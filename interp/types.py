"""Result types and the axis vocabulary.

The axis words mean the same everywhere: ``sample token phrase layer head row col height width step``. Points are
(x, y) in pixels, grids are (row, col), and what is undefined is NaN. Attention and maps are torch tensors; from the
scores on, everything is numpy and pandas.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from interp.grids import PatchGrid as PatchGrid
from interp.grids import View as View

Query = Literal["predicting", "self"]
"""Which row stands for an answer token: the row of the token before it, which predicts it, or its own row."""


Rows = Literal["mean", "first", "last"]
"""Which of a word's rows make its map: the mean over its tokens, or the first or last token's alone. The row that
predicts the first token is the only one that cannot have read the word."""


By = Literal["specificity", "mean"]
"""What heads are chosen by: how well they tell the named thing from the others, or their mean score."""


Weighting = Literal["attention", "value"]
"""What a map holds: attention, or attention times the norm of what the head would pass on (see `interp.attention`)."""


class Head(NamedTuple):
    """One attention head, counted from 0: ``Head(14, 24)`` is printed as ``L14 H24``.

    >>> print(Head(14, 24))
    L14 H24
    >>> Head(14, 24) == (14, 24)
    True
    """

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer} H{self.head}"


def layer_numbers(layers: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The number of each of ``count`` layers along an axis: as given, or 0, 1, ... where none are given.

    >>> layer_numbers((), 2), layer_numbers((3, 7), 2)
    ((0, 1), (3, 7))
    """
    return layers or tuple(range(count))


@dataclass(frozen=True)
class Target:
    """What a phrase should point at: a noun or phrase and its exact visible mask in the image's pixels.

    ``kind``: what in the answer tells this target from the image's others before its name is said: ``free`` if nothing
    does, else the kind of words that do (``attribute``, ``place``, ...); empty where the data set does not say.
    """

    phrase: str
    mask: Bool[np.ndarray, "height width"]
    kind: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Sample:
    """One image with its prompt (plain text, no template, no image placeholder), reference answer and targets.

    ``id`` tells samples apart, ``image_id`` images: samples of one image share it, and every interval and test takes
    the image for its unit of chance. Unless it is given, a sample has an image of its own.
    """

    id: str
    image: UInt8[np.ndarray, "height width 3"]
    prompt: str
    answer: str | None = None
    targets: tuple[Target, ...] = ()
    image_id: int | str = ""

    def __post_init__(self) -> None:
        if not self.image_id:
            object.__setattr__(self, "image_id", self.id)


@dataclass(frozen=True)
class Phrase:
    """A noun phrase of the answer: its text, its root word, the lemma of the root, and where the root stands.

    ``start`` and ``end`` are the root word's characters in the answer; ``tokens`` are the answer tokens (0 is the
    first answer token) whose characters overlap them.
    """

    text: str
    root: str
    lemma: str
    start: int
    end: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Capture:
    """The attention of answer tokens to the image's patches, for every layer and head.

    ``attention[i]`` belongs to answer token ``kept[i]`` and holds the softmax over *all* keys, cut to the image's
    columns: it sums to the share of attention that goes to the image, not to 1. ``mean`` is the mean over *all*
    answer tokens, kept or not; with ``end`` the row that predicts the end of the answer is one of them, as in the
    released code of arXiv 2410.08209. ``tokens`` are the answer's tokens as strings, ``answer`` its text. With
    ``weighting`` "value" every number is multiplied by the norm of the key's projected value, and the sum is no share.

    ``elsewhere`` is each row's sum over the image's tokens that are not on the map: those of its other views, and those
    without a place; None: there are none. ``layers`` are the layers' numbers along the layer axis; () where they are
    0, 1, ...: a model may have layers without attention heads.
    """

    sample_id: str
    prompt: str
    answer: str
    tokens: tuple[str, ...]
    grid: PatchGrid
    query: Query
    kept: Int[np.ndarray, " token"]
    attention: Float[Tensor, "token layer head row col"]
    mean: Float[Tensor, "layer head row col"]
    phrases: tuple[Phrase, ...] = ()
    logprobs: Float[np.ndarray, " answer_token"] | None = None
    weighting: Weighting = "attention"
    end: bool = False
    elsewhere: Float[Tensor, "token layer head"] | None = None
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Skip:
    """A sample that a run left out, and why: what came, what was expected and how to mend it."""

    sample_id: str
    reason: str


@dataclass(frozen=True)
class PhraseMaps:
    """One map per phrase, layer and head: the mean over the tokens of the phrase's root word.

    ``elsewhere`` and ``layers``: as in a `Capture`; the former is attention as it is, whatever the maps' normalisation.
    """

    sample_id: str
    phrases: tuple[Phrase, ...]
    grid: PatchGrid
    maps: Float[Tensor, "phrase layer head row col"]
    elsewhere: Float[Tensor, "phrase layer head"] | None = None
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Prompts:
    """What a segmenter is asked for each phrase, in the image's pixels; of one image.

    ``points`` are (x, y), all on the object; a phrase with fewer points than others is filled up with NaN, and one
    that has neither point nor box is NaN throughout. ``boxes`` are (x0, y0, x1, y1) with x1, y1 exclusive.
    ``logits`` are mask logits over the image, ``maps`` the phrase's map: what segmenters without weights work on, NaN
    outside the model's crop.
    """

    points: Float[np.ndarray, "phrase point 2"]
    boxes: Float[np.ndarray, "phrase 4"] | None = None
    logits: Float[Tensor, "phrase height width"] | None = None
    maps: Float[Tensor, "phrase height width"] | None = None


@dataclass(frozen=True)
class Proposals:
    """A segmenter's masks for each phrase: one, or three for a single point of SAM's kind.

    ``scores`` are the segmenter's own estimate of their IoU, about 0..1; NaN where it makes none, and where a phrase
    had no prompt: that one's masks are empty.
    """

    masks: Bool[np.ndarray, "phrase candidate height width"]
    scores: Float[np.ndarray, "phrase candidate"]


@dataclass(frozen=True)
class Segmentation:
    """An answer's noun phrases with one mask each, in the image's pixels.

    ``points`` are (x, y): the first point prompt, NaN where the map had no highest pixel; its phrase then has an empty
    mask. ``boxes`` are (x0, y0, x1, y1), of prompts that are boxes. ``confidence`` is the segmenter's own estimate
    of the mask's IoU, about 0..1, NaN where it makes none. ``candidates`` are all masks that the segmenter proposed
    with their scores, if they were asked for. ``skipped`` names the phrases that were left out or have no mask, and
    why. ``details`` say how it was made: heads, prompting, segmenter, ...

    >>> mask = np.array([[[True, False], [False, False]]])
    >>> dog = Phrase("a dog", "dog", "dog", 2, 5, (1,))
    >>> made = Segmentation("1.jpg", "What is it?", "A dog.", (dog,), np.zeros((1, 2)), mask, np.array([0.9]))
    >>> made.image_size, made.to_frame()["area"].item()
    ((2, 2), 0.25)
    """

    sample_id: str
    prompt: str
    answer: str
    phrases: tuple[Phrase, ...]
    points: Float[np.ndarray, "phrase 2"]
    masks: Bool[np.ndarray, "phrase height width"]
    confidence: Float[np.ndarray, " phrase"]
    boxes: Float[np.ndarray, "phrase 4"] | None = None
    candidates: Proposals | None = None
    skipped: tuple[Skip, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        return self.masks.shape[1:]  # type: ignore[return-value]

    def to_frame(self) -> pd.DataFrame:
        """Tidy: one row per phrase; ``area`` is the mask's share of the image, 0..1."""
        return pd.DataFrame(
            {
                "sample_id": self.sample_id,
                "phrase": [phrase.text for phrase in self.phrases],
                "root": [phrase.root for phrase in self.phrases],
                "x": self.points[:, 0],
                "y": self.points[:, 1],
                "area": self.masks.mean((1, 2)) if len(self.masks) else np.zeros(0),
                "confidence": self.confidence,
            }
        )
