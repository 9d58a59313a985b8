"""What a model's numbers depend on: hashes of its weights, configuration, kernels and processor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

WORDS = 1 << 16
"""Words of 32 bits in a block of `mixed`."""


def fingerprint(model: Any) -> str:
    """A hash of every weight and buffer, name, type, shape and bytes: another checkpoint of the same name, the same in
    another precision or one with a single head pruned must not be taken for this. On a GPU the bytes are reduced where
    they lie (`mixed`), so that only 1/16,384 of them is moved; there it is another hash than on the CPU."""
    if not isinstance(model, torch.nn.Module):
        return ""
    digest = hashlib.sha256()
    for name, tensor in _tensors(model):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for piece in _bytes(tensor):
            digest.update((mixed(piece) if piece.is_cuda else piece).cpu().numpy().tobytes())
    return digest.hexdigest()


def mixed(data: UInt8[Tensor, " byte"]) -> Int64[Tensor, "two block"]:
    """Two sums of 64 bits for each 256 KiB, on the device where the bytes are: the 32-bit words times fixed odd random
    numbers, modulo 2^64. Two blocks that differ have the same sums with a probability of at most 2^-62 (multilinear
    hashing: Carter and Wegman 1979). ``torch.hash_tensor`` is an XOR, which does not see two values change places."""
    words = torch.nn.functional.pad(data, (0, -len(data) % (4 * WORDS))).view(torch.int32).view(-1, WORDS)
    generator = torch.Generator().manual_seed(0)  # on the CPU: the same numbers everywhere
    factors = torch.randint(-(1 << 62), 1 << 62, (2, WORDS), generator=generator) * 2 + 1
    return torch.stack([(words * factor).sum(1) for factor in factors.to(data.device)])


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of the whole model. Weights that are offloaded are fetched, a module at a time."""
    from accelerate.utils import align_module_device, has_offloaded_params

    there = dict(model.named_buffers()) | model.state_dict()
    yield from ((name, there[name]) for name in sorted(there) if isinstance(there[name], Tensor))
    for name, module in model.named_modules():
        if has_offloaded_params(module):
            with align_module_device(module, torch.device("cpu")):
                yield from module.named_parameters(prefix=name, recurse=False)


def _bytes(tensor: Tensor) -> Iterator[UInt8[Tensor, " byte"]]:
    """In pieces of up to 64 MiB; none of a tensor that is not in memory."""
    if not tensor.is_meta and tensor.numel():
        yield from tensor.detach().contiguous().reshape(-1).view(torch.uint8).split(1 << 26)


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
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        if tensor.is_meta:
            return "offloaded"
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for piece in _bytes(tensor):
            digest.update(piece.cpu().numpy().tobytes())
    return digest.hexdigest()
