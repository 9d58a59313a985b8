"""LLaVA in its own code's layout -> one folder that loads like llava-hf's, written shard by shard."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from interp.models._original.building import built, generation_of
from interp.models._original.layout import OriginalLayout
from interp.models._original.parts import parts_of
from interp.models._original.weights import Weights

CONVERTER = 1
"""Raised whenever the same parts give another folder than before."""
SHARD = 2 << 30
"""Bytes in a file at most, if no weight is larger; so much is in memory at a time."""
ABOUT = "conversion.json"


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    language_model: str | None = None,
    clip: str | None = None,
    dtype: torch.dtype | None = None,
    say: Callable[[str], None] = lambda line: None,
    shard: int = SHARD,
) -> Path:
    """The folder ``out``, which ``interp.load`` takes. It appears when it is whole; what a killed call has finished is
    gone on with, and where it is already, made of the same files, nothing is done.

    Args:
        source: folder or hub id of a whole checkpoint, a LoRA run or a projector.
        language_model, clip: folders or hub ids (default: those that the files of ``source`` name).
        dtype: of the weights (default: the language model's).
        say: is told how much will be written, and what is finished.
        shard: bytes in a file.

    Raises:
        OriginalLayout: with what is missing, does not fit or cannot be converted.
        FileExistsError: ``out`` holds something else.
        OSError: too little space.
    """
    out = Path(out)
    weights, config, processor = built(parts_of(source, language_model, clip))
    dtype = dtype or weights.dtype
    config.dtype = dtype
    about = _about(weights, dtype, shard)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if _same(out, about):
            say(f"{out} is there already, made of the same files")
            return out
        raise FileExistsError(f"{out} is there already and holds something else; remove it or give another folder")
    partial = out.with_name(f".{out.name}.partial")
    if not _same(partial, about):
        shutil.rmtree(partial, ignore_errors=True)
    shards = _shards(weights, dtype, shard)
    _check_space(out, partial, shards, weights, dtype, say)
    partial.mkdir(parents=True, exist_ok=True)
    (partial / ABOUT).write_text(json.dumps(about, indent=1))
    for file, names in shards.items():
        if not (partial / file).exists():
            _write(weights, names, dtype, partial / file)
        say(f"written: {file}")
    for part in (config, processor, generation_of(processor.tokenizer)):
        part.save_pretrained(partial)
    if len(shards) > 1:
        _write_index(weights, shards, dtype, partial)
    if out.exists():
        out.rmdir()
    partial.rename(out)
    return out


def _about(weights: Weights, dtype: torch.dtype, shard: int) -> dict[str, Any]:
    """What the folder is made of; another time of writing is another file."""
    parts = weights.parts
    files = {str(file.absolute()): [file.stat().st_size, file.stat().st_mtime_ns] for file in weights.files}
    named = {"source": parts.source, "language_model": parts.language_model, "clip": parts.clip}
    how = {"converter": CONVERTER, "dtype": str(dtype), "shard": shard, "config": dict(parts.config)}
    return {**named, **how, "files": files}


def _same(folder: Path, about: Mapping[str, Any]) -> bool:
    try:
        return json.loads((folder / ABOUT).read_text()) == about
    except (OSError, ValueError):
        return False


def _bytes(weights: Weights, name: str, dtype: torch.dtype) -> int:
    return torch.Size(weights.names[name]).numel() * dtype.itemsize


def _shards(weights: Weights, dtype: torch.dtype, limit: int) -> dict[str, list[str]]:
    """The weights' names by file, in an order that keeps layers together."""
    groups, size = [[]], 0
    for name in weights.names:
        own = _bytes(weights, name, dtype)
        if groups[-1] and size + own > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += own
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i:05}-of-{len(groups):05}.safetensors": group for i, group in enumerate(groups, 1)}


def _check_space(
    out: Path,
    partial: Path,
    shards: Mapping[str, list[str]],
    weights: Weights,
    dtype: torch.dtype,
    say: Callable[[str], None],
) -> None:
    """Says what will be written.

    Raises:
        OSError: there is less space than that.
    """
    left = [name for file, names in shards.items() if not (partial / file).exists() for name in names]
    needed = sum(_bytes(weights, name, dtype) for name in left)
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    told = f"{needed / 1e9:.2f} GB are written to {out}; {free / 1e9:.2f} GB are free there"
    if free < needed + (64 << 20):  # and some for the tokenizer
        raise OSError(f"too little space: {told}. Free some, or give a folder on another disk")
    say(told)


def _write_index(weights: Weights, shards: Mapping[str, list[str]], dtype: torch.dtype, folder: Path) -> None:
    total = sum(_bytes(weights, name, dtype) for name in weights.names)
    where = {name: file for file, names in shards.items() for name in names}
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _write(weights: Weights, names: list[str], dtype: torch.dtype, path: Path) -> None:
    tensors = {}
    for name in names:
        tensors[name] = weights.read(name, dtype).contiguous()
        if not torch.isfinite(tensors[name]).all():
            raise OriginalLayout(f"{weights.parts.source} has NaN or infinity in {name}; fetch or train it again")
    unfinished = path.with_suffix(".unfinished")
    save_file(tensors, unfinished, metadata={"format": "pt"})
    unfinished.rename(path)
