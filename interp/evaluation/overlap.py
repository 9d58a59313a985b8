"""Masks as COCO's run lengths, and how much they overlap. Run lengths keep a whole data set's masks in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.datasets._coco_masks import CocoError, decode, pycocotools

RLE = dict[str, Any]
"""``{"size": [height, width], "counts": text}``: COCO's compressed run lengths, ready for JSON."""
_AT_ONCE = 128


def to_rles(masks: Bool[np.ndarray, "mask height width"]) -> list[RLE]:
    """Each mask as compressed run lengths, by pycocotools."""
    tools = pycocotools()
    stacked = np.asfortranarray(np.moveaxis(masks, 0, -1).astype(np.uint8))
    return [{"size": [*map(int, r["size"])], "counts": r["counts"].decode()} for r in tools.encode(stacked)]


def from_rle(rle: Any, size: tuple[int, int], which: str) -> Bool[np.ndarray, "height width"]:
    """The mask of run lengths (compressed or not) or polygons of an image of (height, width) ``size``.

    Raises:
        interp.datasets.coco.CocoError: they are of another size or length, or not run lengths; it names ``which``.
    """
    if not isinstance(rle, Mapping | list):
        raise CocoError(f"the mask of {which} is {rle!r:.80}; expected COCO's run lengths or polygons")
    return decode(rle, *size, which)


def checked(rle: Any, size: tuple[int, int], which: str) -> RLE:
    """The same mask as compressed run lengths, once its length is known to be right.

    pycocotools itself takes run lengths of a wrong total and reads past them.

    Raises:
        interp.datasets.coco.CocoError: as `from_rle`.
    """
    return to_rles(from_rle(rle, size, which)[None])[0]


def areas(rles: Sequence[RLE]) -> Int[np.ndarray, " mask"]:
    """Pixels of each mask. Asked for some at a time: pycocotools 2.0.11 counts them in eight bits under NumPy 2.4."""
    tools, given = pycocotools(), list(rles)
    parts = [np.asarray(tools.area(given[i : i + _AT_ONCE]), dtype=np.int64) for i in range(0, len(given), _AT_ONCE)]
    return np.concatenate([part.reshape(-1) for part in parts]) if parts else np.zeros(0, dtype=np.int64)


def pairwise_iou(found: Sequence[RLE], truth: Sequence[RLE]) -> Float[np.ndarray, "found truth"]:
    """Intersection over union of every mask with every other, 0..1; NaN where both are empty.

    Raises:
        ValueError: masks of different sizes.
    """
    sizes = {tuple(r["size"]) for r in [*found, *truth]}
    if len(sizes) > 1:
        raise ValueError(f"masks of one image must have one size, (height, width); got {sorted(sizes)}")
    if not found or not truth:
        return np.zeros((len(found), len(truth)))
    iou = np.asarray(pycocotools().iou(list(found), list(truth), [0] * len(truth)), dtype=np.float64)
    empty = (areas(found) == 0)[:, None] & (areas(truth) == 0)
    return np.where(empty, np.nan, iou)


def shared_pixels(
    found: Sequence[RLE], truth: Sequence[RLE]
) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """Pixels of the intersection and of the union of each mask with the one at the same place in the other list.

    Raises:
        ValueError: not as many of the one as of the other, or masks of a pair of different sizes.
    """
    if len(found) != len(truth):
        raise ValueError(f"got {len(found)} masks for {len(truth)} true ones; expected one for each")
    tools = pycocotools()
    union = []
    for a, b in zip(found, truth, strict=True):
        if a["size"] != b["size"]:
            raise ValueError(
                f"a mask of {a['size']} (height, width) beside a true one of {b['size']}; sizes must agree"
            )
        union.append(int(tools.area(tools.merge([a, b]))))
    united = np.asarray(union, dtype=np.int64)
    return areas(found) + areas(truth) - united, united


def boxes(rles: Sequence[RLE]) -> Float[np.ndarray, "mask 4"]:
    """Smallest box (x0, y0, x1, y1) around each mask, x1 and y1 exclusive; NaN for an empty mask."""
    if not rles:
        return np.zeros((0, 4))
    x, y, width, height = np.asarray(pycocotools().toBbox(list(rles)), dtype=np.float64).T
    found = np.stack([x, y, x + width, y + height], 1)
    found[areas(rles) == 0] = np.nan
    return found


def box_iou(found: Float[np.ndarray, "pair 4"], truth: Float[np.ndarray, "pair 4"]) -> Float[np.ndarray, " pair"]:
    """Intersection over union of each box (x0, y0, x1, y1) with the other of its pair, 0..1.

    0 where there is no box found (NaN), NaN where there is no true one.
    """
    low, high = np.maximum(found[:, :2], truth[:, :2]), np.minimum(found[:, 2:], truth[:, 2:])
    shared = (high - low).clip(0).prod(1)
    each = [(b[:, 2:] - b[:, :2]).prod(1) for b in (found, truth)]
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = shared / (each[0] + each[1] - shared)
    iou[np.isnan(found).any(1)] = 0.0
    iou[np.isnan(truth).any(1)] = np.nan
    return iou
