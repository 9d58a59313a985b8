"""What goes into a study: samples with their targets, the phrases of an answer, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, UInt8

from interp.handle import Handle, reach


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
        return f"{self.phrase!r}, {self.mask.mean():.1%} of {size_of(self.mask.shape)}"


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
        return f"{self.id!r}, {size_of(self.image.shape)}, {self.prompt!r}, targets: {named or 'none'}"

    def to_frame(self) -> pd.DataFrame:
        """Tidy: a row per target; ``area`` is its mask's share of the image, 0..1."""
        rows = [(self.id, t.phrase, t.kind, float(t.mask.mean())) for t in self.targets]
        return pd.DataFrame(rows, columns=["sample_id", "phrase", "kind", "area"])


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
class Skip:
    """A sample that a run left out, and why: what came, what was expected and how to mend it."""

    sample_id: str
    reason: str


def size_of(shape: tuple[int, ...]) -> str:
    """Width x height, as images' sizes are said."""
    return f"{shape[1]} x {shape[0]} pixels"
