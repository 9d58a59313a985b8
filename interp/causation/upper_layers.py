"""A pass over answers whose upper layers can be run again, for many copies of a sample at once.

What the layers below have put out, and the keys and values of the prompt, are computed once and kept. An intervention
in layer l changes nothing below it; one on the answer's rows changes no key of the prompt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from interp.answer.replay import replay
from interp.attention.watching import attention_modules
from interp.models._lmm import LMM


class Resumable:
    """The plain pass over the answers ``ids`` of a batch of prompts.

    ``start`` is the position of the row that predicts an answer's first token; ``length`` counts all positions, padding
    included; ``layers`` are the decoder's.
    """

    def __init__(self, lmm: LMM, inputs: dict[str, Tensor], ids: Sequence[list[int]]) -> None:
        again = replay(inputs, ids, "predicting")
        self.lmm, self.start, self.answer = lmm, again.start, again.answer
        self.length = again.call["input_ids"].shape[1]
        self._blocks = _blocks(lmm.decoder)
        self.layers = len(self._blocks)
        self._rows = {k: again.call[k] for k in ("input_ids", "attention_mask", "position_ids")}
        self._below: list[Tensor] = []
        self._tuples: list[bool] = []
        self._cache = DynamicCache()
        call = {**again.call, "use_cache": True, "past_key_values": self._cache, "logits_to_keep": 1}
        with contextlib.ExitStack() as undo, torch.no_grad():
            for block in self._blocks:
                undo.callback(block.register_forward_hook(self._keep, with_kwargs=True).remove)
            lmm.model(**call)

    def run(
        self, layer: int, samples: Int[Tensor, " copy"], rows: Int[Tensor, "copy row"], whole: bool = False
    ) -> Float[Tensor, "copy row vocab"]:
        """Logits at the asked rows (positions; -1 gives any row's) of copies of samples, run from ``layer`` on.

        Only rows from ``start`` on are run, over the prompt's keys and values; with ``whole`` all rows are. Open the
        interventions around this call: they apply to its copies, and must not reach below the layer.
        """
        first = 0 if whole else self.start
        samples = samples.to(self._below[layer].device)
        call: dict[str, Any] = {k: v[samples.to(v.device)] for k, v in self._rows.items()}
        for name in ("input_ids", "position_ids"):
            call[name] = call[name][:, first:]
        call |= {"use_cache": not whole, "past_key_values": None if whole else self._prompt(layer, samples)}
        local = (rows - first).clamp(min=0)
        with torch.no_grad(), self._from(layer, self._below[layer][samples, first:]), self._at(local):
            return self.lmm.model(**call).logits

    def _keep(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._below.append(args[0] if args else kwargs["hidden_states"])
        self._tuples.append(isinstance(output, tuple))

    def _prompt(self, layer: int, samples: Int[Tensor, " copy"]) -> DynamicCache:
        """The prompt's keys and values for each copy; below the layer only their number counts."""
        cache = DynamicCache()
        layers: list[Any] = self._cache.layers
        for number, kept in enumerate(layers):
            few = slice(None) if number >= layer else slice(1)
            keys, values = (x[:, few, : self.start, few][samples.to(x.device)] for x in (kept.keys, kept.values))
            cache.update(keys, values, number)
        return cache

    @contextlib.contextmanager
    def _from(self, layer: int, below: Float[Tensor, "copy row dim"]) -> Iterator[None]:
        """Inside, layers below hand on what they get, and the layer gets ``below``."""

        def replaced(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (below, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": below}

        with contextlib.ExitStack() as undo:
            for number, block in enumerate(self._blocks[:layer]):
                undo.enter_context(_replaced(block, _handed_on(self._tuples[number])))
            undo.callback(self._blocks[layer].register_forward_pre_hook(replaced, with_kwargs=True).remove)
            yield

    @contextlib.contextmanager
    def _at(self, rows: Int[Tensor, "copy row"]) -> Iterator[None]:
        """Inside, logits are computed at each copy's rows alone."""

        def gathered(_: nn.Module, args: tuple[Any, ...]) -> Any:
            copy = torch.arange(len(rows), device=args[0].device)[:, None]
            return (args[0][copy, rows.to(args[0].device)], *args[1:])

        hook = self.lmm.model.get_output_embeddings().register_forward_pre_hook(gathered)
        try:
            yield
        finally:
            hook.remove()


def _handed_on(as_tuple: bool) -> Any:
    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (hidden_states, None) if as_tuple else hidden_states

    return forward


@contextlib.contextmanager
def _replaced(module: nn.Module, forward: Any) -> Iterator[None]:
    """Inside, the module does ``forward``; afterwards it has what it had, a forward of its own (accelerate) or none."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def _blocks(decoder: nn.Module) -> list[nn.Module]:
    """The decoder's layers, in order.

    Raises:
        TypeError: they do not lie in one list.
    """
    attention = list(attention_modules(decoder).values())
    for module in decoder.modules():
        if not isinstance(module, nn.ModuleList) or len(module) != len(attention):
            continue
        if all(own in set(block.modules()) for own, block in zip(attention, module, strict=True)):
            return list(module)
    raise TypeError(
        f"{type(decoder).__name__} has {len(attention)} attention modules, but no list of as many layers with one in "
        "each; effects need a decoder whose layers lie in one torch.nn.ModuleList"
    )
