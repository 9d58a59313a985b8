"""A series of training checkpoints that hold only what changed: find them, lay one over the base model.

A folder has ``base/`` (a whole Hugging Face checkpoint with its processor) and ``checkpoint-N/`` folders with
``projector.safetensors`` and, where the language model was trained too, a PEFT adapter on it
(``adapter_config.json``, ``adapter_model.safetensors``).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file

BASE, PROJECTOR, ADAPTER = "base", "projector.safetensors", "adapter_model.safetensors"


class CheckpointMismatch(ValueError):
    """A checkpoint's weights are not those of the model that it is laid over.

    What to do: give the base that it was trained from; the message lists the keys that are missing or differ.
    """


@dataclass(frozen=True)
class Checkpoint:
    """One point in training: its step, its folder, and whether it holds the projector alone or an adapter as well."""

    step: int
    path: Path
    kind: Literal["projector", "adapter"]


def find(folder: str | Path) -> list[Checkpoint]:
    """The checkpoints of a folder by rising step.

    Raises:
        FileNotFoundError: no such folder, or a checkpoint without a projector.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; expected one with {BASE}/ and checkpoint-N/ folders")
    found = []
    for path in folder.iterdir():
        if not (path.is_dir() and (match := re.fullmatch(r"checkpoint-(\d+)", path.name))):
            continue
        if not (path / PROJECTOR).is_file():
            raise FileNotFoundError(f"{path} holds no {PROJECTOR}; fetch the checkpoint again, or delete its folder")
        found.append(Checkpoint(int(match[1]), path, "adapter" if (path / ADAPTER).is_file() else "projector"))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def overlay(model: torch.nn.Module, checkpoint: Checkpoint) -> torch.nn.Module:
    """The model with the checkpoint's weights in place: projector copied, adapter merged into the linear layers.

    The model must hold the weights of the base: an adapter is added to what is there.

    Raises:
        CheckpointMismatch: with the keys that are missing, unexpected or of another shape. The model is then as it was.
    """
    projector = load_file(checkpoint.path / PROJECTOR)
    check_projector(model, projector, checkpoint.path / PROJECTOR)
    if checkpoint.kind == "adapter":
        _merge(model, checkpoint.path)
    model.load_state_dict(projector, strict=False)
    return model


def check_projector(model: torch.nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Nothing, if the weights are those of the model's whole projector.

    Raises:
        CheckpointMismatch: with the keys that are missing, unexpected or of another shape.
    """
    own = model.state_dict()
    # All that lies beside a weight in the projector must come with it: half a projector is a broken one.
    whole = {m[1] for key in weights if (m := re.match(r"(.*projector[^.]*\.)", key))}
    _compare(path, {key for key in own if key.startswith(tuple(whole))} | (weights.keys() & own.keys()), weights.keys())
    if shapes := [f"{k} {tuple(v.shape)}" for k, v in weights.items() if v.shape != own[k].shape]:
        raise CheckpointMismatch(f"{path} has other shapes than the model: {', '.join(shapes)}")


def _merge(model: torch.nn.Module, path: Path) -> None:
    """Adds the adapter's low-rank changes to the linear layers that it names, in the model or its language model."""
    with safe_open(path / ADAPTER, "pt") as file:
        keys = set(file.keys())
    layers = {key.split(".lora_")[0].removeprefix("base_model.model.") for key in keys if ".lora_" in key}
    homes = [model, getattr(getattr(model, "model", None), "language_model", None)]
    home = home_of(model, layers, path / ADAPTER)[1]
    config = {h: getattr(h, "peft_config", None) for h in homes if h is not None}
    training = home.training
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "Found missing adapter keys")  # an error below, with their names
        adapted = PeftModel.from_pretrained(home, str(path), is_trainable=False)
    expected = set(get_peft_model_state_dict(adapted))
    merged = expected == keys
    adapted.merge_and_unload() if merged else adapted.unload()
    home.train(training)
    for part, before in config.items():  # PEFT leaves its mark on the model it wrapped
        if before is None and hasattr(part, "peft_config"):
            del part.peft_config
    _compare(path / ADAPTER, expected, keys)


def home_of(model: torch.nn.Module, layers: Set[str], path: Path) -> tuple[str, torch.nn.Module]:
    """Which part the adapter's layers are named from, and its prefix: the model itself or its language model.

    Raises:
        CheckpointMismatch: neither has all of the layers.
    """
    language = getattr(getattr(model, "model", None), "language_model", None)
    for prefix, home in (("", model), ("model.language_model.", language)):
        if home is not None and layers and layers <= dict(home.named_modules()).keys():
            return prefix, home
    unknown = sorted(layers - dict((language if language is not None else model).named_modules()).keys())
    raise CheckpointMismatch(f"{path} changes layers that the language model does not have: {unknown}")


def _compare(path: Path, expected: Set[str], found: Set[str]) -> None:
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    if missing or unexpected or not found:
        parts = [f"missing keys: {', '.join(missing)}"] * bool(missing)
        parts += [f"unexpected keys: {', '.join(unexpected)}"] * bool(unexpected)
        raise CheckpointMismatch(f"{path} does not fit the model: {'; '.join(parts) or 'it is empty'}")
