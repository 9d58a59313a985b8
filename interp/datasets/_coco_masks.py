"""COCO's ways to write a mask down, polygons and run lengths <-> Bool[height width]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int


class CocoError(ValueError):
    """Not data in COCO's format that can be read.

    What to do: mend or fetch again the file or entry that the message names.
    """


class PycocotoolsMissing(ImportError):
    """Polygons or run lengths cannot be turned into masks: pycocotools is not installed.

    What to do: install the extra ``eval``.
    """


def decode(
    segmentation: list[Any] | Mapping[str, Any], height: int, width: int, which: str
) -> Bool[np.ndarray, "{height} {width}"]:
    """The mask; run lengths go down the columns, first outside, then inside, and so on.

    Raises:
        CocoError: no polygons and no run lengths, or of an image of another size; it names ``which`` they are.
    """
    shape = _outlined(segmentation, height, width, which) if isinstance(segmentation, list) else segmentation
    runs = _runs(shape, which)
    if shape.get("size") != [height, width] or (runs < 0).any() or runs.sum() != height * width:
        raise CocoError(
            f"the run lengths of {which} are for size {shape.get('size')} and add up to {runs.sum()} pixels; "
            f"expected [{height}, {width}] and {height * width}, as the image has"
        )
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def encode(mask: Bool[np.ndarray, "height width"], size: tuple[int, int], which: str) -> dict[str, Any]:
    """Segmentation (uncompressed run lengths), area in pixels and box (x, y, width, height) of a mask.

    Raises:
        CocoError: the mask is not of the image's (height, width) ``size``.
    """
    if mask.shape != size:
        raise CocoError(f"the mask of {which} is {mask.shape}, the image {size}; a mask has the image's pixels")
    flat = mask.T.ravel()
    runs = np.diff(np.r_[0, np.flatnonzero(np.diff(flat)) + 1, flat.size]).tolist()
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [cols[0], rows[0], cols[-1] - cols[0] + 1, rows[-1] - rows[0] + 1] if rows.size else [0, 0, 0, 0]
    return {
        "segmentation": {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs},
        "area": int(mask.sum()),
        "bbox": [float(value) for value in box],
    }


def pycocotools() -> Any:
    """The module ``pycocotools.mask``.

    Raises:
        PycocotoolsMissing: it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise PycocotoolsMissing(
            "turning polygons into masks needs pycocotools, which is not installed; run `pip install interp[eval]` or "
            "`pip install pycocotools`"
        ) from error
    return mask


def _outlined(polygons: list[Any], height: int, width: int, which: str) -> dict[str, Any]:
    """Compressed run lengths of the polygons' union, by COCO's own code: others draw the edge otherwise."""
    try:
        points = [np.asarray(polygon, dtype=float) for polygon in polygons]
    except (TypeError, ValueError):
        points = []
    # far outside, pycocotools would need memory for the whole outline
    far = 2 * max(height, width)
    if not points or any(p.ndim != 1 or p.size < 6 or p.size % 2 or not (abs(p) <= far).all() for p in points):
        raise CocoError(
            f"the polygons of {which} are {polygons!r:.200}; expected lists x, y, x, y, ... of at least three points "
            f"in an image of {width} x {height}, or run lengths"
        )
    tools = pycocotools()
    return tools.merge(tools.frPyObjects([p.tolist() for p in points], height, width))


def _runs(shape: Mapping[str, Any], which: str) -> Int[np.ndarray, " run"]:
    """The run lengths, compressed or not. (pycocotools itself takes those of a wrong total without a word.)"""
    counts = shape.get("counts")
    if isinstance(counts, list) and all(isinstance(c, int) and 0 <= c < 2**31 for c in counts):
        return np.array(counts, dtype=np.int64)
    text = counts.encode() if isinstance(counts, str) else counts
    digits = np.frombuffer(text if isinstance(text, bytes) else b"\0", dtype=np.uint8).astype(np.int64) - 48
    if not digits.size or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise CocoError(f"the run lengths of {which} are {counts!r:.80}; expected a list of numbers or COCO's text")
    return _uncompressed(digits)


def _uncompressed(digits: Int[np.ndarray, " digit"]) -> Int[np.ndarray, " run"]:
    """COCO's compression: six bits a character, the 6th says that another follows, the 5th of the last is the sign;
    from the fourth run on, the difference to the run before the last."""
    last = np.flatnonzero(digits & 32 == 0)
    first = np.r_[0, last[:-1] + 1]
    place = np.arange(digits.size) - np.repeat(first, last - first + 1)
    runs = np.add.reduceat((digits & 31) << (5 * np.minimum(place, 11)), first)
    runs -= np.where(digits[last] & 16, 1 << (5 * np.minimum(last - first + 1, 12)), 0)
    for start in (1, 2):
        runs[start::2] = np.cumsum(runs[start::2])
    return runs
