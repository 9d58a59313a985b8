"""Where a module's forward pass, and each call of its kernel, begins on the key axis."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import Cache

from interp.work.halves import NotForThisModel

_OTHER_SEQUENCE = ("cross_attention_states", "encoder_hidden_states", "key_value_states")
"""What modules call another sequence's states, or the keys made of them."""


class _Pass(NamedTuple):
    """A forward pass of one module: where it begins, its cache, how many rows it has and how many are done."""

    start: int = 0
    cache: Cache | None = None
    rows: int = 0
    done: int = 0


_passes: dict[nn.Module, _Pass] = {}


def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Notes a pass that begins with these arguments, before the layer adds its keys to the cache.

    Raises:
        NotForThisModel: cross-attention.
    """
    if any(kwargs.get(name) is not None for name in _OTHER_SEQUENCE):
        raise NotForThisModel(
            f"{type(module).__name__} attends from one sequence to another (cross-attention); its rows and keys have "
            "no positions in common: record self-attention, or take a model that has the image in its sequence"
        )
    cache = next((x for x in (*args, *kwargs.values()) if isinstance(x, Cache)), None)
    start = 0 if cache is None else int(cache.get_seq_length(getattr(module, "layer_idx", 0)))
    hidden = args[0] if args else kwargs.get("hidden_states")
    rows = hidden.shape[-2] if isinstance(hidden, Tensor) and hidden.ndim > 1 else 0
    _passes[module] = _Pass(start, cache, rows)


def start_of(module: nn.Module, n_queries: int, n_keys: int) -> int:
    """Absolute position of a call's first query."""
    start, cache, rows, done = _passes.pop(module, _Pass())
    if cache is None and n_queries == n_keys < rows:
        # Several texts or windows in one row (vision towers with cu_seqlens): a call for each, one after the other.
        _passes[module] = _Pass(rows=rows, done=done + n_queries)
        return done
    if cache is None:
        return max(n_keys - n_queries, 0)
    if start == 0:
        # A layer that borrows another's keys has none in the cache; the first layer's hold this pass by now.
        return max(int(cache.get_seq_length()) - n_queries, 0)
    return start


def forget(module: nn.Module) -> None:
    """Nothing is kept of the module."""
    _passes.pop(module, None)
