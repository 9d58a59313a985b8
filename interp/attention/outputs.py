"""What each head puts out, before the output projection: ``head_outputs()``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.attention.chosen import located, rows_of
from interp.attention.positions import positions
from interp.attention.watching import Call, Hidden, Watcher, attention_modules, watching


@contextlib.contextmanager
def head_outputs(model: nn.Module, rows: Any, layers: Sequence[int] | None = None) -> Iterator[HeadOutputs]:
    """A ``HeadOutputs`` whose ``outputs`` hold what each head puts out at the rows, in the passes made inside.

    That is the attention-weighted sum of values before the output projection (TransformerLens calls it ``hook_z``).
    ``rows``: positions for all samples, or an Int tensor [sample row] with -1 for absent (NaN there).

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    >>> model, ids = LlamaForCausalLM(LlamaConfig(vocab_size=9, **sizes)).eval(), torch.tensor([[1, 2, 3]])
    >>> with head_outputs(model, rows=[2]) as seen:
    ...     logits = model(ids).logits
    >>> seen.outputs.shape  # sample, layer, head, row, dim
    torch.Size([1, 2, 2, 1, 4])
    """
    modules = attention_modules(model, layers)
    own = HeadOutputs(modules, positions(rows, "rows"))
    with watching(own, tuple(modules.values())):
        yield own


class HeadOutputs(Watcher):
    """What ``head_outputs`` gives. ``layers`` are the layer numbers along the layer axis of ``outputs``."""

    def __init__(self, modules: dict[int, nn.Module], rows: Int[Tensor, "sample row"]) -> None:
        self.layers = tuple(modules)
        self._axis = {module: axis for axis, module in enumerate(modules.values())}
        self._rows = rows
        self._kept: list[Tensor | None] = [None] * len(modules)

    @property
    def outputs(self) -> Float[Tensor, "batch layer head row dim"]:
        """The heads' outputs, fp32; NaN at rows that no pass contained.

        Raises:
            ValueError: not every layer was run.
        """
        kept = [x for x in self._kept if x is not None]
        if len(kept) < len(self._kept):
            raise ValueError("not every layer was run inside `with head_outputs(...)`; run the model there")
        return torch.stack([x.to(kept[0].device) for x in kept], 1)

    def see(self, module: nn.Module, call: Call, hidden: Hidden, output: Tensor) -> None:
        """Keeps the asked rows of the kernel's output [batch query head dim]."""
        here, local = located(self._rows, call, output.device)
        axis = self._axis[module]
        with torch.inference_mode(False), torch.no_grad():
            batch, _, heads, dim = output.shape
            kept = self._kept[axis]
            if kept is None:
                kept = output.new_full((batch, heads, self._rows.shape[1], dim), torch.nan, dtype=torch.float32)
            taken = rows_of(output, local).transpose(1, 2).float()
            self._kept[axis] = torch.where(here[:, None, :, None], taken, kept)
