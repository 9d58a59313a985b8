"""Arrays that may be larger than memory: a large one lies in a file that no folder shows and that goes with it.

They are arrays like others; whoever goes through all of one takes it in pieces (`taken`), which are read and not
mapped, so that memory holds a piece at a time.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np

SMALL = 8 << 20
"""Bytes up to which an array lies in memory."""


class _File(mmap.mmap):
    """The whole of a file; ``number`` is its descriptor."""

    number: int

    @classmethod
    def of(cls, size: int, folder: str | Path | None) -> _File:
        with tempfile.TemporaryFile(dir=folder) as opened:
            opened.truncate(size)
            made = cls(opened.fileno(), size)
            made.number = os.dup(opened.fileno())
        weakref.finalize(made, os.close, made.number)
        return made


def room(shape: tuple[int, ...], dtype: Any, folder: str | Path | None = None) -> np.ndarray:
    """An array of zeros; above `SMALL` bytes it lies in a file of that folder (None: the system's own for such)."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.zeros(shape, dtype) if size <= SMALL else np.ndarray(shape, dtype, buffer=_File.of(size, folder))


def by_column(rows: int, columns: tuple[int, ...], dtype: Any, folder: str | Path | None = None) -> np.ndarray:
    """The same with its columns one after the other in the file, where it lies in one."""
    if rows * int(np.prod(columns)) * np.dtype(dtype).itemsize <= SMALL:
        return np.zeros((rows, *columns), dtype)
    return np.moveaxis(room((*columns, rows), dtype, folder), -1, 0)


def taken(part: np.ndarray) -> np.ndarray:
    """What the part of an array holds, in memory, row after row: read from its file, if it lies in one."""
    file, (order, inner) = _file(part), _laid_out(part)
    if file is None or (inner.size and inner.strides[-1] != inner.itemsize):
        return np.ascontiguousarray(part)
    found = np.empty(inner.shape, part.dtype)
    data = memoryview(found.reshape(-1).data).cast("B")
    for at, end, place in _runs(file, inner):
        while at < end:  # a call moves two gigabytes at most
            moved = os.preadv(file.number, [data[at:end]], place)
            at, place = at + moved, place + moved
    return np.ascontiguousarray(found.transpose(np.argsort(order)))


def put(part: np.ndarray, values: np.ndarray) -> None:
    """The part of an array holds these values, without a page of it in memory, if it lies in a file."""
    file = _file(part)
    if file is None:
        part[...] = values
        return
    order, inner = _laid_out(part)
    data = memoryview(np.ascontiguousarray(values.astype(part.dtype).transpose(order)).reshape(-1).data).cast("B")
    for at, end, place in _runs(file, inner):
        while at < end:
            moved = os.pwrite(file.number, data[at:end], place)
            at, place = at + moved, place + moved


def _laid_out(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The axes from the farthest apart to the nearest, and the part in this order."""
    order = np.argsort([-stride for stride in part.strides], kind="stable")
    return order, part.transpose(order)


def _runs(file: _File, inner: np.ndarray) -> list[tuple[int, int, int]]:
    """(begin and end in the part, offset in the file), in bytes, of the pieces that lie together."""
    start = np.frombuffer(file, np.uint8).__array_interface__["data"][0]
    first = inner.__array_interface__["data"][0] - start
    if not inner.size:
        return []
    if inner.flags.c_contiguous:
        return [(0, inner.nbytes, first)]
    size = inner.shape[-1] * inner.itemsize
    places = first + sum(
        np.arange(n).reshape(-1, *[1] * (inner.ndim - 2 - axis)) * stride
        for axis, (n, stride) in enumerate(zip(inner.shape[:-1], inner.strides[:-1], strict=True))
    )
    return [(i * size, (i + 1) * size, int(place)) for i, place in enumerate(np.ravel(places))]


def _file(part: Any) -> _File | None:
    while part is not None and not isinstance(part, _File):
        part = part.obj if isinstance(part, memoryview) else getattr(part, "base", None)
    return part
