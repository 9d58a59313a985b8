"""``record()``: chosen attention rows of a model while its own kernel computes the output."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

from torch import nn

from interp.attention.recorder import Recorder
from interp.attention.values import check_weighting
from interp.attention.watching import attention_modules, watching
from interp.types import Weighting

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
    weighting: Weighting | str = "attention",
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
    (`interp.attention.unet`) has ``attention[name]`` [batch head query key] for every attention module. ``queries``
    are then flat spatial cells, cells per resolution {(rows, cols): cells}, `interp.patch_cells`, or None for all.

    Args:
        model: any model of transformers, or a part of one, whose attention modules use the attention interface.
        queries: rows to record, a sequence of ints or a tensor; or "last": the last row of every forward pass, in
            order (streaming generation).
        keys: columns to keep; None keeps all. The softmax is always over all keys.
        layers: layer numbers to record, in this order; None records all.
        mean: rows whose mean ``Recorder.mean`` gives; they are added up and not kept.
        weighting: "attention", or "value": times the norm of each key's projected value (`interp.attention.values`).
        kind: of a U-Net: "cross" (spatial cell -> caption token; the default there), "self" (cell -> cell) or "both".
        blocks: of a U-Net: names of the parts to record, such as "up_blocks.1" or "mid_block"; None records all.

    Raises:
        NoAttentionInterface: if no attention module of the model uses the interface.
        TypeError: with ``weighting="value"``, modules whose output projection is not known, or does not get the heads'
            outputs as they are.
        ValueError: for positions that are not whole numbers from 0 up, or a layer that does not exist.

    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    >>> model, ids = LlamaForCausalLM(LlamaConfig(vocab_size=9, **sizes)).eval(), torch.tensor([[1, 2, 3]])
    >>> with record(model, queries=[0, 2], keys=[0, 1, 2]) as seen:
    ...     logits = model(ids).logits
    >>> seen.attention.shape  # sample, layer, head, row, key
    torch.Size([1, 2, 2, 2, 3])
    >>> seen.attention[0, 0, 0, 0]  # the first token sees only itself
    tensor([1., 0., 0.])
    """
    if kind is not None or blocks is not None or type(model).__module__.startswith("diffusers."):
        if not (keys is layers is mean is None) or weighting != "attention":
            raise ValueError(
                "keys, layers, mean and weighting are for transformers' models; a U-Net's parts are named by `blocks`"
            )
        from interp.attention.unet.hooks import record_unet

        with record_unet(model, queries, kind=kind or "cross", blocks=blocks) as inside:
            yield inside
        return
    check_weighting(weighting)
    recorder = Recorder(attention_modules(model, layers), queries, keys, mean, cast(Weighting, weighting))
    checks = contextlib.nullcontext() if recorder.norms is None else recorder.norms.checks()
    with checks, watching(recorder, recorder.modules):
        yield recorder
