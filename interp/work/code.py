"""What a function computes, as text that is the same in every process: keys of stored work must cover it."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np


def code_of(function: Callable[..., Any]) -> str:
    """The function's source and the values that it closes over, decorators taken off.

    Raises:
        OSError, TypeError: its source cannot be read.
        ValueError: it closes over something of which two cannot be told apart.
    """
    plain: Any = inspect.unwrap(function)
    closed = inspect.getclosurevars(plain).nonlocals if inspect.isfunction(plain) else {}
    return repr((inspect.getsource(plain), sorted((name, _told(value)) for name, value in closed.items())))


def _told(value: Any) -> str:
    """The value as text, all of it, and without a place in memory."""
    if inspect.isfunction(value):
        return code_of(value)
    if isinstance(value, ModuleType):
        return value.__name__
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    if isinstance(value, Mapping):
        return repr(sorted((_told(key), _told(own)) for key, own in value.items()))
    if isinstance(value, list | tuple):
        return repr([_told(own) for own in value])
    told = repr(value)
    if " at 0x" in told:
        raise ValueError(f"it closes over {told:.100}, of which two cannot be told apart; give it numbers or texts")
    return told
