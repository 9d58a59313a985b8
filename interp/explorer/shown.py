"""One model on one image with one answer: what a panel of the page is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from interp.answer.maps import phrase_maps
from interp.types import Capture, PatchGrid, Phrase, Target, layer_numbers


class Recording(NamedTuple):
    """Maps of every unit in one way of recording, by normalisation: ``answer`` (its mean subtracted), ``none``; and
    attention to the image's tokens outside the map."""

    query: str
    weighting: str
    maps: Mapping[str, Float[Tensor, "unit layer head row col"]]
    elsewhere: Float[Tensor, "unit layer head"] | None = None


@dataclass(frozen=True)
class Shown:
    """A panel before it is packed.

    ``units`` are what can be clicked: first ``phrases`` of the answer, then single tokens, as phrases of one token.
    ``group`` and ``step``: panels of one group are checkpoints of one model on one image. ``peaks`` are the masks that
    ``peaks_by`` gives for a point in the middle of each patch.
    """

    title: str
    image: UInt8[np.ndarray, "height width 3"]
    prompt: str
    answer: str
    tokens: tuple[str, ...]
    units: tuple[Phrase, ...]
    phrases: int
    grid: PatchGrid
    layers: tuple[int, ...]
    recordings: Sequence[Recording]
    targets: Sequence[Target] = ()
    group: str = ""
    step: int | None = None
    peaks: Bool[np.ndarray, "patch height width"] | None = None
    peaks_by: str = ""

    @property
    def heads(self) -> int:
        """Heads of a layer."""
        return next(iter(self.recordings[0].maps.values())).shape[2]


class Taken(NamedTuple):
    """Captures of one answer over one image, in one or more ways, and what is known of the image."""

    title: str
    captures: Sequence[Capture]
    image: UInt8[np.ndarray, "height width 3"]
    targets: Sequence[Target] = ()
    group: str = ""
    step: int | None = None


def units_of(capture: Capture, singly: bool) -> tuple[Phrase, ...]:
    """The capture's phrases, then (``singly``) its kept tokens that are no phrase by themselves."""
    alone = {phrase.tokens[0] for phrase in capture.phrases if len(phrase.tokens) == 1}
    kept = [int(token) for token in capture.kept if int(token) not in alone] if singly else []
    return (*capture.phrases, *(Phrase(t, t, t, 0, 0, (i,)) for i in kept for t in [capture.tokens[i]]))


def shown_of(taken: Taken, singly: bool) -> Shown:
    """The view of captures; with ``singly`` tokens can be clicked that are no phrases."""
    first = taken.captures[0]
    units = units_of(first, singly)
    recordings = []
    for capture in taken.captures:
        found = {how: phrase_maps(replace(capture, phrases=units), how) for how in ("answer", "none")}
        maps = {how: each.maps for how, each in found.items()}
        recordings.append(Recording(capture.query, capture.weighting, maps, found["none"].elsewhere))
    layers = layer_numbers(first.layers, first.attention.shape[1])
    about = (taken.title, taken.image, first.prompt, first.answer, first.tokens, units, len(first.phrases), first.grid)
    return Shown(*about, layers, recordings, taken.targets, taken.group, taken.step)
