"""Whatever a user has for a mask -> Bool[height width], or an error that says what came and how to mend it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from interp.handle import reach
from interp.images import ImageError

KINDS = "a path, a PIL image, an array or tensor (height, width), or COCO's run lengths {'size': ..., 'counts': ...}"


class MaskError(ValueError):
    """Not a mask that can be read: of another shape than (height, width), or with more than two values.

    What to do: the message says what came and how to mend it, such as which comparison makes a mask of it.
    """


def read_mask(source: Any) -> Bool[np.ndarray, "height width"]:
    """True where the thing is. Of whole numbers and of images the larger of two values is the thing, and of one value
    all that is not 0; floats are 0 and 1.

    Raises:
        MaskError: of another shape, or with more than two values.
        interp.images.ImageError: a file that cannot be read.
        interp.datasets._coco_masks.CocoError: run lengths that do not fit their size.

    >>> read_mask(np.array([[0, 255]], dtype=np.uint8)).tolist()
    [[False, True]]
    >>> read_mask({"size": [2, 1], "counts": [1, 1]}).tolist()  # down the columns: one outside, one inside
    [[False], [True]]
    """
    if isinstance(source, Mapping):
        return _from_runs(source)
    if isinstance(source, str | os.PathLike):
        source = _opened(Path(source).expanduser())
    if isinstance(source, Image.Image):
        source = np.asarray(source)
    elif hasattr(source, "detach") and hasattr(source, "cpu"):  # a tensor
        source = source.detach().cpu().numpy()
    if not isinstance(source, np.ndarray):
        raise MaskError(f"cannot read a mask from {type(source).__name__}; expected {KINDS}")
    return _from_array(source)


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            opened.load()
            return opened
    except FileNotFoundError as error:
        raise ImageError(f"no file {path}; expected a mask's image; check the path") from error
    except Exception as error:  # PIL's readers raise anything on damaged bytes
        raise ImageError(f"{path} cannot be read as a mask ({error}); expected a PNG with two values") from error


def _from_runs(source: Mapping[str, Any]) -> Bool[np.ndarray, "height width"]:
    size = source.get("size")
    if not (isinstance(size, list | tuple) and len(size) == 2) or "counts" not in source:
        raise MaskError(
            f"a mapping with {sorted(map(str, source))} is no mask; expected 'size' [height, width], 'counts'"
        )
    runs = {**source, "size": [int(n) for n in size]}
    return reach("interp.datasets._coco_masks", "decode")(runs, *runs["size"], "a mask")


def _from_array(array: np.ndarray) -> Bool[np.ndarray, "height width"]:
    name = f"a mask of shape {array.shape} and type {array.dtype}"
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[2] in (1, 3, 4) and (array[..., :3] == array[..., :1]).all():
        array = array[..., 0]  # grey, written as colours
    if array.ndim != 2 or 0 in array.shape:
        raise MaskError(f"{name}: expected (height, width)")
    if array.dtype == bool:
        return array
    values = np.unique(array)
    if len(values) > 2 or (array.dtype.kind == "f" and not np.isin(values, (0, 1)).all()):
        raise MaskError(
            f"{name} has {len(values)} values, {values[0]} to {values[-1]}; a mask has two: make one of it by a "
            "comparison, such as labels == 3 or share > 0.5"
        )
    return array == values[-1] if len(values) == 2 else array != 0
