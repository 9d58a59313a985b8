"""Every option of attend-and-segment in one place, and its presets (arXiv 2410.08209)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from interp.answer.maps import Heads
from interp.heads import read_heads

Prompting = Literal["argmax", "peaks", "box", "mask"]


Merge = Literal["off", "drop", "share"]


@dataclass(frozen=True)
class Method:
    """From a phrase's maps to its mask; every field is an option of `interp.segment`.

    Args:
        heads, weights: see `interp.answer.maps.reduce_heads`.
        end: the row that predicts the end of the answer belongs to the mean that is subtracted, as in the released code
            (and so in both presets): the capture must have been made with ``end=True``.
        remove_corners: the four corner patches get the lowest value of all the phrases' maps, as in the released code.
        prompting: ``argmax``, the highest pixel (the paper); ``peaks``, up to ``peaks`` local maxima no nearer than a
            patch and at least ``peak_share`` of the map's range high; ``box``, the box of the part above ``box_share``
            of the range that holds the highest pixel; ``mask``, the released second mode: the map over ``temperature``
            is the mask's probability, and the box is that of the pixels where it exceeds ``box_above``; a phrase
            without such a pixel has no mask (the released code gives SAM the box 0, 0, 0, 0).
        several: ask the segmenter for three masks in place of one.
        choice: which of them is taken: ``last`` (the paper), ``best`` by the segmenter's own score, a number from 0,
            or None: what the segmenter's kind calls for (``last`` for SAM; SAM-HQ sorts its masks, there it is
            ``best``).
        drop_words: phrases whose root's lemma is one of these are left out; see ``INVISIBLE``.
        min_confidence: phrases whose mask has a lower score are left out.
        merge: masks whose IoU is above ``merge_above``: ``drop`` keeps the phrase of the highest confidence (of those
            without one, the first) and leaves out the others, ``share`` keeps all phrases and gives them that mask.
    """

    heads: Heads = "all"
    weights: Sequence[float | int] | None = None
    end: bool = False
    remove_corners: bool = False
    prompting: str = "argmax"
    peaks: int = 3
    peak_share: float = 0.7
    box_share: float = 0.5
    temperature: float = 0.0002
    box_above: float = 0.75
    several: bool = True
    choice: str | int | None = None
    drop_words: tuple[str, ...] = ()
    min_confidence: float | None = None
    merge: str = "off"
    merge_above: float = 0.75

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", read_heads(self.heads))
        for name, value, known in (("prompting", self.prompting, Prompting), ("merge", self.merge, Merge)):
            if value not in get_args(known):
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, get_args(known)))}")
        number = isinstance(self.choice, int) and not isinstance(self.choice, bool) and self.choice >= 0
        if not number and self.choice not in (None, "last", "best"):
            raise ValueError(f"choice is {self.choice!r}; expected 'last', 'best', a number from 0, or None")
        for name in ("peak_share", "box_share", "merge_above"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a share, 0..1")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature is {self.temperature}; expected a positive number")
        if self.peaks < 1:
            raise ValueError(f"peaks is {self.peaks}; expected at least 1")


PRESETS = {
    "paper": Method(choice="last", end=True),
    "released": Method(heads="released", choice="last", end=True),
}
"""``paper``: the mean of all heads less its mean over the answer with its end, the highest pixel, SAM's last mask;
``released``: the same with the head that the released code's slice leaves, H-2 of each layer."""


INVISIBLE = (
    "image", "picture", "photo", "photograph", "scene", "view", "shot", "frame", "description", "detail", "left",
    "right", "top", "bottom", "middle", "center", "centre", "side", "front", "back", "background", "foreground",
    "corner", "edge", "distance", "part", "number", "variety", "lot", "overall",
)  # fmt: skip
"""Roots of phrases that name the picture, a place in it or an amount, but no thing."""


def check_scale(method: Method, weighting: str) -> None:
    """Nothing, unless the method takes the values of weighted maps for those of attention; then a ValueError."""
    if (method.prompting, method.temperature, weighting) == ("mask", Method.temperature, "value"):
        raise ValueError(
            f"prompting='mask' takes maps over a temperature, by default {Method.temperature}, which is made for "
            "attention; value-weighted maps are as much larger as the values' norms: give another temperature, another "
            "prompting, or weighting='attention'"
        )


def method_of(preset: str | None = None, **options: Any) -> Method:
    """The method of a preset, or the defaults with these options.

    Raises:
        ValueError: no such preset or option, or an option that the preset settles.

    >>> method_of("paper").choice, method_of(prompting="box").prompting
    ('last', 'box')
    >>> method_of("paper", heads="released")
    Traceback (most recent call last):
        ...
    ValueError: preset 'paper' settles heads; leave them out, or leave out the preset
    """
    known = {field.name for field in fields(Method)}
    if unknown := sorted(set(options) - known):
        raise ValueError(f"no option {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
    if preset is None:
        return Method(**options)
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r}; there are: {', '.join(PRESETS)}")
    settled = PRESETS[preset]
    second_mode = {"prompting": ("argmax", "mask")}
    changed = [
        name
        for name, value in options.items()
        if value != getattr(settled, name) and value not in second_mode.get(name, ())
    ]
    if changed:
        raise ValueError(f"preset {preset!r} settles {', '.join(changed)}; leave them out, or leave out the preset")
    return replace(settled, **options)


def told(method: Method) -> dict[str, Any]:
    """The method as plain values."""
    told = asdict(method)
    if not isinstance(method.heads, str):
        told["heads"] = [[*head] for head in method.heads]
    if method.weights is not None:
        told["weights"] = [float(weight) for weight in method.weights]
    return told
