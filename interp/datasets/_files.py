"""Annotation files and images of a data set on disk: read with a clear word on what is wrong, and never outside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from interp.datasets._coco_masks import CocoError
from interp.images import read_image
from interp.work.documents import BrokenDocument, read_document


class DatasetError(CocoError):
    """The folder does not hold the data set that it should: files are missing, damaged or of another layout.

    What to do: give ``--root`` the folder that the message describes, or fetch the file that it names.
    """


def home(root: Any, samples: int | None, expected: str) -> Path:
    """The data set's folder.

    Raises:
        DatasetError: none given, or fewer than one sample asked for.
    """
    if root is None:
        raise DatasetError(f"no folder given; expected one with {expected} (--root)")
    if samples is not None and samples < 1:
        raise DatasetError(f"samples is {samples}; expected at least 1, or none for all")
    return Path(root).expanduser()


def first_file(candidates: Sequence[Path], what: str) -> Path:
    """The first of the paths that is a file.

    Raises:
        DatasetError: none is; it names all places that were looked at.
    """
    found = next((path for path in candidates if path.exists()), None)
    if found is not None and not found.is_file():
        raise DatasetError(f"{found} is no regular file; expected the {what}")
    if found is None:
        raise DatasetError(f"no {what}; looked for {', '.join(map(str, candidates))}")
    return found


def read_json(path: Path, kind: type = dict) -> Any:
    """The document, a list or an object as ``kind`` says.

    Raises:
        DatasetError: not JSON, or of another kind.
    """
    try:
        return read_document(path, kind)
    except BrokenDocument as error:
        raise DatasetError(str(error)) from error


def find_image(name: str, folders: Sequence[Path]) -> Path:
    """The first of the folders' files of that name.

    Raises:
        DatasetError: none has it.
    """
    found = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if found is None:
        raise DatasetError(f"no file {name} in {', '.join(map(str, folders))}; fetch it, or correct its name")
    return found


def read_as_annotated(path: Path, said: tuple[int | None, int | None]) -> UInt8[np.ndarray, "height width 3"]:
    """The image in the frame in which it was annotated, so that masks lie on their things.

    ``said`` is the (height, width) that the annotations name, None where they do not. Masks are drawn on the pixels as
    they are stored (pycocotools and plain PIL know no EXIF orientation), unless only the upright image has that size.
    Where size cannot tell (turned by 180 degrees, mirrored, square, nothing said), it is the stored pixels.

    Raises:
        DatasetError: neither has that size.
    """
    stored = read_image(path, upright=False)
    if _is_of(stored, said):
        return stored
    upright = read_image(path)
    if _is_of(upright, said):
        return upright
    raise DatasetError(
        f"{path.name} has {stored.shape[0]} x {stored.shape[1]} (height x width) pixels, its annotations are for "
        f"{said[0]} x {said[1]}: it was resized or cropped; take the original image"
    )


def said_size(records: Iterable[Mapping[str, Any]], masks: Iterable[Any] = ()) -> tuple[int | None, int | None]:
    """The (height, width) that an image's records name, or else its run lengths; None where nothing does."""
    named = [(record.get("height"), record.get("width")) for record in records]
    lengths = [mask.get("size") for mask in masks if isinstance(mask, Mapping)]
    sizes = [*named, *(tuple(s) for s in lengths if isinstance(s, list) and all(isinstance(v, int) for v in s))]
    return next((size for size in sizes if len(size) == 2 and None not in size), (None, None))


def _is_of(image: np.ndarray, said: tuple[int | None, int | None]) -> bool:
    return all(named in (None, side) for named, side in zip(said, image.shape[:2], strict=True))
