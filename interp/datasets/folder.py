"""A folder of images without annotations, in the order of their names: to capture or to segment, not to score."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from interp.datasets import _files
from interp.datasets._annotations import check_name
from interp.datasets._files import DatasetError
from interp.images import read_image
from interp.types import Sample, Skip

PROMPT = "Describe the image in detail."
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class Images:
    """The images, lazily and more than once; one that cannot be read comes as a ``Skip`` with the reason. The file's
    name is the sample's id."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def stretch(self, start: int, stop: int) -> Images:
        """Those from ``start`` to before ``stop``; the others are not read."""
        return replace(self, paths=self.paths[start:stop])

    def __iter__(self) -> Iterator[Sample | Skip]:
        for path in self.paths:
            try:
                yield Sample(path.name, read_image(path), PROMPT)
            except (ValueError, OSError) as error:
                yield Skip(path.name, f"{type(error).__name__}: {error}")


def load(root: str | os.PathLike | None = None, split: str = "", samples: int | None = None) -> Images:
    """The first ``samples`` images of ``root``, or of its folder ``split``. There are no answers and no masks.

    Raises:
        DatasetError: no such folder, one without images, or a split that leads out of it.
    """
    at = _files.home(root, samples, "images")
    at = at / check_name(split) if split else at
    if not at.is_dir():
        raise DatasetError(f"{at} is no folder; expected one with images")
    found = sorted(
        p for p in at.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
    )
    if not found:
        raise DatasetError(f"{at} has no images ({', '.join(SUFFIXES)}); give the folder that they lie in")
    return Images(tuple(found[:samples]))
