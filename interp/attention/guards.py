"""What a copy of a watched model takes along, and what a backward pass runs again outside of an intervention."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def drop_hook(module: nn.Module, hook: Callable[..., Any]) -> None:
    """Takes a hook off a module that is a copy, made while its original was watched: copies take hooks along."""
    for number in [n for n, own in module._forward_pre_hooks.items() if own is hook]:
        module._forward_pre_hooks.pop(number)
        module._forward_pre_hooks_with_kwargs.pop(number, None)


def warn_if_recomputed(model: nn.Module) -> None:
    """Says that with gradient checkpointing the layers run again in ``backward``, which must be inside the ``with``."""
    modules: Any = model.modules()
    if torch.is_grad_enabled() and any(getattr(m, "gradient_checkpointing", False) and m.training for m in modules):
        warnings.warn(
            f"{type(model).__name__} has gradient checkpointing on: its layers are computed once more in backward(), "
            "without the intervention unless backward() is called inside the `with`. Call it there, or "
            "switch checkpointing off",
            stacklevel=4,
        )
