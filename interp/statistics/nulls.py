"""Masks of other images: what a head is compared with that knows where things usually lie, but not this image.

The pool holds the masks of all targets of the ranked samples, so that heads which only know the usual places score as
well on them as on their own masks (a pool drawn from fewer images would have a sampling error of its own, which no test
over the ranked images sees).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from interp.answer.maps import coverage
from interp.types import PatchGrid, Sample

SIDE = 96


NEAREST = 4


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


@dataclasses.dataclass(frozen=True)
class MaskPool:
    """Masks of many images at one small resolution (96 x 96 cells over the whole image), one bit a cell.

    ``usual`` is the sum of all masks; ``area`` each mask's share of its image. Masks are in the order of their images'
    ids, so the order of the data set does not matter.
    """

    sample_ids: np.ndarray
    bits: UInt8[np.ndarray, "mask byte"]
    area: Float[np.ndarray, " mask"]
    usual: Float[np.ndarray, "height width"]

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> MaskPool:
        """The pool of the samples' targets; empty masks are left out."""
        rows = []
        for sample in samples:
            for i, target in enumerate(sample.targets):
                if target.mask.any():
                    rows.append((sample.image_id, i, float(target.mask.mean()), np.packbits(_small(target.mask))))
        rows.sort(key=lambda row: row[:2])
        bits = np.array([row[3] for row in rows], dtype=np.uint8).reshape(len(rows), SIDE * SIDE // 8)
        usual = np.zeros((SIDE, SIDE))
        for mask in bits:
            usual += _unpack(mask)
        return cls(np.array([row[0] for row in rows], dtype=object), bits, np.array([row[2] for row in rows]), usual)

    def digest(self) -> str:
        """Changes with any mask or image id of the pool."""
        return _digest(list(self.sample_ids), self.bits.tobytes()).hex()

    def usual_places(self, sample_id: str, size: tuple[int, int], grid: PatchGrid) -> Float[Tensor, "row col"]:
        """Mean of the masks of all other images on this image's grid, 0..1; all 0 if there are none."""
        own = self.sample_ids == sample_id
        total = self.usual - sum((_unpack(m) for m in self.bits[own]), np.zeros((SIDE, SIDE)))
        return coverage((total / max((~own).sum(), 1))[None], _shrunk(grid, size))[0]

    def of_others(
        self, sample_id: str, phrase: int, area: float, size: tuple[int, int], grid: PatchGrid, count: int, seed: int
    ) -> Float[Tensor, "null row col"]:
        """``count`` masks of other images on this image's grid, drawn from the ``4 x count`` of most similar area.

        Area is the share of the image, compared by ratio; matching it keeps metrics that favour large masks honest.
        Areas still differ where the pool has few of that size. The draw depends on the seed, the image's id and the
        phrase's number. Fewer masks than ``count`` are returned if other images have no more.
        """
        others = np.flatnonzero(self.sample_ids != sample_id)
        distance = np.abs(np.log(self.area[others]) - np.log(area))
        near = others[np.argsort(distance, kind="stable")[: NEAREST * count]]
        chosen = draw(seed, "nulls", sample_id, phrase).permutation(near)[:count]
        masks = np.array([_unpack(m) for m in self.bits[chosen]], dtype=bool).reshape(-1, SIDE, SIDE)
        return coverage(masks, _shrunk(grid, size))


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


def stack(masks: Sequence[Float[Tensor, "_ row col"]], count: int) -> Float[Tensor, "phrase {count} row col"]:
    """Null masks of several phrases in one tensor; where a phrase has fewer than ``count``, empty masks (undefined)."""
    filled = [torch.cat([m, m.new_zeros(count - len(m), *m.shape[1:])]) for m in masks]
    return torch.stack(filled)
