"""A series of training checkpoints that hold only what changed: find them, lay one over the base model.

A folder has ``base/`` (a whole Hugging Face checkpoint with its processor) and ``checkpoint-N/`` folders with
``projector.safetensors`` or what LLaVA's training writes in its place, and, where the language model was trained too, a
PEFT adapter (``adapter_config.json``, ``adapter_model.safetensors``); or with a whole model.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file

from interp.models._adapter import adapter_in, current, deltas, home_of, layers_of, odd_settings, shapes_of
from interp.models._folder import (
    ADAPTER,
    ADAPTER_CONFIG,
    BASE,
    INDEX,
    PROJECTOR,
    TRAINED,
    WHOLE,
    CheckpointMismatch,
    Kind,
    check_all_read,
    contents,
    files_in,
)
from interp.models._original.names import own_name
from interp.models._original.weights import PROJECTOR as PLACE
from interp.models._original.weights import second_layer
from interp.models._stored import damaged

REPEATED = ("pissa", "olora")
"""Beginnings that change the base, and that PEFT repeats exactly when it loads the adapter."""


@dataclass(frozen=True)
class Checkpoint:
    """One point in training: its step, its folder, and whether it holds the projector alone, an adapter, or all."""

    step: int
    path: Path
    kind: Kind


def find(folder: str | Path) -> list[Checkpoint]:
    """The checkpoints of a folder by rising step.

    Raises:
        FileNotFoundError: no such folder, or a checkpoint without weights.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; expected one with {BASE}/ and checkpoint-N/ folders")
    return sorted(map(checkpoint, paths(folder)), key=lambda checkpoint: checkpoint.step)


def checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder checkpoint-N; all else as for `find`."""
    names = files_in(path)
    kind: Kind = "full" if _older(names) else contents(str(path), names)[0]
    return Checkpoint(_step(path), path, kind)


def check(checkpoint: Checkpoint) -> None:
    """Nothing, if all weights in its folder will be read.

    Raises:
        FileNotFoundError, CheckpointMismatch: as `interp.models._folder.check_all_read`.
    """
    names = files_in(checkpoint.path)
    if _older(names):
        return
    kind, files = contents(str(checkpoint.path), names)
    shards = {name for name in names if files == [INDEX] and re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)}
    check_all_read(str(checkpoint.path), names, kind, {*files, *shards})


def _older(names: Set[str]) -> bool:
    """Whether a whole model lies there as transformers saved it before safetensors, which it still loads."""
    whole = names & {WHOLE, INDEX, ADAPTER, ADAPTER_CONFIG}
    return not whole and "config.json" in names and any(re.match(r"pytorch_model(-.*)?\.bin", name) for name in names)


def paths(folder: Path) -> list[Path]:
    """The folders checkpoint-N of a folder by rising step."""
    found = [path for path in folder.iterdir() if path.is_dir() and re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def overlay(model: torch.nn.Module, checkpoint: Checkpoint) -> torch.nn.Module:
    """The model with the checkpoint's weights in place: projector copied, adapter merged into the linear layers.

    The model must hold the weights of the base: an adapter is added to what is there.

    Raises:
        FileNotFoundError: half an adapter.
        CheckpointMismatch: weights that are not read; or with the keys that are missing, unexpected or of another
            shape. The model is then as it was.
    """
    check(checkpoint)
    projector = read_projector(model, checkpoint.path)
    if checkpoint.kind == "adapter":
        _merge(model, checkpoint.path)
    model.load_state_dict(projector, strict=False)
    return model


def read_projector(model: torch.nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    """The weights that lie beside or in place of an adapter, under the model's own names; empty if there are none.

    Raises:
        CheckpointMismatch: as `check_projector`, or a file that is damaged.
    """
    path = next((folder / file for file in (PROJECTOR, *TRAINED) if (folder / file).is_file()), None)
    if path is None:
        return {}
    stored = {own_name(name): tensor for name, tensor in stored_in(path).items()}
    weights = {now: stored[name] for name, now in current(model, stored)}
    if getattr(getattr(model, "config", None), "projector_hidden_act", "") == "linear":  # LLaVA's own has one layer
        first = weights.get(f"{PLACE}linear_1.weight")
        weights = second_layer(0 if first is None else len(first)) | weights
    check_projector(model, weights, path)
    return weights


def stored_in(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, safetensors or torch.save's; of the latter nothing but plain tensors is read.

    Raises:
        CheckpointMismatch: the file is damaged, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(found, dict) and all(isinstance(x, torch.Tensor) for x in found.values()):
            return found
    except Exception as error:  # a damaged pickle may end in any of them
        raise damaged(path, error) from error
    raise CheckpointMismatch(f"{path} holds a {type(found).__name__}; expected tensors by their names")


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


@torch.no_grad()
def _merge(model: torch.nn.Module, path: Path) -> None:
    """Adds the adapter's changes to the layers that it names: a plain one's as a series does, else through PEFT."""
    odd = odd_settings(path)
    if odd or getattr(model, "is_quantized", False):
        _merge_by_peft(model, path, odd)
        return
    own = model.state_dict()
    for name, delta in deltas(model, path).items():
        own[name].copy_(own[name].detach().cpu().clone().add_(delta()))


def _merge_by_peft(model: torch.nn.Module, path: Path, odd: list[str]) -> None:
    """Whatever is more than a low-rank product, if PEFT can do again what was done before training.

    Raises:
        CheckpointMismatch: it cannot, or the adapter does not fit. The model is then as it was.
    """
    start = next((x for x in odd if x.startswith("init_lora_weights=")), None)
    if start and start not in [f"init_lora_weights={known!r}" for known in REPEATED]:
        raise CheckpointMismatch(
            f"{path / ADAPTER_CONFIG} has {start}: training began on a changed base, which these files do not "
            "give back. Merge the adapter where it was trained, and save the whole model"
        )
    keys = set(shapes_of(adapter_in(path)))
    if not layers_of(keys):
        raise CheckpointMismatch(
            f"{path / ADAPTER_CONFIG} has {' '.join(odd)} and no LoRA in it; merge it with PEFT, and save the whole "
            "model"
        )
    homes = [model, getattr(getattr(model, "model", None), "language_model", None)]
    _, home, names = home_of(model, layers_of(keys), path / ADAPTER)
    if any(stored != now for stored, now in names.items()):
        raise CheckpointMismatch(
            f"{path / ADAPTER} names its layers as an older transformers did and has {' '.join(odd)}; merge it there, "
            "and save the whole model"
        )
    config = {h: getattr(h, "peft_config", None) for h in homes if h is not None}
    touched = {key: v.clone() for key, v in home.state_dict().items() if key.endswith("bias") or key[:-7] in names}
    training = home.training
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "Found missing adapter keys")  # an error below, with their names
        try:
            adapted = PeftModel.from_pretrained(home, str(path), is_trainable=False)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointMismatch(f"{path / ADAPTER_CONFIG} cannot be used ({error!r}); save it again") from error
    expected = set(get_peft_model_state_dict(adapted))
    if expected == keys:
        adapted.merge_and_unload()
    else:
        adapted.unload()
        home.load_state_dict(touched, strict=False)
    home.train(training)
    for part, own in config.items():  # PEFT leaves its mark on the model it wrapped
        if own is None and hasattr(part, "peft_config"):
            del part.peft_config
    _compare(path / ADAPTER, expected, keys)


def _compare(path: Path, expected: Set[str], found: Set[str]) -> None:
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    if missing or unexpected or not found:
        parts = [f"missing keys: {', '.join(missing)}"] * bool(missing)
        parts += [f"unexpected keys: {', '.join(unexpected)}"] * bool(unexpected)
        raise CheckpointMismatch(f"{path} does not fit the model: {'; '.join(parts) or 'it is empty'}")
