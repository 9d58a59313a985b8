"""Weights that a model's folder leaves in files of other folders: what two models have in common is stored once.

``shared.json`` beside the folder's own ``model.safetensors`` says where:
``{FILE: {"sha256": ..., "names": {the model's name of a weight: its name in FILE}}}``, FILE from the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.models._config import read_object
from interp.models._hf import BrokenCheckpoint

SHARED, OWN = "shared.json", "model.safetensors"


def shared(folder: str | Path) -> dict[str, tuple[Path, str]]:
    """(File, name in it) for the model's name of each weight that lies elsewhere; empty where none does.

    Raises:
        BrokenCheckpoint: such a file is not there, or is not the one that the folder was saved beside.
    """
    index = Path(folder) / SHARED
    found: dict[str, tuple[Path, str]] = {}
    for place, given in read_object(index).items() if index.is_file() else ():
        file, names = (Path(folder) / place).resolve(), given["names"]
        if not file.is_file():
            raise BrokenCheckpoint(
                f"{folder} takes {len(names)} weights from {file}, which is not there; fetch or train that model too, "
                "and keep the two folders beside each other"
            )
        if hashlib.sha256(file.read_bytes()).hexdigest() != given["sha256"]:
            raise BrokenCheckpoint(
                f"{file} is not the file that {folder} was saved beside (another SHA-256); fetch both anew, or save "
                f"{folder} again"
            )
        found |= {name: (file, key) for name, key in names.items()}
    return found


def weights(folder: str | Path) -> dict[str, Tensor]:
    """All of the model's weights, by its own names.

    Raises:
        BrokenCheckpoint: as ``shared``, or a file that lacks a weight.
    """
    own, elsewhere = load_file(Path(folder) / OWN), shared(folder)
    files = {file: load_file(file) for file, _ in elsewhere.values()}
    if lost := sorted({f"{key} in {file}" for file, key in elsewhere.values() if key not in files[file]}):
        raise BrokenCheckpoint(f"{Path(folder) / SHARED} names weights that are not there: {', '.join(lost)}")
    return own | {name: files[file][key].clone() for name, (file, key) in elsewhere.items()}


def save(weights: Mapping[str, Tensor], folder: str | Path, files: Iterable[Path]) -> None:
    """Writes ``model.safetensors`` with those weights that none of the files holds, and ``shared.json`` for the rest.

    A weight is shared if a file has an equal one, of the same type, whose name ends in the same two parts; a tensor of
    a file stands for one weight at most, that with the longest common end of names.
    """
    folder, left, index = Path(folder), dict(weights), {}
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        stored, names = load_file(file), {}
        for name, key in sorted(_pairs(left, stored), key=lambda pair: -_common_end(*pair)):
            if name not in names and key not in names.values():
                names[name] = key
        left = {k: v for k, v in left.items() if k not in names}
        place = os.path.relpath(file, folder).replace(os.sep, "/")
        index[place] = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "names": names}
    save_file({k: v.contiguous() for k, v in left.items()}, folder / OWN, {"format": "pt"})
    (folder / SHARED).write_text(json.dumps(index, indent=1) + "\n")


def _pairs(weights: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    for name, weight in weights.items():
        for key, tensor in stored.items():
            alike = _common_end(name, key) > 1 and (tensor.dtype, tensor.shape) == (weight.dtype, weight.shape)
            if alike and torch.equal(tensor, weight):
                yield name, key


def _common_end(a: str, b: str) -> int:
    """How many of the last parts of the names agree."""
    parts = zip(reversed(a.split(".")), reversed(b.split(".")), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], parts)))
