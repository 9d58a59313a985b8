"""What no checkpoint of a series changes is computed once: the inputs, the vision tower's features of every batch of
images, and the noised latents of DiffLMM. Its U-Net runs each time: the implicit captioner, which it looks at, is
trained."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from interp.models._identity import hash_weights

BUDGET = 4 << 30
"""Bytes of features kept, on the CPU. Batches beyond it are computed each time."""


class VisionCache:
    """Features of the vision tower by the bytes of the pixel values that it was given; with DiffLMM also its latents.

    Whole batches are kept, so that what comes out is bit for bit what would have been computed again. They belong
    to the weights (vision tower, autoencoder) whose SHA-256 is ``weights``. ``hits`` and ``misses`` count batches, and
    batches of latents beside them.
    """

    def __init__(self, tower: torch.nn.Module, layers: list[int], budget: int = BUDGET, diffusion: Any = None):
        self.tower, self.layers, self.budget, self.diffusion = tower, layers, budget, diffusion
        self.weights = self._hash()
        self.hits = self.misses = self.bytes = 0
        self._kept: dict[str, dict[int, Tensor]] = {}

    def refresh(self) -> bool:
        """Whether the features still hold, to be called when weights were changed; if not, they are forgotten."""
        now = self._hash()
        if now == self.weights:
            return True
        self.weights, self.bytes, self._kept = now, 0, {}
        return False

    def _hash(self) -> str:
        tower = hash_weights(self.tower)
        return tower if self.diffusion is None else f"{tower} {hash_weights(self.diffusion.vae)}"

    def features(self, compute: Any, pixel_values: Tensor, **options: Any) -> Any:
        """The tower's output with the hidden states that the projector reads, computed or remembered."""
        asked = options.get("output_hidden_states")
        usual = asked is True or [asked] == self.layers or asked == self.layers
        if not usual or torch.is_grad_enabled():
            return compute(pixel_values, **options)
        key = _key(pixel_values)
        if key in self._kept:
            return BaseModelOutputWithPooling(hidden_states=self._again(key, pixel_values))  # type: ignore[arg-type]
        out = compute(pixel_values, **options)
        self._keep(key, {layer: out.hidden_states[layer] for layer in self.layers})
        return out

    def latents(self, compute: Any, pixel_values: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """DiffLMM's noised latents of these images with these seeds, computed or remembered."""
        if torch.is_grad_enabled():
            return compute(pixel_values, seeds)
        config = self.diffusion.config  # read at every call, so the user may have changed it
        key = _key(pixel_values, seeds, config.timestep, config.noise, config.seed, config.ensemble_size)
        if key in self._kept:
            return self._again(key, pixel_values)[0]
        out = compute(pixel_values, seeds)
        self._keep(key, {0: out})
        return out

    def _keep(self, key: str, tensors: dict[int, Tensor]) -> None:
        self.misses += 1
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if self.bytes + size <= self.budget:
            self.bytes += size
            self._kept[key] = {k: tensor.cpu().clone() for k, tensor in tensors.items()}

    def _again(self, key: str, beside: Tensor) -> dict[int, Tensor]:
        self.hits += 1
        return {k: tensor.to(beside.device) for k, tensor in self._kept[key].items()}


@contextlib.contextmanager
def vision_cache(model: torch.nn.Module, budget: int = BUDGET) -> Iterator[VisionCache | None]:
    """The cache, in use inside the ``with``; None for a model without a ``vision_tower`` of LLaVA's kind.

    Weights that change inside need a ``refresh()`` before the model is called again.
    """
    tower = getattr(getattr(model, "model", model), "vision_tower", None)
    layers = getattr(model.config, "vision_feature_layer", None)
    if tower is None or layers is None or "forward" in vars(tower):
        yield None
        return
    diffusion = getattr(getattr(model, "model", model), "diffusion", None)
    cache = VisionCache(tower, [layers] if isinstance(layers, int) else list(layers), budget, diffusion)
    with contextlib.ExitStack() as patches:
        patches.enter_context(_instead(tower, "forward", cache.features))
        if diffusion is not None:
            patches.enter_context(_instead(diffusion, "latents", cache.latents))
        yield cache


@contextlib.contextmanager
def inputs_cache(lmm: Any, budget: int = BUDGET // 2) -> Iterator[None]:
    """Inside, ``lmm.inputs`` of the same images and texts are prepared once; kept on the CPU, by the images' bytes."""
    kept: dict[str, dict[str, Tensor]] = {}
    room = budget

    def inputs(compute: Any, images: Sequence[np.ndarray], texts: Sequence[str]) -> dict[str, Tensor]:
        nonlocal room
        digest = hashlib.sha256(repr([*texts, *((x.dtype, x.shape) for x in images)]).encode())
        for image in images:
            digest.update(np.ascontiguousarray(image).data)
        key = digest.hexdigest()
        if key not in kept:
            made = compute(images, texts)
            size = sum(tensor.numel() * tensor.element_size() for tensor in made.values())
            if size > room:
                return made
            room -= size
            kept[key] = {name: tensor.cpu() for name, tensor in made.items()}
        return {name: tensor.to(lmm.device, copy=True) for name, tensor in kept[key].items()}

    with _instead(lmm, "inputs", inputs):
        yield


@contextlib.contextmanager
def _instead(owner: Any, name: str, stand_in: Any) -> Iterator[None]:
    """Inside, the owner's method is the stand-in, which is given the method as its first argument."""
    method = getattr(owner, name)

    def call(*given: Any, **options: Any) -> Any:
        return stand_in(method, *given, **options)

    object.__setattr__(owner, name, call)  # a frozen dataclass may own it
    try:
        yield
    finally:
        object.__delattr__(owner, name)


def _key(pixel_values: Tensor, *beside: Any) -> str:
    flat = pixel_values.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{flat.dtype} {tuple(flat.shape)} {beside}".encode())
    digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
