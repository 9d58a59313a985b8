"""What a run's folder may hold: whether it is a run at all, and how one is thrown away."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from interp.work.files import write_bytes

_OURS = (
    "manifest.json",
    "parts",
    "claims",
    "figures",
    "report.html",
    "explorer.html",
    "explorer.json",
    "capture.npz",
    "capture.safetensors",
    "comparison.csv",
    "comparison.md",
    "masks.npz",
    "coco.json",
    "gcg",
    "predictions.json",
    "summary.csv",
    "summary.json",
)
_FOLDERS = ("parts", "claims", "figures", "gcg")


class RunConflict(ValueError):
    """The folder holds a run with other arguments, weights or versions, or something that is no run.

    What to do: the same arguments to go on with it, another ``--out`` to keep it, ``--force`` to start over. The
    message names the difference.
    """


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of the run in this folder; None if it has none.

    Raises:
        RunConflict: a manifest.json that is something else.
    """
    path = folder / "manifest.json"
    if not path.exists():
        return None
    try:
        if not path.is_file():
            raise TypeError("no regular file")
        manifest = json.loads(path.read_text())
        for name, kind in (("arguments", dict), ("versions", dict), ("resumed", list)):
            if not isinstance(manifest[name], kind):
                raise TypeError(f"{name} is a {type(manifest[name]).__name__}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunConflict(
            f"{path} is not a run's manifest ({error!r:.200}), so the folder stays untouched; name another --out"
            + (", or give --force to throw the run away and start over" if _looks_like_a_run(folder) else "")
        ) from error
    return manifest


def check_place(folder: Path) -> None:
    """Nothing, if a run's folder may lie there.

    Raises:
        RunConflict: a file lies there or in the way, a link that leads nowhere, or the name is too long.
    """
    try:
        if folder.is_symlink() and not folder.exists():
            raise RunConflict(f"{folder} is a link to {os.readlink(folder)}, which is not there; name another --out")
        for place in (folder, *folder.parents):
            if place.exists() and not place.is_dir():
                raise RunConflict(f"{place} is a file, expected a folder for the run; name another --out")
    except OSError as error:
        raise RunConflict(
            f"{str(folder)[:60]}... is no name for a folder: {error.strerror}; name another --out"
        ) from error


def check_inside(folder: Path) -> None:
    """Nothing, if what the run writes can be written there.

    Raises:
        RunConflict: a file lies where a folder of the run must, or a folder where a file must.
    """
    for name in (*_OURS, *(f"parts/{path.name}" for path in (folder / "parts").glob("*.npz"))):
        path, is_folder = folder / name, name in _FOLDERS
        if path.exists() and path.is_dir() != is_folder:
            wanted, there = ("folder", "file") if is_folder else ("file", "folder")
            raise RunConflict(f"{path} is a {there}, where a run has a {wanted}; move it away, or name another --out")


def refuse_foreign(folder: Path) -> None:
    """Nothing, if the folder holds no files of something else.

    Raises:
        RunConflict: it does.
    """
    foreign = (
        sorted(p.name for p in folder.iterdir() if p.name not in _OURS and p.suffix != ".tmp")
        if folder.exists()
        else []
    )
    if foreign:
        raise RunConflict(
            f"{folder} is not empty and holds no run (it has {', '.join(foreign[:3])}); name another --out"
        )


def clear(folder: Path) -> None:
    """Throws a run away, its manifest last: killed in the middle, it is still a run that can be thrown away.

    Raises:
        RunConflict: the folder holds something else.
    """
    try:
        if read_manifest(folder) is None:
            return
    except RunConflict:
        if not _looks_like_a_run(folder):
            raise
        write_bytes(folder / "manifest.json", b'{"arguments": {}, "versions": {}, "resumed": []}')
    others = [*(folder / name for name in _OURS if name != "manifest.json"), *folder.glob("*.parquet")]
    for path in [*others, folder / "manifest.json"]:
        if path.is_dir() and not path.is_symlink():  # what a link leads to may be somebody else's too
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _looks_like_a_run(folder: Path) -> bool:
    """Whether it holds nothing but what runs write, and the folder of parts that every run has."""
    if not (folder / "manifest.json").is_file() or not (folder / "parts").is_dir():
        return False
    return all(p.name in _OURS or p.suffix in (".parquet", ".tmp") for p in folder.iterdir())
