"""Record chosen attention rows of a Hugging Face model while its own kernel computes the output.

Every attention module of transformers asks ``AttentionInterface.get_interface`` for its kernel at each forward pass.
While a recorder is active that lookup gives the very same kernel followed by one look at its arguments; the model's
configuration, its masks and its kernel (sdpa, flash, flex, eager, or one of your own) stay as they are.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from interp.recorder import NoAttentionInterface, NotRecorded, Recorder

__all__ = ["NoAttentionInterface", "NotRecorded", "Recorder", "record"]

# Sequence[int] | Int[Tensor, "row"] | Int[Tensor, "sample row"]; checked by hand, for an error that helps.
Positions = Any


@contextlib.contextmanager
def record(
    model: nn.Module,
    queries: Positions,
    keys: Positions = None,
    layers: Sequence[int] | None = None,
    mean: Positions = None,
    *,
    kind: Literal["cross", "self", "both"] | None = None,
    blocks: Sequence[str] | None = None,
) -> Iterator[Any]:
    """A ``Recorder`` whose ``attention`` holds the asked rows and columns after the forward passes made inside.

    Positions are absolute on the key axis: padding and what a KV cache already holds are counted. Give them once for
    all samples, or as an Int tensor [sample row] where -1 means absent (NaN there). Rows that one forward pass does
    not contain are left for later passes (chunked prefill, decoding).

    Only the text decoder's self-attention is recorded when ``model`` has one inside, never a vision tower; pass the
    sub-module to record something else. Recording is outside autograd; a forward pass with gradients stays as it is.
    One recorder follows one sequence (or batch) of one model: start another for the next.

    A model of diffusers, or any model with ``kind`` given, is recorded inside its U-Net: a ``UNetRecorder``
    (`interp.unet_recording`) has ``attention[name]`` [batch head query key] for every attention module. ``queries``
    are then flat spatial cells, cells per resolution {(rows, cols): cells}, `interp.patch_cells`, or None for all.

    Args:
        model: any model of transformers, or a part of one, whose attention modules use the attention interface.
        queries: rows to record, a sequence of ints or a tensor; or "last": the last row of every forward pass, in
            order (streaming generation).
        keys: columns to keep; None keeps all. The softmax is always over all keys.
        layers: layer numbers to record, in this order; None records all.
        mean: rows whose mean ``Recorder.mean`` gives; they are added up and not kept.
        kind: of a U-Net: "cross" (spatial cell -> caption token; the default there), "self" (cell -> cell) or "both".
        blocks: of a U-Net: names of the parts to record, such as "up_blocks.1" or "mid_block"; None records all.

    Raises:
        NoAttentionInterface: if no attention module of the model uses the interface.
        ValueError: for positions that are not whole numbers from 0 up, or a layer that does not exist.
    """
    if kind is not None or blocks is not None or type(model).__module__.startswith("diffusers."):
        if not (keys is layers is mean is None):
            raise ValueError(
                "keys, layers and mean are for transformers' models; a U-Net's parts are named by `blocks`"
            )
        from interp.unet_recording import record_unet

        with record_unet(model, queries, kind=kind or "cross", blocks=blocks) as inside:
            yield inside
        return
    recorder = Recorder(_attention_modules(model, layers), queries, keys, mean)
    with contextlib.ExitStack() as undo:
        undo.callback(_unwatch, recorder)
        _watch(recorder)
        for module in recorder.modules:
            undo.callback(module.register_forward_pre_hook(recorder.before, with_kwargs=True).remove)
        yield recorder


@functools.cache
def _uses_interface(kind: type[nn.Module]) -> bool:
    """Whether a class looks its attention kernel up in the interface."""
    if issubclass(kind, PreTrainedModel):
        return False
    methods = (
        inspect.unwrap(x) for base in kind.__mro__ if base is not nn.Module for x in vars(base).values() if callable(x)
    )
    return any("get_interface" in getattr(getattr(x, "__code__", None), "co_names", ()) for x in methods)


def _attention_modules(model: nn.Module, layers: Sequence[int] | None) -> dict[int, nn.Module]:
    """Layer number -> self-attention module of the text decoder inside ``model``, in layer order."""
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
_watched: dict[nn.Module, list[Recorder]] = {}
_lookup = AttentionInterface.get_interface  # the one in use when the first recorder came


def _watching_lookup(self: AttentionInterface, attn_implementation: str, default: Callable[..., Any]) -> Any:
    """``AttentionInterface.get_interface`` while a recorder is active."""
    kernel = _lookup(self, attn_implementation, default)
    name = "eager" if kernel is default else attn_implementation

    @functools.wraps(kernel)
    def watched(module: nn.Module, *args: Any, **options: Any) -> Any:
        output = kernel(module, *args, **options)
        for recorder in tuple(_watched.get(module, ())):
            recorder.see(module, name, args, options)
        return output

    return watched


def _watch(recorder: Recorder) -> None:
    global _lookup, _patched
    with _lock:
        if not _patched:
            _lookup, AttentionInterface.get_interface = AttentionInterface.get_interface, _watching_lookup
            _patched = True
        for module in recorder.modules:
            _watched.setdefault(module, []).append(recorder)


def _unwatch(recorder: Recorder) -> None:
    global _patched
    with _lock:
        for module in recorder.modules:
            _watched[module].remove(recorder)
            if not _watched[module]:
                del _watched[module]
        # If someone else has wrapped the lookup meanwhile, ours stays under theirs; it does nothing without recorders.
        if not _watched and AttentionInterface.get_interface is _watching_lookup:
            AttentionInterface.get_interface, _patched = _lookup, False
