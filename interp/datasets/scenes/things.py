"""What words can tell of a scene's things, and when they leave one: colour, size, number, place, relation, order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from interp.datasets.scenes.draws import held_out

Kind = Literal["free", "attribute", "attribute_apart", "place", "relation", "order"]
"""What has told a thing from the others before its noun is said: nothing, or the words of one of these kinds.

``attribute_apart``: an attribute with another word between it and the noun.
"""
KINDS: tuple[Kind, ...] = ("free", "attribute", "place", "relation", "order")
"""The kinds of captions; one by attribute tells all its things by ``attribute`` or all by ``attribute_apart``."""

COLOURS = {
    "red": (205, 35, 30),
    "orange": (240, 135, 20),
    "yellow": (235, 215, 40),
    "green": (40, 150, 55),
    "blue": (40, 85, 215),
    "purple": (135, 50, 180),
    "white": (235, 235, 235),
    "black": (40, 40, 45),
}
"""The tints, red green blue 0..255: their middle tone."""

PLACES = {
    "on the left": (-1, None),
    "on the right": (1, None),
    "at the top": (None, -1),
    "at the bottom": (None, 1),
    "at the top left": (-1, -1),
    "at the top right": (1, -1),
    "at the bottom left": (-1, 1),
    "at the bottom right": (1, 1),
    "in the middle": (0, 0),
}
"""What a place says of x and y: before the middle (-1), in it (0), behind it (1), or nothing (None)."""

RELATIONS = {
    "left of": (0, -1),
    "to the right of": (0, 1),
    "above": (1, -1),
    "below": (1, 1),
    "behind": (2, -1),
    "in front of": (2, 1),
}
"""What a relation says: the axis (x, y, depth) and the direction from the known thing to the one that is asked."""

_INNER = 0.08  # so far from the image's middle line a thing is clearly on a side; others may not pass the line
_MIDDLE, _AROUND = 0.07, 0.15  # in the middle is what lies so near it, if nothing else is around it
_APART, _SLIGHT = 0.12, 0.02  # so far from a thing another clearly is on a side of it; others may not even be so far
_ROW = 0.07  # between neighbours of an order
_OTHER_SIZE = 1.35  # the ratio of sizes from which one is small, or big


@dataclass(frozen=True)
class Thing:
    """One thing of a scene: its noun and what else words can tell of it.

    ``x``, ``y``: the middle of what shows of it, as a share of the image, from the left and from the top. ``size``:
    square root of the share of the image that it would fill alone. ``hides``: numbers of the things that it covers in
    part. ``count``: 2 if it stands there twice; its place is then none.
    """

    noun: str
    x: float
    y: float
    size: float
    colour: str = ""
    count: int = 1
    hides: frozenset[int] = frozenset()


def seen_in_training(split: str, noun: str, *words: str) -> bool:
    """Whether a text of the split may say ``words`` of the noun: one pair in ten is kept from training."""
    return split != "train" or not any(held_out(noun, word) for word in words)


def attributes(things: Sequence[Thing], one: int) -> list[str]:
    """The words that are true of this thing alone: ``red``, ``small``, ``big``, ``two``."""
    thing, others = things[one], [t for k, t in enumerate(things) if k != one]
    found = []
    if thing.count > 1 and all(t.count == 1 for t in others):
        found.append("two")
    if others and all(thing.size * _OTHER_SIZE < t.size for t in others):
        found.append("small")
    if others and all(thing.size > t.size * _OTHER_SIZE for t in others):
        found.append("big")
    if thing.colour and all(t.colour != thing.colour for t in others):
        found.append(thing.colour)
    return found


def places(things: Sequence[Thing], one: int) -> list[str]:
    """The places where this thing clearly is and no other is, not even nearly; none where a thing stands twice."""
    if any(t.count > 1 for t in things):
        return []
    others = [t for k, t in enumerate(things) if k != one]
    return [
        name
        for name, where in PLACES.items()
        if _lies(things[one], where, _INNER, _MIDDLE) and not any(_lies(t, where, 0.0, _AROUND) for t in others)
    ]


def _lies(thing: Thing, where: tuple[int | None, int | None], inner: float, middle: float) -> bool:
    """Whether the thing lies there: ``inner`` beyond the middle, or within ``middle`` of it."""
    for value, side in zip((thing.x - 0.5, thing.y - 0.5), where, strict=True):
        if side == 0 and abs(value) > middle:
            return False
        if side and value * side < inner:
            return False
    return True


def related(things: Sequence[Thing], known: int, others: Sequence[int]) -> Iterator[tuple[str, int]]:
    """(relation, number of the thing) for each relation to ``known`` that clearly leaves one of the ``others``."""
    if any(t.count > 1 for t in things):
        return
    for name, (axis, direction) in RELATIONS.items():
        found = [k for k in others if _stands(things, known, k, axis, direction, _SLIGHT)]
        if len(found) == 1 and _stands(things, known, found[0], axis, direction, _APART):
            yield name, found[0]


def _stands(things: Sequence[Thing], known: int, asked: int, axis: int, direction: int, apart: float) -> bool:
    """Whether the thing ``asked`` stands in that direction of ``known``, so far apart or more."""
    if axis == 2:
        back, front = (asked, known) if direction < 0 else (known, asked)
        return back in things[front].hides
    a, b = (things[known].x, things[asked].x) if axis == 0 else (things[known].y, things[asked].y)
    return direction * (b - a) > apart


def in_order(things: Sequence[Thing], axis: int) -> list[int]:
    """The things' numbers from left to right (axis 0) or top to bottom (1); empty unless each is clearly the next."""
    if any(t.count > 1 for t in things) or len(things) < 2:
        return []
    at = np.array([(t.x, t.y)[axis] for t in things])
    order = np.argsort(at)
    return order.tolist() if np.diff(at[order]).min() > _ROW else []
