"""Masks of other images: what a head is compared with that knows where things usually lie, but not this image.

The pool holds every mask that can be named in the ranked samples. Each serves as a null as often as it is somebody's
own mask, and only for masks of similar area. So the scores of a map that does not depend on the image have the same sum
over own masks as over null masks, in any metric, whatever areas and places the masks have: the differences that are
tested have mean zero. (Nearest areas alone do not do this: around a large mask there are only smaller ones, and noise
scores higher on the larger in most metrics. Nor does a pool from fewer images, which has a sampling error of its own.)
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from interp.answer.maps import coverage
from interp.types import PatchGrid, Sample

SIDE = 96


NEAR = 2
"""How far a null may lie from the own mask in the order by area, in multiples of the number of nulls."""


def draw(seed: int, *names: object) -> np.random.Generator:
    """A generator that depends on the seed and the names alone."""
    return np.random.default_rng(int.from_bytes(_digest(seed, *names)[:16], "big"))


def half(seed: int, sample_id: str) -> int:
    """0 or 1: which half of the images this one belongs to, from the seed and its id alone.

    >>> [half(0, name) for name in ("a", "b", "c", "d")], half(0, "a") == half(0, "a")
    ([1, 0, 0, 0], True)
    """
    return _digest("half", seed, sample_id)[0] & 1


def halves(seed: int, images: Iterable[str]) -> dict[str, int]:
    """Image id -> 0 or 1: two halves of equal size (or one more), from the seed and the set of ids alone."""
    ordered = sorted(set(images), key=lambda image: _digest("half", seed, image))
    return {image: place % 2 for place, image in enumerate(ordered)}


Row = tuple[str, str, int, float, UInt8[np.ndarray, " byte"]]
"""A mask of the pool: its image, its sample, its number there, its share of the image, its bits."""


def rows_of(sample: Sample) -> list[Row]:
    """The masks of one sample's targets, those of one name joined; empty ones are left out."""
    named: dict[str, np.ndarray] = {}
    for target in sample.targets:
        name = target.phrase.casefold()
        named[name] = named[name] | target.mask if name in named else target.mask
    masks = [(i, mask) for i, mask in enumerate(named.values()) if mask.any()]
    return [(str(sample.image_id), sample.id, i, float(m.mean()), np.packbits(_small(m))) for i, m in masks]


@dataclasses.dataclass(frozen=True)
class MaskPool:
    """Masks of many images at one small resolution (96 x 96 cells over the whole image), one bit a cell.

    Targets of a sample that have one name are one mask, their union: that is what a phrase with the name means
    (`interp.answer.targets.match_targets`). ``usual`` is the sum of all masks; ``area`` each mask's share of its image.
    Masks are in the order of their images' ids, so the order of the data set does not matter.
    """

    image_ids: np.ndarray
    bits: UInt8[np.ndarray, "mask byte"]
    area: Float[np.ndarray, " mask"]
    usual: Float[np.ndarray, "height width"]
    _nulls: dict[tuple[int, int], np.ndarray] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> MaskPool:
        """The pool of the samples' targets; empty masks are left out. Samples may share an image (``image_id``)."""
        return cls.joined([row for sample in samples for row in rows_of(sample)])

    @classmethod
    def joined(cls, rows: list[Row]) -> MaskPool:
        """The pool of masks that `rows_of` has made small."""
        rows = sorted(rows, key=lambda row: row[:3])
        bits = np.array([row[4] for row in rows], dtype=np.uint8).reshape(len(rows), SIDE * SIDE // 8)
        usual = np.zeros((SIDE, SIDE))
        for mask in bits:
            usual += _unpack(mask)
        images = np.array([row[0] for row in rows], dtype=object)
        return cls(images, bits, np.array([row[3] for row in rows]), usual)

    def digest(self) -> str:
        """Changes with any mask or image id of the pool."""
        # That of repr(("balanced", ids, bytes)), which would be four times as large as the masks, a piece at a time.
        found = hashlib.sha256(repr(("balanced", list(self.image_ids)))[:-1].encode() + b", ")
        for piece in _said(memoryview(np.ascontiguousarray(self.bits).data).cast("B")):
            found.update(piece)
        found.update(b")")
        return found.hexdigest()

    def usual_places(self, image_id: str, size: tuple[int, int], grid: PatchGrid) -> Float[Tensor, "row col"]:
        """Mean of the masks of all other images on this image's grid, 0..1; all 0 if there are none."""
        first, end = self._of(image_id)
        total = self.usual - sum((_unpack(m) for m in self.bits[first:end]), np.zeros((SIDE, SIDE)))
        return coverage((total / max(len(self.bits) - (end - first), 1))[None], _shrunk(grid, size))[0]

    def of_others(
        self, image_id: str, phrase: int, area: float, size: tuple[int, int], grid: PatchGrid, count: int, seed: int
    ) -> Float[Tensor, "null row col"]:
        """``count`` masks of other images on this image's grid, of similar area (share of the image).

        The own mask is known by its image and area; its nulls are those of `partners`, and depend on the seed and the
        pool. A mask that is not in the pool (several targets of different names) gets random ones from as many larger
        as smaller ones, which depend on the phrase's number too; where it is larger than all others its nulls are
        smaller. Fewer masks than ``count`` are returned if other images have no more.
        """
        first, end = self._of(image_id)
        same = first + np.flatnonzero(np.isclose(self.area[first:end], area, rtol=1e-9, atol=0))
        if len(same) == 1:
            chosen = self._partners(count, seed)[same[0]]
        elif len(same):  # several samples of the image name it
            chosen = draw(seed, "nulls", image_id, phrase).permutation(self._partners(count, seed)[same].ravel())
        else:
            chosen = self._around(image_id, phrase, area, count, seed)
        chosen = chosen[chosen >= 0][:count]
        masks = np.array([_unpack(m) for m in self.bits[chosen]], dtype=bool).reshape(-1, SIDE, SIDE)
        return coverage(masks, _shrunk(grid, size))

    def _partners(self, count: int, seed: int) -> Int[np.ndarray, "mask null"]:
        if (count, seed) not in self._nulls:
            images = np.unique(self.image_ids.astype(str), return_inverse=True)[1]
            self._nulls[count, seed] = partners(self.area, images, count, draw(seed, "nulls"))
        return self._nulls[count, seed]

    def _of(self, image_id: str) -> tuple[int, int]:
        """Where the image's masks begin and end."""
        first, end = (int(np.searchsorted(self.image_ids, image_id, side)) for side in ("left", "right"))
        return first, end

    @cached_property
    def _by_area(self) -> tuple[Int[np.ndarray, " mask"], Float[np.ndarray, " mask"], Int[np.ndarray, " mask"]]:
        """The masks in the order of their areas, the areas in that order, and each mask's place in it."""
        order = np.argsort(self.area, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return order, self.area[order], place

    def _around(self, image_id: str, phrase: int, area: float, count: int, seed: int) -> Int[np.ndarray, " null"]:
        order, areas, place = self._by_area
        first, end = self._of(image_id)
        own = np.sort(place[first:end])  # where the image's own masks stand among all: the others close the gaps
        smaller = int(np.searchsorted(areas, area))
        smaller -= int(np.searchsorted(own, smaller))
        larger = len(order) - len(own) - smaller
        reach = max(min(NEAR * count, smaller, larger), -(-count // 2))
        low = max(smaller - reach, 0)
        start = low + int((own - np.arange(len(own)) <= low).sum())
        near = order[start : smaller + reach + len(own)]
        near = near[(near < first) | (near >= end)][: smaller + reach - low]
        return draw(seed, "nulls", image_id, phrase).permutation(near)[:count]


def partners(
    area: Float[np.ndarray, " mask"], image: Int[np.ndarray, " mask"], count: int, rng: np.random.Generator
) -> Int[np.ndarray, "mask null"]:
    """``count`` masks of other images for each mask; every column is a permutation of the masks. -1: there is none.

    A permutation is two orders by area laid side by side: each is the order of the areas' ranks, moved up at random
    by up to ``NEAR`` x ``count`` places. So partners are at most that far apart in the order, as often above as below,
    and at the ends as well. Partners from one image are exchanged with the nearest that mend it.
    """
    n, reach = len(area), NEAR * count
    rank = np.empty(n)
    rank[np.lexsort((rng.random(n), area))] = np.arange(n)
    found = np.full((n, count), -1)
    for number in range(count):
        own, null = (np.argsort(rank + reach * rng.random(n)) for _ in range(2))
        for place in rng.permutation(np.flatnonzero(image[own] == image[null])):
            if image[own[place]] != image[null[place]]:
                continue
            for wide in (4 * reach, n):
                low, high = max(place - wide, 0), place + wide + 1
                fits = (image[own[low:high]] != image[null[place]]) & (image[null[low:high]] != image[own[place]])
                if fits.any():
                    near = np.abs(np.arange(low, low + len(fits)) - place) + rng.random(len(fits))
                    other = low + int(np.where(fits, near, np.inf).argmin())
                    null[[place, other]] = null[[other, place]]
                    break
        found[own, number] = np.where(image[own] != image[null], null, -1)
    return found


def _small(mask: np.ndarray) -> np.ndarray:
    height, width = mask.shape
    whole = PatchGrid(np.zeros((SIDE, SIDE), dtype=np.int64), (0.0, 0.0, float(width), float(height)))
    return (coverage(mask[None], whole)[0] >= 0.5).numpy()


def _unpack(bits: np.ndarray) -> np.ndarray:
    return np.unpackbits(bits).reshape(SIDE, SIDE).astype(bool)


def _shrunk(grid: PatchGrid, size: tuple[int, int]) -> PatchGrid:
    """The grid over the same part of an image that is SIDE x SIDE pixels large instead of (height, width)."""
    (height, width), (x0, y0, x1, y1) = size, grid.box
    box = (x0 * SIDE / width, y0 * SIDE / height, x1 * SIDE / width, y1 * SIDE / height)
    return dataclasses.replace(grid, box=box)


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def _said(data: memoryview, size: int = 1 << 20) -> Iterator[bytes]:
    """``repr`` of the bytes, a piece at a time."""
    pieces = range(0, len(data), size)
    double = any(b"'" in bytes(data[i : i + size]) for i in pieces)
    double = double and not any(b'"' in bytes(data[i : i + size]) for i in pieces)
    yield b'b"' if double else b"b'"
    for i in pieces:
        piece = repr(bytes(data[i : i + size]) + b"'\"")[2:-4]  # with both quotes in it, the single ones are escaped
        yield (piece.replace("\\'", "'") if double else piece).encode()
    yield b'"' if double else b"'"


def stack(masks: Sequence[Float[Tensor, "_ row col"]], count: int) -> Float[Tensor, "phrase {count} row col"]:
    """Null masks of several phrases in one tensor; where a phrase has fewer than ``count``, empty masks (undefined)."""
    filled = [torch.cat([m, m.new_zeros(count - len(m), *m.shape[1:])]) for m in masks]
    return torch.stack(filled)
