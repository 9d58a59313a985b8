"""Where a ranking keeps its finished batches, and under which keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from interp.types import Sample, Skip


@runtime_checkable
class Store(Protocol):
    """Where finished batches are kept: a run folder, or anything with these two."""

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays under the key, or None."""

    def put(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Keeps the arrays under the key."""


class Memory:
    """A store that ends with the process."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, np.ndarray]] = {}

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays under the key, or None."""
        return self.entries.get(key)

    def put(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Keeps the arrays under the key."""
        self.entries[key] = arrays


def fingerprint(model: Any) -> str:
    """A hash of the type and up to 64 values of every parameter: another checkpoint of the same name, or the same in
    another precision, must not be taken for this."""
    if not isinstance(model, torch.nn.Module):
        return ""
    parts: dict[torch.device, list[torch.Tensor]] = {}
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(str(parameter.dtype).encode())
        flat = parameter.detach().reshape(-1)
        if flat.numel() and not flat.is_meta:
            parts.setdefault(flat.device, []).append(flat[:: -(-flat.numel() // 64)].double())
    for some in parts.values():
        digest.update(torch.cat(some).cpu().numpy().tobytes())
    return digest.hexdigest()


def setup(lmm: Any) -> str:
    """A hash of what a model's scores depend on beside its weights: configuration, attention kernels, processor.

    A DiffLMM with another timestep, or with other means and deviations in its image processor, is another model.
    """
    config, processor = getattr(getattr(lmm, "model", None), "config", None), getattr(lmm, "processor", None)
    about = [
        _plain(config, "_name_or_path", "transformers_version"),
        _kernels(config),
        _plain(processor),
        getattr(processor, "chat_template", None),
    ]
    text = json.dumps(about, sort_keys=True, default=lambda other: type(other).__name__)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(part: Any, *without: str) -> dict[str, Any]:
    found = part.to_dict() if hasattr(part, "to_dict") else {}
    return {str(name): value for name, value in found.items() if name not in without}


def _kernels(config: Any) -> list[Any]:
    """Of the whole model and of each part that has a configuration of its own."""
    parts = [config, *(getattr(config, name, None) for name in sorted(getattr(config, "sub_configs", {})))]
    return [getattr(part, "_attn_implementation", None) for part in parts]


def key_of(settings: Mapping[str, Any], group: Sequence[Sample | Skip]) -> str:
    """The batch's key in the store: changes with whatever can change its scores."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for s in group:
        if isinstance(s, Skip):
            digest.update(repr(s).encode())
            continue
        digest.update(repr((s.id, s.prompt, s.answer, s.image.shape)).encode())
        digest.update(np.ascontiguousarray(s.image).tobytes())
        for target in s.targets:
            digest.update(repr((target.phrase, target.mask.shape)).encode() + np.packbits(target.mask).tobytes())
    return f"scores-{digest.hexdigest()[:40]}"
