"""Being there when a Hugging Face model's attention modules call their kernels.

Every attention module of transformers asks ``AttentionInterface.get_interface`` for its kernel at each forward pass.
While something watches, that lookup gives the very same kernel followed by one look at its arguments (and, for an
intervention, at its output); the model's configuration, its masks and its kernel stay as they are.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, PreTrainedModel

from interp.attention import passes
from interp.attention.guards import drop_hook
from interp.attention.rows import kernel_rows
from interp.work.halves import NotForThisModel

Hidden = Callable[[Int[Tensor, "#batch row"]], Bool[Tensor, "#batch #head #row key"]] | None
"""Rows of one call -> which of their edges are knocked out. None: no edge is."""


# What a kernel is handed but does not use; every other kernel uses all of it.
_UNUSED = {"sdpa": {"sliding_window", "s_aux"}, "eager": {"sliding_window"}}


class NoAttentionInterface(NotForThisModel):
    """The model's attention cannot be seen: it does not use transformers' attention interface.

    What to do: take transformers' own class of the model in place of remote code, or record one of its parts; of a
    paged cache, generate without continuous batching.
    """


@dataclass(frozen=True)
class Call:
    """One call of an attention kernel. ``start`` and ``first_key`` are the absolute positions of its first query and
    key, on the key axis: padding and what a cache holds are counted."""

    query: Float[Tensor, "batch head query dim"]
    key: Float[Tensor, "batch group key dim"]
    value: Float[Tensor, "batch group key value_dim"]
    mask: Tensor | BlockMask | None
    options: dict[str, Any]
    causal: bool
    start: int
    first_key: int

    def rows(
        self,
        rows: Int[Tensor, "#batch row"],
        key: Float[Tensor, "batch group key dim"] | None = None,
        hidden: Hidden = None,
    ) -> Float[Tensor, "batch head row key"]:
        """Exact attention 0..1, fp32, of rows of this call, without the hidden edges; ``key`` if it was cast before."""
        keys = self.key if key is None else key
        offsets = (self.start, self.first_key)
        without = None if hidden is None else hidden(rows)
        return kernel_rows(rows, self.query, keys, self.mask, offsets, self.causal, self.options, without)


class Watcher:
    """What is told of every call of the modules that it watches. Each of the three does nothing here."""

    phase = 0
    """Those of a lower phase change the output first; among equals, the outer one."""

    def hidden(self, module: nn.Module, call: Call) -> Hidden:
        """Edges that are to get no attention, for all watchers and for the output."""
        return None

    def change(self, module: nn.Module, call: Call, hidden: Hidden, output: Any) -> Any:
        """What the kernel gave (output [batch query head dim], attention or None), changed or as it is."""
        return output

    def see(self, module: nn.Module, call: Call, hidden: Hidden, output: Tensor) -> None:
        """A look at what was computed."""


@contextlib.contextmanager
def watching(watcher: Watcher, modules: Sequence[nn.Module]) -> Iterator[None]:
    """The watcher is told of every call inside; afterwards everything is as it was, whatever was raised."""
    with contextlib.ExitStack() as undo:
        undo.callback(_unwatch, watcher, modules)
        _watch(watcher, modules)
        yield


@functools.cache
def _uses_interface(kind: type[nn.Module]) -> bool:
    """Whether a class looks its attention kernel up in the interface."""
    if issubclass(kind, PreTrainedModel):
        return False
    methods = (
        inspect.unwrap(x) for base in kind.__mro__ if base is not nn.Module for x in vars(base).values() if callable(x)
    )
    return any("get_interface" in getattr(getattr(x, "__code__", None), "co_names", ()) for x in methods)


def attention_modules(model: nn.Module, layers: Sequence[int] | None = None) -> dict[int, nn.Module]:
    """Layer number -> self-attention module of the text decoder inside ``model``, in layer order.

    Raises:
        NoAttentionInterface: no attention module of the model uses the interface.
        ValueError: a layer that does not exist, or several stacks of layers.
    """
    find = getattr(model, "get_decoder", None)
    decoder: Any = find() if callable(find) else model
    found = [
        module
        for name, module in decoder.named_modules()
        if _uses_interface(type(module)) and not re.search(r"(?i)cross|encoder_att|encdec", name)
    ]
    if not found:
        raise NoAttentionInterface(
            f"{type(model).__name__} has no module that uses transformers' attention interface "
            "(AttentionInterface.get_interface), so its attention cannot be recorded; load it through transformers "
            "without replaced attention code, or pass the sub-module that holds the layers"
        )
    named = all(isinstance(getattr(module, "layer_idx", None), int) for module in found)
    numbers = [int(getattr(module, "layer_idx")) if named else i for i, module in enumerate(found)]  # noqa: B009
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{type(model).__name__} has several stacks of layers; pass the one to record as `model`")
    modules = dict(sorted(zip(numbers, found, strict=True)))
    if layers is None:
        return modules
    wrong = [x for x in layers if x not in modules]
    if wrong or not len(layers) or len(set(layers)) < len(layers):
        raise ValueError(f"layers {list(layers)}; expected different ones out of {list(modules)}")
    return {x: modules[x] for x in layers}


_lock = threading.RLock()
_patched = False


_watched: dict[nn.Module, list[Watcher]] = {}


_hooks: dict[nn.Module, Any] = {}


_lookup = AttentionInterface.get_interface  # the one in use when the first watcher came


def _watching_lookup(self: AttentionInterface, attn_implementation: str, default: Callable[..., Any]) -> Any:
    """``AttentionInterface.get_interface`` while something watches."""
    kernel = _lookup(self, attn_implementation, default)
    name = "eager" if kernel is default else attn_implementation

    @functools.wraps(kernel)
    def watched(module: nn.Module, *args: Any, **options: Any) -> Any:
        output = kernel(module, *args, **options)
        watchers = tuple(_watched.get(module, ()))
        if not watchers:
            return output
        call = _call(module, name, args, options)
        hidden = _joined([h for h in (w.hidden(module, call) for w in watchers) if h is not None])
        for watcher in sorted(watchers, key=lambda w: w.phase):
            output = watcher.change(module, call, hidden, output)
        for watcher in watchers:
            watcher.see(module, call, hidden, output[0])
        return output

    return watched


def _joined(several: Sequence[Callable[[Tensor], Tensor]]) -> Hidden:
    """The edges that any of them hides."""
    if not several:
        return None
    return lambda rows: functools.reduce(torch.logical_or, [hidden(rows) for hidden in several])


def _note_start(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Notes where a forward pass of ``module`` begins, before the layer adds its keys to the cache."""
    if module not in _watched:
        return drop_hook(module, _note_start)
    passes.note(module, args, kwargs)


def _call(module: nn.Module, kernel: str, args: tuple[Any, ...], options: dict[str, Any]) -> Call:
    names = ("query", "key", "value", "attention_mask")
    query, key, value, mask = (*args, *(options[name] for name in names[len(args) :]))[:4]
    if options.get("cache") is not None:
        raise NoAttentionInterface("attention over a paged cache (continuous batching) cannot be recorded")
    n_queries, n_keys = query.shape[2], key.shape[2]
    start = passes.start_of(module, n_queries, n_keys)
    used = {name: x for name, x in options.items() if name not in _UNUSED.get(kernel, ())}
    causal = used.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    # Eager kernels are causal by their mask alone. A cache holds every key from position 0 (and perhaps room for
    # more), or a window of them that ends here.
    first_key = max(start + n_queries - n_keys, 0)
    return Call(query, key, value, mask, used, bool(causal) and kernel != "eager", start, first_key)


def _watch(watcher: Watcher, modules: Sequence[nn.Module]) -> None:
    global _lookup, _patched
    with _lock:
        if not _patched:
            _lookup, AttentionInterface.get_interface = AttentionInterface.get_interface, _watching_lookup
            _patched = True
        for module in modules:
            if module not in _watched:
                _hooks[module] = module.register_forward_pre_hook(_note_start, with_kwargs=True)
            _watched.setdefault(module, []).append(watcher)


def _unwatch(watcher: Watcher, modules: Sequence[nn.Module]) -> None:
    global _patched
    with _lock:
        for module in modules:
            if watcher not in _watched.get(module, ()):
                continue
            _watched[module].remove(watcher)
            if not _watched[module]:
                del _watched[module]
                _hooks.pop(module).remove()
                passes.forget(module)
        # If someone else has wrapped the lookup meanwhile, ours stays under theirs; it does nothing without watchers.
        if not _watched and AttentionInterface.get_interface is _watching_lookup:
            AttentionInterface.get_interface, _patched = _lookup, False
