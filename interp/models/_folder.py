"""What the folder of a training checkpoint holds, told from its files' names and first bytes: which of them are read
for which kind of checkpoint. Weights that nothing reads are an error: the numbers would be those of another model."""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path
from typing import Literal

BASE, PROJECTOR, ADAPTER, ADAPTER_CONFIG = (
    "base",
    "projector.safetensors",
    "adapter_model.safetensors",
    "adapter_config.json",
)
OLD_ADAPTER = "adapter_model.bin"
"""An adapter's file as PEFT wrote it before 2024."""
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TRAINED = ("non_lora_trainables.bin", "mm_projector.bin")
"""What LLaVA's own training writes in place of a projector.safetensors."""

Kind = Literal["projector", "adapter", "full"]

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".npz", ".npy", ".distcp")
_BEGINNINGS = (b"PK\3\4", b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5", b"\x93NUMPY", b"\x89HDF", b"GGUF")
_STATE = r"(optimizer|scheduler|rng_state|random_states|training_args|scaler|sampler|dl_state|custom_checkpoint)[^/]*"
_ELSEWHERE = r"(checkpoint-\d+|base|global_step\d+|optimizer_\d+|original|onnx|openvino|metal|runs|logs|wandb|\..*)/.*"
"""A trainer's state, and folders that are no part of this checkpoint."""
_TWICE = {
    "full": r"pytorch_model[^/]*\.bin|tf_model\.h5|flax_model\.msgpack|consolidated[^/]*|mm_projector\.bin",
    "adapter": r"adapter_model\.bin",
    "projector": r"(?!)",
}
"""The same weights once more in another format, as the hub has them; and the first stage's projector beside LLaVA."""


class CheckpointMismatch(ValueError):
    """A checkpoint's weights are not those of the model that it is laid over, or not all of them are read.

    What to do: give the base that it was trained from; the message lists the keys or files at fault.
    """


def files_in(folder: Path) -> set[str]:
    """Paths below the folder of everything that may hold weights or say how to read them."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def contents(place: str, names: Set[str]) -> tuple[Kind, list[str]]:
    """The kind of checkpoint and the files that hold its weights; of a full one's index, the index alone.

    Raises:
        FileNotFoundError: no checkpoint.
    """
    beside = [file for file in (PROJECTOR, *TRAINED) if file in names][:1]
    if names & {ADAPTER, ADAPTER_CONFIG}:
        return "adapter", [OLD_ADAPTER if {ADAPTER, OLD_ADAPTER} & names == {OLD_ADAPTER} else ADAPTER, *beside]
    if beside:
        return "projector", beside
    for file in (WHOLE, INDEX):
        if file in names:
            return "full", [file]
    raise FileNotFoundError(
        f"{place} holds no {PROJECTOR}, and none of {ADAPTER}, {', '.join(TRAINED)}, {WHOLE}, {INDEX}; fetch it again, "
        "or save it as safetensors"
    )


def check_all_read(place: str, names: Set[str], kind: Kind, files: Set[str]) -> None:
    """Nothing, if the checkpoint is whole and no file but those holds weights.

    Raises:
        FileNotFoundError: half an adapter.
        CheckpointMismatch: with the names of the others.
    """
    if kind == "adapter" and not (ADAPTER_CONFIG in names and names & {ADAPTER, OLD_ADAPTER}):
        lost = ADAPTER_CONFIG if names & {ADAPTER, OLD_ADAPTER} else ADAPTER
        raise FileNotFoundError(f"{place} holds half an adapter: no {lost}; fetch or save it again")
    known = rf"({_STATE}|(.*/)?{_ELSEWHERE}|{_TWICE[kind]})"
    left = sorted(n for n in names - files if not re.fullmatch(known, n) and _holds_weights(Path(place, n)))
    if left:
        raise CheckpointMismatch(
            f"{place} holds weights that are not read: {', '.join(left[:5])}; for a checkpoint of kind {kind!r} "
            f"{', '.join(sorted(files))} would be. Merge them into it, or move them elsewhere if they are no part of it"
        )


def _holds_weights(path: Path) -> bool:
    """By its name; a file that is here also by how it begins, whatever it is called."""
    if path.name.endswith(_SUFFIXES):
        return True
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return start.startswith(_BEGINNINGS) or (start[8:] == b"{" and 0 < length < path.stat().st_size)
