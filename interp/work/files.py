"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interp.work.processes import alive, machine, temporary, writer

DAY = 24 * 3600.0
"""Seconds after which nobody writes to a temporary file of another machine any more."""


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary file to write to, which takes the place of ``path`` at the end, if there is no error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = temporary(path)
    try:
        yield written
        settled(written)
        os.replace(written, path)
        settled(path.parent)
    finally:
        written.unlink(missing_ok=True)


def settled(path: Path) -> None:
    """Nothing, once the file or folder would outlive a power cut."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes the file whole or not at all, and it outlives a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = temporary(path)
    with open(written, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(written, path)
    settled(path.parent)


def sweep(folder: Path) -> None:
    """Removes what killed writers left in the folder. A file of a writer that still runs stays, and one of another
    machine, of which nobody here can tell, for a day."""
    for path in folder.glob(".*.tmp"):
        host, process = writer(path)
        gone = not alive(process) if host == machine() else _older(path, DAY)
        if gone:
            path.unlink(missing_ok=True)


def _older(path: Path, seconds: float) -> bool:
    try:
        return time.time() - path.stat().st_mtime > seconds
    except FileNotFoundError:
        return False
