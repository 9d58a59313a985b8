"""Taking heads or edges away inside a model's own attention, and seeing what a head puts out.

All are context managers on the model's own kernel (sdpa, flash, flex, eager): the weights, the configuration and the
kernel stay, and the model is as it was afterwards. They may be nested in any order, together with `interp.record`:
edges are knocked out first, then heads are ablated, the outer ones before the inner ones, and recorders see the result.

Positions are absolute on the key axis, as for `interp.record`: padding and what a cache holds are counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.attention.chosen import Chosen, Heads, located, written
from interp.attention.guards import warn_if_recomputed
from interp.attention.positions import check_batch, positions
from interp.attention.watching import Call, Hidden, Watcher, attention_modules, watching
from interp.types import layer_numbers

Mode = Literal["zero", "mean", "resample"]


@dataclass(frozen=True)
class Reference:
    """What heads usually put out, before the output projection: for ``ablate`` by mean or by resampling.

    ``mean`` is over ``count`` rows; ``draws`` are rows drawn at random out of them, each of one text and all heads.
    ``layers`` are the layers' numbers, if they are not 0, 1, ...
    """

    mean: Float[Tensor, "layer head dim"]
    draws: Float[Tensor, "draw layer head dim"]
    count: int
    layers: tuple[int, ...] = ()


@contextlib.contextmanager
def ablate(
    model: nn.Module,
    heads: Heads,
    mode: Mode | str = "zero",
    *,
    reference: Reference | None = None,
    rows: Any = None,
    seed: int = 0,
) -> Iterator[None]:
    """Inside, the heads' outputs (before the output projection) are replaced; all others are untouched, bit for bit.

    Args:
        heads: (layer, head) pairs for all samples, or one list of them per sample of the batch.
        mode: "zero"; "mean": the reference's mean; "resample": for each row one of the reference's draws, the same for
            all heads, chosen by ``seed`` and by the row's place among ``rows``.
        reference: from `interp.reference`; needed by "mean" and "resample".
        rows: where: positions for all samples, or an Int tensor [sample row] with -1 for absent; None is everywhere.

    Raises:
        ValueError: no such head, mode or rows; a reference that is missing or of another model.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    >>> model, ids = LlamaForCausalLM(LlamaConfig(vocab_size=9, **sizes)).eval(), torch.tensor([[1, 2, 3]])
    >>> plain = model(ids).logits
    >>> with ablate(model, [(1, 0)]):
    ...     changed = model(ids).logits
    >>> torch.equal(plain, changed), torch.equal(plain, model(ids).logits)
    (False, True)
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode is {mode!r}; expected one of {', '.join(map(repr, get_args(Mode)))}")
    if (mode == "zero") != (reference is None):
        needs = "none" if mode == "zero" else "one: interp.reference(lmm, samples)"
        raise ValueError(f"mode {mode!r} got reference={type(reference).__name__}; expected {needs}")
    own = _Ablation(Chosen(heads), mode, reference, None if rows is None else positions(rows, "rows"), seed)
    modules = attention_modules(model, own.chosen.layers or None) if own.chosen.layers else {}
    own.layer_of = {module: layer for layer, module in modules.items()}
    warn_if_recomputed(model)
    with watching(own, tuple(modules.values())):
        yield


class _Ablation(Watcher):
    """Heads whose output is replaced."""

    phase = 1

    def __init__(self, chosen: Chosen, mode: str, reference: Reference | None, rows: Tensor | None, seed: int) -> None:
        self.chosen, self.mode, self.reference, self.rows, self.seed = chosen, mode, reference, rows, seed
        self.layer_of: dict[nn.Module, int] = {}

    def change(self, module: nn.Module, call: Call, hidden: Hidden, output: Any) -> Any:
        """The output with the chosen heads replaced."""
        made, weights = output
        batch, n_queries, heads, _ = made.shape
        layer = self.layer_of[module]
        mask = self.chosen.mask(layer, heads, batch, made.device)
        if not mask.any():
            return output
        rows = torch.arange(call.start, call.start + n_queries)[None] if self.rows is None else self.rows
        check_batch(rows, batch, "rows")
        here, local = located(rows, call, made.device)
        if not here.any():
            return output
        places = rows.clamp(min=0)[0] if self.rows is None else torch.arange(rows.shape[1])
        new = self._new(layer, places, made)
        write = here[:, :, None] & mask[:, None, :]
        return written(made, local, new[None], write), weights

    def _new(self, layer: int, places: Int[Tensor, " row"], made: Tensor) -> Float[Tensor, "row head dim"]:
        """What each row gets: zero, the reference's mean, or one of its draws."""
        heads, dim = made.shape[2:]
        if self.reference is None:
            return made.new_zeros(1, heads, dim).expand(len(places), -1, -1)
        have = self.reference.mean.shape
        numbers = layer_numbers(self.reference.layers, have[0])
        if layer not in numbers or (heads, dim) != tuple(have[1:]):
            raise ValueError(
                f"the reference is of {have[0]} layers with {have[1]} heads of {have[2]} numbers, but layer {layer} "
                f"has {heads} of {dim}; make one for this model: interp.reference(lmm, samples)"
            )
        place = numbers.index(layer)
        if self.mode == "mean":
            return self.reference.mean[place].to(made).expand(len(places), -1, -1)
        random = torch.Generator().manual_seed(self.seed)
        draws = torch.randint(len(self.reference.draws), (int(places.max()) + 1,), generator=random)
        return self.reference.draws[draws[places], place].to(made)
