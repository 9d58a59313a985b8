"""Result types and the axis vocabulary.

The axis words mean the same everywhere: ``sample token phrase layer head row col height width step``. Points are
(x, y) in pixels, grids are (row, col), and what is undefined is NaN. Attention and maps are torch tensors; from the
scores on, everything is numpy and pandas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from interp.handle import Handle, OfMaps, OfPhrases, reach

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
    """One attention head, counted from 0: ``Head(14, 24)`` is printed as ``L14H24``.

    >>> print(Head(14, 24))
    L14H24
    >>> Head(14, 24) == (14, 24)
    True
    """

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"


def layer_numbers(layers: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The number of each of ``count`` layers along an axis: as given, or 0, 1, ... where none are given.

    >>> layer_numbers((), 2), layer_numbers((3, 7), 2)
    ((0, 1), (3, 7))
    """
    return layers or tuple(range(count))


@dataclass(frozen=True, eq=False, repr=False)
class Target(Handle):
    """What a phrase should point at: a noun or phrase and its exact visible mask in the image's pixels.

    ``mask`` is given as a path, a PIL image, an array, a tensor or COCO's run lengths (`interp.masks.read_mask`).

    ``kind``: what in the answer tells this target from the image's others before its name is said: ``free`` if nothing
    does, else the kind of words that do (``attribute``, ``place``, ...); empty where the data set does not say.
    """

    phrase: str
    mask: Bool[np.ndarray, "height width"] | Any
    kind: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if not (isinstance(self.mask, np.ndarray) and self.mask.dtype == bool):
            object.__setattr__(self, "mask", reach("interp.masks", "read_mask")(self.mask))

    def _line(self) -> str:
        return f"{self.phrase!r}, {self.mask.mean():.1%} of {_size(self.mask.shape)}"


@dataclass(frozen=True, eq=False, repr=False)
class Sample(Handle):
    """One image with its prompt (plain text, no template, no image placeholder), reference answer and targets.

    ``image`` is given as a path, a PIL image, an array or a tensor (`interp.images.read_image`); ``targets`` as
    `Target` or as words and masks, ``{"frog": "frog.png"}``, in whatever form masks have (`interp.masks.read_mask`).
    ``id`` tells samples apart, ``image_id`` images: samples of one image share it, and every interval and test takes
    the image for its unit of chance. Unless it is given, a sample has an image of its own.
    """

    id: str
    image: UInt8[np.ndarray, "height width 3"] | Any
    prompt: str
    answer: str | None = None
    targets: tuple[Target, ...] | Any = ()
    image_id: int | str = ""

    def __post_init__(self) -> None:
        if not self.image_id:
            object.__setattr__(self, "image_id", self.id)
        if not (isinstance(self.image, np.ndarray) and self.image.dtype == np.uint8 and self.image.ndim == 3):
            object.__setattr__(self, "image", reach("interp.images", "read_image")(self.image))
        if isinstance(self.targets, Mapping):
            object.__setattr__(self, "targets", tuple(Target(phrase, mask) for phrase, mask in self.targets.items()))

    def _line(self) -> str:
        named = ", ".join(target.phrase for target in self.targets)
        return f"{self.id!r}, {_size(self.image.shape)}, {self.prompt!r}, targets: {named or 'none'}"

    def to_frame(self) -> pd.DataFrame:
        """Tidy: a row per target; ``area`` is its mask's share of the image, 0..1."""
        rows = [(self.id, t.phrase, t.kind, float(t.mask.mean())) for t in self.targets]
        return pd.DataFrame(rows, columns=["sample_id", "phrase", "kind", "area"])


@dataclass(frozen=True)
class View:
    """One look at an image, cut into patches: where they lie in the token sequence and in the image.

    ``token_index[row, col]`` is the patch's position in the sequence that the language model sees (without any
    left padding). ``box`` = (x0, y0, x1, y1) is the area that the whole grid covers, in pixels of the original
    image; every cell has the same size. It overhangs the image where the processor padded, and lies inside it where
    the processor cropped. Among the views of one image each has a ``name`` of its own.
    """

    token_index: Int[np.ndarray, "row col"]
    box: tuple[float, float, float, float]
    name: str = "main"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.token_index.shape  # type: ignore[return-value]


@dataclass(frozen=True)
class PatchGrid(View):
    """All tokens of an image: the view that maps are made of, the ``others``, and those that have no place.

    ``others`` show the same image once more (the whole of it as a thumbnail, or crops of it). ``placeless`` are
    positions of tokens that belong to the image and show no part of it: the ends of rows, a class token.

    >>> grid = PatchGrid(np.arange(5, 9).reshape(2, 2), box=(0.0, 0.0, 336.0, 336.0))
    >>> grid.shape, int(grid.token_index[1, 0])  # the patch in row 1, column 0 is token 7 of the sequence
    ((2, 2), 7)
    """

    others: tuple[View, ...] = ()
    placeless: Int[np.ndarray, " token"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def views(self) -> tuple[View, ...]:
        """All views, the one that maps are made of first."""
        return (View(self.token_index, self.box, self.name), *self.others)

    @property
    def tokens(self) -> Int[np.ndarray, " token"]:
        """Positions of all tokens of the image: those of each of the ``views``, row by row, then the ``placeless``."""
        return np.concatenate([*(view.token_index.reshape(-1) for view in self.views), self.placeless])

    def seen_as(self, name: str) -> PatchGrid:
        """The same tokens, with maps made of the view of that name.

        Raises:
            ValueError: the image has no such view.
        """
        chosen = next((view for view in self.views if view.name == name), None)
        if chosen is None:
            there = ", ".join(view.name for view in self.views)
            raise ValueError(f"this image has no view {name!r}; it has: {there}. Choose one that every image has")
        rest = tuple(view for view in self.views if view is not chosen)
        return PatchGrid(chosen.token_index, chosen.box, chosen.name, rest, self.placeless)


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


@dataclass(frozen=True, eq=False, repr=False)
class Capture(OfMaps):
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

    def __getitem__(self, phrase: Any) -> Float[Tensor, "layer head row col"]:
        """The phrase's attention as it is, the mean over the tokens of its root word; see `place`."""
        return self.maps("none")[phrase]

    def maps(self, normalise: Any = "answer", **how: Any) -> PhraseMaps:
        """Each phrase's maps; see `interp.phrase_maps`."""
        return reach("interp.answer.maps", "phrase_maps")(self, normalise, **how)

    def save(self, path: str | Path) -> Path:
        """The path of the file with all of it (safetensors); see `interp.answer.stored`."""
        return reach("interp.answer.stored", "save")(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Capture:
        """What `save` wrote."""
        return reach("interp.answer.stored", "load")(path)

    def _line(self) -> str:
        shape = " x ".join(map(str, self.attention.shape))
        return f"{self.answer[:60]!r}, {len(self)} phrases, attention {shape} (token layer head row col), {self.query}"


@dataclass(frozen=True)
class Skip:
    """A sample that a run left out, and why: what came, what was expected and how to mend it."""

    sample_id: str
    reason: str


@dataclass(frozen=True, eq=False, repr=False)
class PhraseMaps(OfMaps):
    """One map per phrase, layer and head: the mean over the tokens of the phrase's root word.

    ``elsewhere`` and ``layers``: as in a `Capture`; the former is attention as it is, whatever the maps' normalisation.
    """

    sample_id: str
    phrases: tuple[Phrase, ...]
    grid: PatchGrid
    maps: Float[Tensor, "phrase layer head row col"]
    elsewhere: Float[Tensor, "phrase layer head"] | None = None
    layers: tuple[int, ...] = ()

    def __getitem__(self, phrase: Any) -> Float[Tensor, "layer head row col"]:
        """The maps of a phrase; see `place`."""
        return self.maps[self.place(phrase)]

    def _line(self) -> str:
        shape = " x ".join(map(str, self.maps.shape))
        named = ", ".join(repr(phrase.text) for phrase in self.phrases[:4]) + (", ..." if len(self) > 4 else "")
        return f"{named}; maps {shape} (phrase layer head row col)"


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


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation(OfPhrases):
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

    def __getitem__(self, phrase: Any) -> Bool[np.ndarray, "height width"]:
        """The mask of a phrase; see `place`."""
        return self.masks[self.place(phrase)]

    def show(self, image: Any, **how: Any) -> Any:
        """A figure of the masks over the image, and the answer in their colours (`interp.plots.segments.overlay`)."""
        return reach("interp.plots.segments", "overlay")(reach("interp.images", "read_image")(image), self, **how)

    def _line(self) -> str:
        sized = [f"{p.text!r} {share:.1%}" for p, share in zip(self.phrases[:4], self.masks.mean((1, 2)), strict=False)]
        return f"{', '.join(sized) or 'no phrases'}{', ...' if len(self) > 4 else ''} of {_size(self.image_size)}"

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


def _size(shape: tuple[int, ...]) -> str:
    """Width x height, as images' sizes are said."""
    return f"{shape[1]} x {shape[0]} pixels"
