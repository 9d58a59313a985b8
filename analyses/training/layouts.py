"""Scenes as text alone can have them: boxes with nouns and colours instead of pictures, read as a grid of words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp.datasets import scenes
from interp.datasets.scenes import Thing

EMPTY = -1
PLACE_WORDS = ("left", "right", "top", "bottom", "middle")
PLAIN = 0.2  # the share of layouts whose things have no colour
SHARES = {"question": 0.1, "asked": 0.15, "free": 0.3, "attribute": 0.15, "place": 0.1, "relation": 0.1, "order": 0.1}
ONLY_CAPTIONS = {kind: share for kind, share in SHARES.items() if kind in scenes.KINDS}
LISTS = SHARES | {"question": 0.08, "asked": 0.1, "free": 0.42, "relation": 0.07, "order": 0.08}


def layout(
    rng: np.random.Generator,
    counts: tuple[int, int] = (1, 5),
    sides: tuple[float, float] = (0.26, 0.6),
    spread: bool = False,
) -> tuple[tuple[Thing, ...], np.ndarray]:
    """Things and their boxes (Float[thing 4]: x0 y0 x1 y1, 0..1), later ones in front, as `scenes.compose` places
    objects: at least 60 % of each shows. ``spread``: each has a corner, or the middle, to itself."""
    chosen = scenes.choose(rng, "train", counts)
    colours = scenes.colours_for(rng, "train", chosen, list(scenes.COLOURS)) if rng.random() > PLAIN else ()
    boxes = _spread(rng, len(chosen), sides) if spread else _scattered(rng, len(chosen), sides)
    things = []
    for k, (noun, box) in enumerate(zip(chosen, boxes, strict=True)):
        x, y = (box[:2] + box[2:]) / 2
        hides = frozenset(j for j in range(k) if _overlap(box, boxes[j]) > 0.05 * _area(boxes[j]))
        colour = colours[k] if colours else ""
        things.append(Thing(noun, float(x), float(y), float(np.sqrt(_area(box))), colour, 1, hides))
    return tuple(things), np.stack(boxes)


def _scattered(rng: np.random.Generator, amount: int, sides: tuple[float, float]) -> list[np.ndarray]:
    """Boxes anywhere, none of which hides too much of another."""
    boxes: list[np.ndarray] = []
    for _ in range(amount):
        side = float(np.exp(rng.uniform(*np.log(sides))))
        while True:
            side *= 0.985
            extent = side * np.where(rng.random(2) < 0.5, 1.0, rng.uniform(0.55, 1.0, 2))
            corner = rng.random(2) * (1 - extent)
            box = np.concatenate([corner, corner + extent])
            if all(_overlap(box, other) < 0.4 * _area(other) for other in boxes):
                break
        boxes.append(box)
    return boxes


def _spread(rng: np.random.Generator, amount: int, sides: tuple[float, float]) -> list[np.ndarray]:
    """Boxes in the corners and the middle, moved a little."""
    at = rng.permutation(np.array([(0.22, 0.22), (0.78, 0.22), (0.22, 0.78), (0.78, 0.78), (0.5, 0.5)]))[:amount]
    middle = at + rng.uniform(-0.05, 0.05, at.shape)
    half = np.exp(rng.uniform(*np.log(sides), size=at.shape)) / 2
    return list(np.concatenate([middle - half, middle + half], 1).clip(0, 1))


def _area(box: np.ndarray) -> float:
    return float(np.prod(box[2:] - box[:2]))


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)))


def cells(boxes: np.ndarray, side: int) -> np.ndarray:
    """Int[row col] of a grid of ``side`` x ``side`` cells: the number of the front thing in each cell's middle, or
    ``EMPTY``; a thing that no middle meets is in the cell nearest to its own middle."""
    at = (np.arange(side) + 0.5) / side
    grid = np.full((side, side), EMPTY)
    for k, (x0, y0, x1, y1) in enumerate(boxes):
        grid[np.ix_((at >= y0) & (at < y1), (at >= x0) & (at < x1))] = k
    for k, (x0, y0, x1, y1) in enumerate(boxes):
        if not (grid == k).any():
            grid[int((y0 + y1) / 2 * side), int((x0 + x1) / 2 * side)] = k
    return grid


def places(side: int) -> np.ndarray:
    """Float[cell word]: how much each of ``PLACE_WORDS`` is true of a cell, 0..1; with the cells row by row."""
    at = (np.arange(side) + 0.5) / side * 2 - 1
    y, x = (v.ravel() for v in np.meshgrid(at, at, indexing="ij"))
    middle = np.clip(1.2 - 3 * np.maximum(abs(x), abs(y)), 0, 1)
    return np.stack([*(np.clip(3 * v, 0, 1) for v in (-x, x, -y, y)), middle], -1).astype(np.float32)


def spoken(rng: np.random.Generator, things: Sequence[Thing], shares: dict[str, float]) -> tuple[str, str]:
    """A prompt and its answer about the things: free or bound, a caption or a question, as often as ``shares`` say.

    ``shares``: ``question`` (free), ``asked`` (bound) and the kinds of captions. What a scene has not is drawn anew.
    """
    names, nouns = list(shares), [t.noun for t in things]
    weights = np.array([shares[n] for n in names]) / sum(shares.values())
    for _ in range(20):
        form = names[int(rng.choice(len(names), p=weights))]
        if form == "question":
            if all(t.count == 1 for t in things):
                return scenes.question(rng, nouns)
        elif form == "asked":
            if found := scenes.bound_question(rng, "train", things):
                return found
        elif said := scenes.described(rng, "train", things, form):
            return scenes.DESCRIBE[rng.integers(len(scenes.DESCRIBE))], said.text
    said = scenes.described(rng, "train", things, "free") or scenes.described(rng, "train", things, "attribute")
    return scenes.DESCRIBE[0], said.text if said else f"There is {scenes.article(nouns[0])}."
