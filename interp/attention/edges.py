"""Edges taken away: ``knockout()``, attention from some queries to some keys."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.attention.chosen import Chosen, Heads, contains, located, written
from interp.attention.guards import warn_if_recomputed
from interp.attention.kernel import Call, Hidden, Watcher, attention_modules, watching
from interp.attention.positions import check_batch, positions


@contextlib.contextmanager
def knockout(model: nn.Module, queries: Any, keys: Any, heads: Heads | None = None) -> Iterator[None]:
    """Inside, the edges from every query to every key get no attention, and what a row has left is renormalised.

    As if the causal mask hid them, for the chosen heads alone: the softmax over the other keys, in fp32. Other rows and
    heads are untouched, bit for bit. Geva et al. 2023, arXiv 2304.14767 (attention knockout).

    Args:
        queries: rows: positions for all samples, or an Int tensor [sample row] with -1 for absent.
        keys: columns, in the same form.
        heads: (layer, head) pairs for all samples, or one list per sample; None are all heads of all layers.

    Raises:
        ValueError: positions or heads that do not exist; a row of which every key that it sees is knocked out.

    >>> from interp.attention.record import record
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    >>> model, ids = LlamaForCausalLM(LlamaConfig(vocab_size=9, **sizes)).eval(), torch.tensor([[1, 2, 3]])
    >>> with knockout(model, queries=[2], keys=[0]), record(model, queries=[2]) as seen:
    ...     logits = model(ids).logits
    >>> row = seen.attention[0, 0, 0, 0]
    >>> row[0].item(), round(row.sum().item(), 3)
    (0.0, 1.0)
    """
    own = _Knockout(positions(queries, "queries"), positions(keys, "keys"), None if heads is None else Chosen(heads))
    if own.chosen is not None and not own.chosen.layers:
        modules = {}
    else:
        modules = attention_modules(model, None if own.chosen is None else own.chosen.layers)
    own.layer_of = {module: layer for layer, module in modules.items()}
    warn_if_recomputed(model)
    with watching(own, tuple(modules.values())):
        yield


class _Knockout(Watcher):
    """Edges that get no attention."""

    def __init__(self, queries: Tensor, keys: Tensor, chosen: Chosen | None) -> None:
        self.queries, self.keys, self.chosen = queries, keys, chosen
        self.layer_of: dict[nn.Module, int] = {}

    def hidden(self, module: nn.Module, call: Call) -> Hidden:
        """Edges of this call that are knocked out."""
        batch, heads, *_ = call.query.shape
        device = call.query.device
        for asked, name in ((self.queries, "queries"), (self.keys, "keys")):
            check_batch(asked, batch, name)
        if not contains(self.queries, call).any():
            return None
        columns = (self.keys - call.first_key).to(device)
        real = (columns >= 0) & (columns < call.key.shape[2]) & (self.keys >= 0).to(device)
        column = torch.zeros(columns.shape[0], call.key.shape[2] + 1, dtype=torch.bool, device=device)
        column.scatter_(1, torch.where(real, columns, call.key.shape[2]), True)
        column = column[:, None, None, :-1]
        asked = (self.queries - call.start).to(device)
        mask = self._heads(module, heads, batch, device)

        def edges(rows: Int[Tensor, "#batch row"]) -> Bool[Tensor, "#batch #head #row key"]:
            row = (rows[:, :, None] == asked[:, None, :]).any(-1)
            return row[:, None, :, None] & column & mask[:, :, None, None]

        return edges

    def change(self, module: nn.Module, call: Call, hidden: Hidden, output: Any) -> Any:
        """The output with this knockout's rows computed anew, without the edges that any knockout hides."""
        if hidden is None or not contains(self.queries, call).any():
            return output
        made, weights = output
        device = made.device
        here, local = located(self.queries, call, device)
        with torch.autocast(device.type, enabled=False):
            rows = call.rows(local, hidden=hidden)
            new = _weighted(rows, call.value)
        mask = self._heads(module, rows.shape[1], rows.shape[0], device)
        write = here[:, None, :] & mask[:, :, None]
        if (torch.isnan(rows).any(-1) & write).any():
            raise ValueError(
                f"knockout leaves a row of layer {self.layer_of[module]} without any key to attend to; knock out fewer "
                "keys, or other rows"
            )
        made = written(made, local, new.transpose(1, 2), write.transpose(1, 2))
        if weights is not None:
            weights = written(weights.transpose(1, 2), local, rows.transpose(1, 2), write.transpose(1, 2))
            weights = weights.transpose(1, 2)
        return made, weights

    def _heads(self, module: nn.Module, heads: int, batch: int, device: torch.device) -> Bool[Tensor, "#batch head"]:
        if self.chosen is None:
            return torch.ones(1, heads, dtype=torch.bool, device=device)
        return self.chosen.mask(self.layer_of[module], heads, batch, device)


def _weighted(
    rows: Float[Tensor, "batch head row key"], value: Float[Tensor, "batch group key dim"]
) -> Float[Tensor, "batch head row dim"]:
    """Attention-weighted sums of values, fp32; grouped-query heads share their values."""
    batch, heads, n, keys = rows.shape
    groups = value.shape[1]
    packed = rows.reshape(batch, groups, heads // groups * n, keys)
    return (packed @ value.float()).reshape(batch, heads, n, -1)
