"""Tensors of a file or of a whole checkpoint, each read when it is asked for: safetensors, or what torch.save wrote."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils.hub import cached_file

from interp.models._folder import CheckpointMismatch

WHOLE = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")
"""Where a whole checkpoint's weights begin; the first that is there is read."""
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Stored:
    """One tensor in a file, by its name there; its numbers are not in memory."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Its size."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def read(self) -> Tensor:
        """Its numbers, on the CPU, as they are stored. Of a file that torch.save wrote they stay on the disk until
        they are used, where its format allows that."""
        if self.file.suffix == ".safetensors":
            with safe_open(self.file, "pt") as file:
                return file.get_tensor(self.key)
        return _pickled(self.file, *_state(self.file))[self.key]


def damaged(file: Path, error: Exception) -> CheckpointMismatch:
    """The error of a file that its reader fails on, whatever that raised."""
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "weights_only" in why:  # torch goes on to advise to read it all the same
        why = "it holds objects other than tensors, which may run code and are not read"
    return CheckpointMismatch(f"{file} is damaged ({why}); fetch or save it again")


def tensors_in(file: Path) -> dict[str, Stored]:
    """The file's tensors by their names; of a pickle nothing but plain tensors is read.

    Raises:
        CheckpointMismatch: the file is damaged, or holds something else.
    """
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                parts = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118
                return {k: Stored(file, k, tuple(p.get_shape()), TYPES[p.get_dtype()]) for k, p in parts.items()}
        found = _pickled(file, *_state(file))
    except Exception as error:  # a damaged pickle may end in any of them
        raise damaged(file, error) from error
    if not isinstance(found, Mapping) or not all(isinstance(x, Tensor) for x in found.values()):
        raise CheckpointMismatch(f"{file} holds a {type(found).__name__}; expected tensors by their names")
    return {key: Stored(file, key, tuple(tensor.shape), tensor.dtype) for key, tensor in found.items()}


def files_of(place: str | os.PathLike[str]) -> list[Path]:
    """The files with a whole checkpoint's weights, of a folder or a hub id; empty if it holds none of `WHOLE`.

    Raises:
        CheckpointMismatch: a shard that the index names is not there.
    """
    for name in WHOLE:
        if (first := file_of(place, name)) is None:
            continue
        if not name.endswith(".json"):
            return [first]
        shards = sorted(set(json.loads(first.read_text())["weight_map"].values()))
        found = {shard: file_of(place, shard) for shard in shards}
        if lost := [shard for shard, path in found.items() if path is None]:
            raise CheckpointMismatch(f"{place} lacks {', '.join(lost)}, which its index names; fetch or save it again")
        return [path for path in found.values() if path]
    return []


def file_of(place: str | os.PathLike[str], name: str, **hub: Any) -> Path | None:
    """Where the file lies, fetched from the hub if need be; None if there is no such file, or it cannot be reached."""
    if Path(place).is_dir():
        return path if (path := Path(place, name)).is_file() else None
    quiet = dict.fromkeys(("gated_repo", "missing_entries", "connection_errors"), False)
    asked = {k: v for k, v in hub.items() if k != "trust_remote_code"}
    asked |= {f"_raise_exceptions_for_{kind}": on for kind, on in quiet.items()}
    try:
        found = cached_file(os.fspath(place), name, **asked)
    except (OSError, ValueError):
        return None
    return Path(found) if found else None


@functools.lru_cache(maxsize=8)
def _pickled(file: Path, *state: int) -> Any:
    """What torch.save wrote, not read into memory but mapped; a file of before 2020 is read whole."""
    try:
        return torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
        return torch.load(file, map_location="cpu", weights_only=True)


def _state(path: Path) -> tuple[int, ...]:
    """What changes when the file does."""
    about = path.stat()
    return about.st_size, about.st_mtime_ns, about.st_ino
