"""What a plain low-rank adapter adds to a model's weights, under the names that the model has today."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from interp.models._config import BrokenConfig, read_object
from interp.models._folder import ADAPTER, ADAPTER_CONFIG, OLD_ADAPTER, CheckpointMismatch
from interp.models._hf import listed
from interp.models._stored import tensors_in

UNDERSTOOD = {"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"}
"""Settings that `deltas` computes with."""
WHERE = {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
NO_NUMBER = {"task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}
NO_NUMBER |= {"lora_dropout", "megatron_core", "qalora_group_size", "runtime_config"}
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin that leave the base as it was; of the others (PiSSA, OLoRA, CorDA, ...) none does."""


def odd_settings(folder: Path) -> list[str]:
    """What in the adapter's configuration makes it more than base + B A; empty for a plain one. Whatever is not known
    to be plain is odd: a setting that this version of PEFT has not heard of too.

    Raises:
        CheckpointMismatch: a configuration that is none.
    """
    given = settings(folder)
    plain = LoraConfig().to_dict()
    known = UNDERSTOOD | WHERE | NO_NUMBER | {"init_lora_weights", "peft_type"}
    odd = {k: v for k, v in given.items() if k not in known and v != plain.get(k) and v not in (None, False, [], {})}
    if given.get("init_lora_weights") not in (None, *PLAIN_STARTS):
        odd["init_lora_weights"] = given["init_lora_weights"]
    if given.get("peft_type") != "LORA":
        odd["peft_type"] = given.get("peft_type")
    return [f"{k}={v!r}" for k, v in odd.items()]


def settings(folder: Path) -> dict[str, Any]:
    """The adapter's configuration as it stands in the file.

    Raises:
        CheckpointMismatch: it is none.
    """
    path = folder / ADAPTER_CONFIG
    try:
        return read_object(path)
    except BrokenConfig as error:
        raise CheckpointMismatch(str(error)) from error


def deltas(model: nn.Module, folder: Path) -> dict[str, Callable[[], Tensor]]:
    """What the adapter adds to each weight: a function per name that computes it in full precision on the CPU.

    alpha / r B A, or alpha / sqrt(r) B A if rank-stabilised (Hu et al. 2021, arXiv 2106.09685).

    Raises:
        CheckpointMismatch: an adapter that is not plain, or one that does not fit the model.
    """
    path = adapter_in(folder)
    if odd := odd_settings(folder):
        raise CheckpointMismatch(
            f"{folder / ADAPTER_CONFIG} has {' '.join(odd)}; a series takes plain LoRA. Merge this adapter with PEFT "
            "and save the whole model"
        )
    try:
        config = LoraConfig(**{k: v for k, v in settings(folder).items() if k in UNDERSTOOD | WHERE and v is not None})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointMismatch(f"{folder / ADAPTER_CONFIG} cannot be used ({error}); save it again") from error
    if not config.target_modules:
        raise CheckpointMismatch(f"{folder / ADAPTER_CONFIG} names no target_modules; save the adapter again")
    shapes = shapes_of(path)
    stored = layers_of(shapes)
    prefix, home, names = home_of(model, stored, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        linear = {n for n, m in home.named_modules() if isinstance(m, nn.Linear)}
        named = {n for n in linear if check_target_module_exists(config, n)} - set(names.values())
    expected = {f"base_model.model.{n}.lora_{part}.weight" for n in named | stored for part in "AB"}
    if shapes.keys() != expected:
        missing, unknown = sorted(expected - shapes.keys()), sorted(shapes.keys() - expected)
        raise CheckpointMismatch(
            f"{path} does not fit the model: missing keys: {listed(missing)}; unexpected keys: {listed(unknown)}"
        )
    found = {}
    for layer, name in sorted(names.items()):
        module = home.get_submodule(name)
        if not isinstance(module, nn.Linear) or not module.weight.is_floating_point():
            raise CheckpointMismatch(f"{path} changes {name}, a {type(module).__name__}; expected a plain linear layer")
        found[f"{prefix}{name}.weight"] = _delta(path, layer, config, shapes, tuple(module.weight.shape))
    return found


def adapter_in(folder: Path) -> Path:
    """The file with the adapter's weights."""
    old = folder / OLD_ADAPTER
    return old if old.is_file() and not (folder / ADAPTER).is_file() else folder / ADAPTER


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the file's tensors by their names, from its header.

    Raises:
        CheckpointMismatch: the file is damaged.
    """
    return {key: stored.shape for key, stored in tensors_in(path).items()}


def layers_of(keys: Iterable[str]) -> set[str]:
    """The layers that an adapter's keys name, as its file spells them."""
    return {key.rsplit(".lora_", 1)[0].removeprefix("base_model.model.") for key in keys if ".lora_" in key}


def home_of(model: nn.Module, layers: Set[str], path: Path) -> tuple[str, nn.Module, dict[str, str]]:
    """Which part the adapter was made on, the model itself or its language model: its prefix, the part, and for each
    layer that the file names the name it has there now.

    Raises:
        CheckpointMismatch: neither has all of the layers.
    """
    language = getattr(getattr(model, "model", None), "language_model", None)
    renamed = current(model, [f"{layer}.weight" for layer in layers])
    ways = [
        ("", model, {layer: layer for layer in layers}),
        ("", model, {key.removesuffix(".weight"): now.removesuffix(".weight") for key, now in renamed}),
        ("model.language_model.", language, {layer: layer for layer in layers}),
        ("model.language_model.", language, {layer: layer.removeprefix("model.") for layer in layers}),  # with its head
    ]
    for prefix, home, names in ways:
        if home is not None and names and set(names.values()) <= dict(home.named_modules()).keys():
            return prefix, home, names
    unknown = sorted(layers - dict((language if language is not None else model).named_modules()).keys())
    raise CheckpointMismatch(f"{path} changes layers that the language model does not have: {listed(unknown)}")


def current(model: nn.Module, names: Iterable[str]) -> list[tuple[str, str]]:
    """Each name beside that which transformers gives the weight today, as it does when it loads older checkpoints."""
    if not hasattr(model, "config"):
        return [(name, name) for name in names]
    rules = [r for r in get_model_conversion_mapping(model) if isinstance(r, WeightRenaming)]  # type: ignore[arg-type]
    own, prefix = model.state_dict(), getattr(model, "base_model_prefix", None)
    return [(name, name if name in own else rename_source_key(name, rules, [], prefix, own)[0]) for name in names]


def _delta(
    path: Path, layer: str, config: Any, shapes: Mapping[str, tuple[int, ...]], shape: tuple[int, ...]
) -> Callable[[], Tensor]:
    """Patterns of ranks and alphas name layers as the file does: so they were called in training."""
    key = f"base_model.model.{layer}.lora_"
    a, b = shapes[f"{key}A.weight"], shapes[f"{key}B.weight"]
    rank, alpha = (
        pattern.get(get_pattern_key(pattern.keys(), layer), usual)
        for pattern, usual in ((config.rank_pattern, config.r), (config.alpha_pattern, config.lora_alpha))
    )
    if a != (rank, shape[1]) or b != (shape[0], rank):
        raise CheckpointMismatch(f"{path} has {b} x {a} for {layer}; expected rank {rank} and product {shape}")

    def compute() -> Tensor:
        stored = tensors_in(path)
        first, second = (stored[f"{key}{part}.weight"].read().to(torch.float32) for part in "AB")
        return (second @ first) * (alpha / math.sqrt(rank) if config.use_rslora else alpha / rank)

    return compute
