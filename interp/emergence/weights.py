"""A checkpoint's weights, read tensor by tensor from its files; an adapter's as what it adds to the base's."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from interp.emergence.points import ADAPTER_CONFIG, Header, files_of, header_of
from interp.models._hf import listed
from interp.models._overlay import ADAPTER, CheckpointMismatch, home_of
from interp.models._shared import shared

PLAIN = {"use_dora": False, "lora_bias": False, "bias": "none", "fan_in_fan_out": False, "modules_to_save": None}
"""The settings of an adapter that is base + B A and nothing more."""


class Files:
    """Weights in the safetensors of a folder, by the model's names."""

    def __init__(self, names: Mapping[str, tuple[str, Header]], folder: Path):
        self.names, self.folder = names, folder

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One weight, on the CPU, in the precision asked for."""
        if name not in self.names:
            raise CheckpointMismatch(f"{self.folder} does not hold {name}, which a checkpoint of the series changes")
        key, header = self.names[name]
        with safe_open(self.folder / header.file, "pt") as file:
            return file.get_tensor(key).to(dtype)


def whole(model: nn.Module, folder: Path) -> Files:
    """All weights of the model in a folder, under the names that transformers gives them when it loads.

    Raises:
        CheckpointMismatch: weights are missing, have another shape, or are stored in another form than the model's.
    """
    kind, files = files_of(str(folder), None)
    if kind != "full":
        raise CheckpointMismatch(f"{folder} holds a {kind} and no whole model; expected model.safetensors")
    headers = {k: h for file in files for k, h in header_of(str(folder), None, file).items()}
    rules = get_model_conversion_mapping(model)  # type: ignore[arg-type]
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters: list[Any] = [rule for rule in rules if not isinstance(rule, WeightRenaming)]
    own = model.state_dict()
    elsewhere = shared(folder)
    apart = {file: header_of(str(folder), None, str(file)) for file in {file for file, _ in elsewhere.values()}}
    names = {name: (key, apart[file][key]) for name, (file, key) in elsewhere.items()}
    for key, header in headers.items():
        name, converted = rename_source_key(key, renamings, converters, getattr(model, "base_model_prefix", None), own)
        if name in own and converted:
            raise CheckpointMismatch(
                f"{folder} stores {name} in parts ({key}); save it with this version of transformers"
            )
        if name in own:
            names[name] = (key, header)
    tied = {own[name].data_ptr() for name in names}
    if missing := [k for k, v in own.items() if k not in names and v.data_ptr() not in tied]:
        raise CheckpointMismatch(f"{folder} lacks {len(missing)} weights of the model: {listed(missing)}")
    if other := [f"{k} {h.shape}" for k, (_, h) in names.items() if h.shape != tuple(own[k].shape)]:
        raise CheckpointMismatch(f"{folder} has other shapes than the model: {listed(other)}")
    return Files(names, folder)


def deltas(model: nn.Module, folder: Path) -> dict[str, Callable[[], Tensor]]:
    """What the adapter adds to each weight: a function per name that computes it in full precision on the CPU.

    alpha / r B A, or alpha / sqrt(r) B A if rank-stabilised (Hu et al. 2021, arXiv 2106.09685).

    Raises:
        CheckpointMismatch: an adapter of another kind, or one that does not fit the model.
    """
    path = folder / ADAPTER
    config: Any = PeftConfig.from_pretrained(str(folder))
    odd = [f"{k}={getattr(config, k)!r}" for k, plain in PLAIN.items() if getattr(config, k, plain) not in (plain, [])]
    keys = set(header_of(str(folder), None, ADAPTER))
    layers = {key.rsplit(".lora_", 1)[0].removeprefix("base_model.model.") for key in keys if ".lora_" in key}
    if config.peft_type != "LORA" or odd:
        raise CheckpointMismatch(
            f"{folder / ADAPTER_CONFIG} is {config.peft_type} {' '.join(odd)}; a series takes plain LoRA. "
            "Merge this adapter and save the whole model"
        )
    prefix, home = home_of(model, layers, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        named = {
            n for n, m in home.named_modules() if isinstance(m, nn.Linear) and check_target_module_exists(config, n)
        }
    expected = {f"base_model.model.{n}.lora_{part}.weight" for n in named | layers for part in "AB"}
    if keys != expected:
        missing, unknown = sorted(expected - keys), sorted(keys - expected)
        raise CheckpointMismatch(
            f"{path} does not fit the model: missing keys: {listed(missing)}; unexpected keys: {listed(unknown)}"
        )
    return {f"{prefix}{n}.weight": _delta(path, f"base_model.model.{n}", config, n, home) for n in sorted(layers)}


def _delta(path: Path, key: str, config: Any, layer: str, home: nn.Module) -> Callable[[], Tensor]:
    def compute() -> Tensor:
        with safe_open(path, "pt") as file:
            a, b = (file.get_tensor(f"{key}.lora_{part}.weight").float() for part in "AB")
        rank, alpha = (
            pattern.get(get_pattern_key(pattern.keys(), layer), usual)
            for pattern, usual in ((config.rank_pattern, config.r), (config.alpha_pattern, config.lora_alpha))
        )
        shape = tuple(home.get_submodule(layer).weight.shape)  # type: ignore[union-attr]
        if (b.shape[0], a.shape[1]) != shape or a.shape[0] != rank or b.shape[1] != rank:
            raise CheckpointMismatch(
                f"{path} has {tuple(b.shape)} x {tuple(a.shape)} for {layer}; expected rank {rank} and product {shape}"
            )
        return (b @ a) * (alpha / math.sqrt(rank) if config.use_rslora else alpha / rank)

    return compute
