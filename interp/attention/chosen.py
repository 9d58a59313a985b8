"""Which heads and rows an intervention is about, and how rows are written back."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.attention.watching import Call
from interp.heads import read_heads
from interp.types import Head

Heads = Any
"""Heads in any form that `interp.heads.read_heads` reads, for all samples, or one such list per sample."""


class Chosen:
    """Heads of all samples, or of each."""

    def __init__(self, heads: Heads) -> None:
        wrong = f"heads must be (layer, head) pairs, L0H1, ..., or one list of them per sample; got {heads!r}"
        try:
            self.each = [_named(own) for own in ([heads] if _is_flat(heads) else heads)]
        except (TypeError, ValueError) as error:
            raise ValueError(wrong) from error
        if any(h.layer < 0 or h.head < 0 for own in self.each for h in own):
            raise ValueError(wrong)
        self.layers = sorted({h.layer for own in self.each for h in own})
        self._masks: dict[tuple[int, int, torch.device], Tensor] = {}

    def mask(self, layer: int, heads: int, batch: int, device: torch.device) -> Bool[Tensor, "#batch head"]:
        """Which heads of the layer are chosen, for all samples or for each."""
        if (layer, heads, device) not in self._masks:
            mask = torch.zeros(len(self.each), heads, dtype=torch.bool)
            for sample, own in enumerate(self.each):
                for h in own:
                    if h.layer == layer and h.head >= heads:
                        raise ValueError(f"there is no head {h}; layer {layer} has heads 0..{heads - 1}")
                    if h.layer == layer:
                        mask[sample, h.head] = True
            self._masks[layer, heads, device] = mask.to(device)
        mask = self._masks[layer, heads, device]
        if len(mask) not in (1, batch):
            raise ValueError(f"heads are given for {len(mask)} samples, but the forward pass has {batch}")
        return mask


def _is_flat(heads: Any) -> bool:
    """Whether these are heads, and not such for each sample."""
    if isinstance(heads, str | Head | pd.DataFrame):
        return True
    return all(isinstance(h, str) or (len(h) == 2 and not any(hasattr(i, "__len__") for i in h)) for h in heads)


def _named(heads: Any) -> list[Head]:
    found = read_heads(heads)
    if isinstance(found, str):
        raise ValueError(f"{found!r} depends on the model; expected a list of heads")
    return found


def contains(rows: Int[Tensor, "#batch row"], call: Call) -> Bool[Tensor, "#batch row"]:
    """Whether this call contains the row."""
    return (rows >= call.start) & (rows < call.start + call.query.shape[2])


def located(
    rows: Int[Tensor, "#batch row"], call: Call, device: torch.device
) -> tuple[Bool[Tensor, "#batch row"], Int[Tensor, "#batch row"]]:
    """Whether this call contains each row, and its place in it (any place if not)."""
    local = (rows - call.start).clamp(0, call.query.shape[2] - 1)
    return contains(rows, call).to(device), local.to(device)


def rows_of(x: Tensor, local: Int[Tensor, "#batch row"]) -> Tensor:
    """Rows of axis 1 of ``x`` [batch query ...], per sample."""
    sample = torch.arange(x.shape[0], device=x.device)[:, None]
    return x[sample, local.expand(x.shape[0], -1)]


def written(x: Tensor, local: Int[Tensor, "#batch row"], new: Tensor, write: Tensor) -> Tensor:
    """``x`` [batch query head ...] with rows [#batch row head ...] put in where ``write`` [#batch row head] says so."""
    batch, local = x.shape[0], local.expand(x.shape[0], -1)
    write = write.expand(batch, *write.shape[1:])
    sample, row, head = write.nonzero(as_tuple=True)
    changed = x.clone()
    changed[sample, local[sample, row], head] = new.expand(batch, *new.shape[1:])[sample, row, head].to(x.dtype)
    return changed
