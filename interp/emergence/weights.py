"""A whole checkpoint's weights, read tensor by tensor from its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from interp.emergence.points import Header, files_of, header_of
from interp.models._folder import CheckpointMismatch
from interp.models._hf import listed
from interp.models._original.layout import config_of
from interp.models._original.parts import Parts, parts_of
from interp.models._original.weights import EMBED, Weights
from interp.models._shared import shared


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


def whole_original(model: nn.Module, parts: Parts) -> Weights:
    """All weights of the model in the files of an original LLaVA.

    Raises:
        interp.models._original.layout.OriginalLayout: they are not those of the model.
    """
    weights = Weights(parts)
    own = model.state_dict()
    if EMBED in own:
        weights.rows = max(weights.own_rows, len(own[EMBED]))
    weights.check(model.config)  # type: ignore[arg-type]
    return weights


def whole(model: nn.Module, folder: Path) -> Files | Weights:
    """All weights of the model in a folder, under the names that transformers gives them when it loads.

    Raises:
        CheckpointMismatch: weights are missing, have another shape, or are stored in another form than the model's.
    """
    if config_of(folder) is not None:
        return whole_original(model, parts_of(folder))
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
