"""What a model's numbers depend on: hashes of its weights, configuration, kernels and processor."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch


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


def hash_weights(model: Any) -> str:
    """SHA-256 over the state dict: name, type, shape and bytes of every tensor, one at a time; ``offloaded`` if some
    weights are not in memory (then they cannot be read without loading them layer by layer)."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        if tensor.is_meta:
            return "offloaded"
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        for piece in flat.split(1 << 26):
            digest.update(piece.cpu().numpy().tobytes())
    return digest.hexdigest()
