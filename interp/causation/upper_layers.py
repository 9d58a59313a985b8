"""A pass over answers whose upper layers can be run again, for many copies of a sample at once.

What the layers below have put out, and the keys and values of the prompt, are computed once and kept. An intervention
in layer l changes nothing below it; one on the answer's rows changes no key of the prompt.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from interp.answer.replay import replay
from interp.attention.record import record
from interp.attention.watching import attention_modules
from interp.models._lmm import LMM
from interp.models._next import next_inputs

TOKENWISE = ("input_ids", "attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids")
"""Arguments of a model that have a number for each token; what it makes of pixels is in the hidden states already."""

OPTIONS = ("return_dict", "output_attentions", "output_hidden_states", "logits_to_keep")
"""Arguments with which a generation says what it wants back."""


class Resumable:
    """The plain pass over the answers ``ids`` of a batch of prompts.

    ``start`` is the position of the row that predicts an answer's first token; ``length`` counts all positions, padding
    included; ``layers`` are the numbers of those with attention heads. A model with a recurrent state, which cannot be
    taken from the middle of a sequence, or with a prompt whose tokens all see each other, is run over whole sequences.
    """

    def __init__(self, lmm: LMM, inputs: dict[str, Tensor], ids: Sequence[list[int]]) -> None:
        again = replay(lmm.model, inputs, ids, "predicting")
        self.lmm, self.start, self.answer = lmm, again.start, again.answer
        self.length = again.call["input_ids"].shape[1]
        self._blocks, self.layers = _blocks(lmm.decoder)
        recurrent = len(self.layers) < len(self._blocks)
        self._cache = None if recurrent else DynamicCache()
        self._over_cache = not recurrent
        self._whole = _tokenwise(again.call)
        # Without pixels: what they gave is in the hidden states that are put in.
        places = self._whole["input_ids"] == getattr(lmm.model.config, "image_token_id", -1)
        self._whole["input_ids"] = self._whole["input_ids"].masked_fill(places, 0)
        fed = again.call["input_ids"][:, inputs["input_ids"].shape[1] :]
        step = next_inputs(lmm.model, inputs, fed, torch.ones_like(fed), DynamicCache(), self.length - self.start)
        self._step = {**_tokenwise(step), "attention_mask": again.call["attention_mask"]}
        self._below: list[Tensor] = []
        self._after: list[Tensor] = []
        self._tuples: list[bool] = []
        call = {**again.call, "use_cache": not recurrent, "past_key_values": self._cache, "logits_to_keep": 1}
        before = max(self.start - 1, 0)
        with contextlib.ExitStack() as undo, torch.no_grad():
            for block in self._blocks:
                undo.callback(block.register_forward_hook(self._keep, with_kwargs=True).remove)
            seen = undo.enter_context(record(lmm.decoder, [before], [self.start], self.layers[:1]))
            lmm.model(**call)
        if self.start and seen.attention.nan_to_num().any():
            self._over_cache = False  # PaliGemma's prompt sees its last token, whose row is one of the answer's
        # What is added between layers: Qwen3-VL gives its first ones more of the image (DeepStack).
        between = [below - after for below, after in zip(self._below[1:], self._after[:-1], strict=True)]
        self._added = [None, *(x if x.count_nonzero() else None for x in between)]
        self._after = []

    def run(
        self, layer: int, samples: Int[Tensor, " copy"], rows: Int[Tensor, "copy row"], whole: bool = False
    ) -> Float[Tensor, "copy row vocab"]:
        """Logits at the asked rows (positions; -1 gives any row's) of copies of samples, run from ``layer`` on.

        Only rows from ``start`` on are run, over the prompt's keys and values; with ``whole`` all rows are. Open the
        interventions around this call: they apply to its copies, and must not reach below the layer.
        """
        whole = whole or not self._over_cache
        first = 0 if whole else self.start
        samples = samples.to(self._below[layer].device)
        call = {name: _of_copies(name, x, samples) for name, x in (self._whole if whole else self._step).items()}
        call |= {"use_cache": not whole, "past_key_values": None if whole else self._prompt(layer, samples)}
        local = (rows - first).clamp(min=0)
        with torch.no_grad(), self._from(layer, samples, first), self._at(local):
            return self.lmm.model(**call).logits

    @contextlib.contextmanager
    def prompt_known(self, inputs: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, a generation from the same ``inputs`` takes the prompt's keys and values from the plain pass and
        reads the prompt's last token alone; a model whose prompt has to be read whole generates as ever."""
        if not self._over_cache:
            yield
            return
        model, plain = self.lmm.model, self.lmm.model.forward
        nothing = inputs["input_ids"][:, :0]

        @functools.wraps(plain)
        def forward(*args: Any, **call: Any) -> Any:
            cache = call.get("past_key_values")
            if cache is None or cache.get_seq_length():
                return plain(*args, **call)
            known = self._prompt(0, torch.arange(len(nothing)))
            kept: Any
            for number, kept in enumerate(known.layers):
                cache.update(kept.keys, kept.values, number)
            step = next_inputs(model, inputs, nothing, nothing, cache, 1)
            # Not what generation has made of the image beforehand: the prompt's keys and values hold that.
            return plain(**{name: x for name, x in call.items() if name in OPTIONS} | step)

        with _replaced(model, forward):
            yield

    def _keep(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._below.append(args[0] if args else kwargs["hidden_states"])
        self._after.append(output[0] if isinstance(output, tuple) else output)
        self._tuples.append(isinstance(output, tuple))

    def _prompt(self, layer: int, samples: Int[Tensor, " copy"]) -> DynamicCache:
        """The prompt's keys and values for each copy; below the layer only their number counts."""
        cache = DynamicCache()
        layers: list[Any] = [] if self._cache is None else self._cache.layers
        for number, kept in enumerate(layers):
            few = slice(None) if number >= layer else slice(1)
            keys, values = (x[:, few, : self.start, few][samples.to(x.device)] for x in (kept.keys, kept.values))
            cache.update(keys, values, number)
        return cache

    @contextlib.contextmanager
    def _from(self, layer: int, samples: Int[Tensor, " copy"], first: int) -> Iterator[None]:
        """Inside, layers below hand on what they get, the layer gets what it got in the plain pass, and those above get
        what was added on the way to them."""

        def given(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                if args:
                    return (change(args[0]), *args[1:]), kwargs
                return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

            return hook

        def part(x: Tensor) -> Tensor:
            return x[samples.to(x.device), first:]

        with contextlib.ExitStack() as undo:
            for number, block in enumerate(self._blocks):
                added = self._added[number]
                if number < layer:
                    undo.enter_context(_replaced(block, _handed_on(self._tuples[number])))
                    continue
                if number > layer and added is None:
                    continue
                change = given(
                    (lambda _, number=number: part(self._below[number]))
                    if number == layer
                    else (lambda x, added=added: x + part(added))  # type: ignore[arg-type]
                )
                undo.callback(block.register_forward_pre_hook(change, with_kwargs=True).remove)
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


def _tokenwise(call: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: call[name] for name in TOKENWISE if isinstance(call.get(name), Tensor)}


def _of_copies(name: str, x: Tensor, samples: Int[Tensor, " copy"]) -> Tensor:
    """Each copy's part; positions may have axes before that of the samples (M-RoPE)."""
    return x.index_select(-2 if name == "position_ids" else 0, samples.to(x.device))


def _blocks(decoder: nn.Module) -> tuple[list[nn.Module], tuple[int, ...]]:
    """The decoder's layers, in order, and the numbers of those with attention heads.

    Raises:
        TypeError: they do not lie in one list.
    """
    attention = attention_modules(decoder)
    for module in decoder.modules():
        if not isinstance(module, nn.ModuleList) or len(module) <= max(attention):
            continue
        if all(own in set(module[number].modules()) for number, own in attention.items()):
            return list(module), tuple(attention)
    raise TypeError(
        f"{type(decoder).__name__} has {len(attention)} attention modules, but no list of layers that holds each of "
        "them under its number; effects need a decoder whose layers lie in one torch.nn.ModuleList"
    )
