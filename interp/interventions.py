"""Taking heads or edges away inside a model's own attention, and seeing what a head puts out.

All are context managers on the model's own kernel (sdpa, flash, flex, eager): the weights, the configuration and the
kernel stay, and the model is as it was afterwards. They may be nested in any order, together with `interp.record`:
edges are knocked out first, then heads are ablated, the outer ones before the inner ones, and recorders see the result.

Positions are absolute on the key axis, as for `interp.record`: padding and what a cache holds are counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.positions import check_batch, positions
from interp.types import Head
from interp.watching import Call, Hidden, Watcher, attention_modules, watching

Mode = Literal["zero", "mean", "resample"]
Heads = Sequence[Any]
"""(layer, head) pairs for all samples, or one such list per sample."""


@dataclass(frozen=True)
class Reference:
    """What heads usually put out, before the output projection: for ``ablate`` by mean or by resampling.

    ``mean`` is over ``count`` rows; ``draws`` are rows drawn at random out of them, each of one text and all heads.
    """

    mean: Float[Tensor, "layer head dim"]
    draws: Float[Tensor, "draw layer head dim"]
    count: int


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
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode is {mode!r}; expected one of {', '.join(map(repr, get_args(Mode)))}")
    if (mode == "zero") != (reference is None):
        needs = "none" if mode == "zero" else "one: interp.reference(lmm, samples)"
        raise ValueError(f"mode {mode!r} got reference={type(reference).__name__}; expected {needs}")
    own = _Ablation(_Chosen(heads), mode, reference, None if rows is None else positions(rows, "rows"), seed)
    modules = attention_modules(model, own.chosen.layers or None) if own.chosen.layers else {}
    own.layer_of = {module: layer for layer, module in modules.items()}
    with watching(own, tuple(modules.values())):
        yield


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
    """
    own = _Knockout(positions(queries, "queries"), positions(keys, "keys"), None if heads is None else _Chosen(heads))
    if own.chosen is not None and not own.chosen.layers:
        modules = {}
    else:
        modules = attention_modules(model, None if own.chosen is None else own.chosen.layers)
    own.layer_of = {module: layer for layer, module in modules.items()}
    with watching(own, tuple(modules.values())):
        yield


@contextlib.contextmanager
def head_outputs(model: nn.Module, rows: Any, layers: Sequence[int] | None = None) -> Iterator[HeadOutputs]:
    """A ``HeadOutputs`` whose ``outputs`` hold what each head puts out at the rows, in the passes made inside.

    That is the attention-weighted sum of values before the output projection (TransformerLens calls it ``hook_z``).
    ``rows``: positions for all samples, or an Int tensor [sample row] with -1 for absent (NaN there).
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
        here, local = _here(self._rows, call, output.device)
        axis = self._axis[module]
        with torch.inference_mode(False), torch.no_grad():
            batch, _, heads, dim = output.shape
            kept = self._kept[axis]
            if kept is None:
                kept = output.new_full((batch, heads, self._rows.shape[1], dim), torch.nan, dtype=torch.float32)
            taken = _rows_of(output, local).transpose(1, 2).float()
            self._kept[axis] = torch.where(here[:, None, :, None], taken, kept)


class _Chosen:
    """Heads of all samples, or of each."""

    def __init__(self, heads: Heads) -> None:
        wrong = f"heads must be (layer, head) pairs, or one list of them per sample; got {heads!r}"
        try:
            flat = all(_is_pair(h) for h in heads)
            self.each = [[Head(*map(int, h)) for h in own] for own in ([heads] if flat else heads)]
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


def _is_pair(x: Any) -> bool:
    return isinstance(x, Head) or (len(x) == 2 and all(isinstance(i, int) or not hasattr(i, "__len__") for i in x))


class _Knockout(Watcher):
    """Edges that get no attention."""

    def __init__(self, queries: Tensor, keys: Tensor, chosen: _Chosen | None) -> None:
        self.queries, self.keys, self.chosen = queries, keys, chosen
        self.layer_of: dict[nn.Module, int] = {}

    def hidden(self, module: nn.Module, call: Call) -> Hidden:
        """Edges of this call that are knocked out."""
        batch, heads, *_ = call.query.shape
        device = call.query.device
        for asked, name in ((self.queries, "queries"), (self.keys, "keys")):
            check_batch(asked, batch, name)
        if not _inside(self.queries, call).any():
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
        if hidden is None or not _inside(self.queries, call).any():
            return output
        made, weights = output
        device = made.device
        here, local = _here(self.queries, call, device)
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
        made = _written(made, local, new.transpose(1, 2), write.transpose(1, 2))
        if weights is not None:
            weights = _written(weights.transpose(1, 2), local, rows.transpose(1, 2), write.transpose(1, 2))
            weights = weights.transpose(1, 2)
        return made, weights

    def _heads(self, module: nn.Module, heads: int, batch: int, device: torch.device) -> Bool[Tensor, "#batch head"]:
        if self.chosen is None:
            return torch.ones(1, heads, dtype=torch.bool, device=device)
        return self.chosen.mask(self.layer_of[module], heads, batch, device)


class _Ablation(Watcher):
    """Heads whose output is replaced."""

    phase = 1

    def __init__(self, chosen: _Chosen, mode: str, reference: Reference | None, rows: Tensor | None, seed: int) -> None:
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
        here, local = _here(rows, call, made.device)
        if not here.any():
            return output
        places = rows.clamp(min=0)[0] if self.rows is None else torch.arange(rows.shape[1])
        new = self._new(layer, places, made)
        write = here[:, :, None] & mask[:, None, :]
        return _written(made, local, new[None], write), weights

    def _new(self, layer: int, places: Int[Tensor, " row"], made: Tensor) -> Float[Tensor, "row head dim"]:
        """What each row gets: zero, the reference's mean, or one of its draws."""
        heads, dim = made.shape[2:]
        if self.reference is None:
            return made.new_zeros(1, heads, dim).expand(len(places), -1, -1)
        have = self.reference.mean.shape
        if layer >= have[0] or (heads, dim) != tuple(have[1:]):
            raise ValueError(
                f"the reference is of {have[0]} layers with {have[1]} heads of {have[2]} numbers, but layer {layer} "
                f"has {heads} of {dim}; make one for this model: interp.reference(lmm, samples)"
            )
        if self.mode == "mean":
            return self.reference.mean[layer].to(made).expand(len(places), -1, -1)
        random = torch.Generator().manual_seed(self.seed)
        draws = torch.randint(len(self.reference.draws), (int(places.max()) + 1,), generator=random)
        return self.reference.draws[draws[places], layer].to(made)


def _inside(rows: Int[Tensor, "#batch row"], call: Call) -> Bool[Tensor, "#batch row"]:
    """Whether this call contains the row."""
    return (rows >= call.start) & (rows < call.start + call.query.shape[2])


def _here(
    rows: Int[Tensor, "#batch row"], call: Call, device: torch.device
) -> tuple[Bool[Tensor, "#batch row"], Int[Tensor, "#batch row"]]:
    """Whether this call contains each row, and its place in it (any place if not)."""
    local = (rows - call.start).clamp(0, call.query.shape[2] - 1)
    return _inside(rows, call).to(device), local.to(device)


def _rows_of(x: Tensor, local: Int[Tensor, "#batch row"]) -> Tensor:
    """Rows of axis 1 of ``x`` [batch query ...], per sample."""
    sample = torch.arange(x.shape[0], device=x.device)[:, None]
    return x[sample, local.expand(x.shape[0], -1)]


def _written(x: Tensor, local: Int[Tensor, "#batch row"], new: Tensor, write: Tensor) -> Tensor:
    """``x`` [batch query head ...] with rows [#batch row head ...] put in where ``write`` [#batch row head] says so."""
    batch, local = x.shape[0], local.expand(x.shape[0], -1)
    write = write.expand(batch, *write.shape[1:])
    sample, row, head = write.nonzero(as_tuple=True)
    changed = x.clone()
    changed[sample, local[sample, row], head] = new.expand(batch, *new.shape[1:])[sample, row, head].to(x.dtype)
    return changed


def _weighted(
    rows: Float[Tensor, "batch head row key"], value: Float[Tensor, "batch group key dim"]
) -> Float[Tensor, "batch head row dim"]:
    """Attention-weighted sums of values, fp32; grouped-query heads share their values."""
    batch, heads, n, keys = rows.shape
    groups = value.shape[1]
    packed = rows.reshape(batch, groups, heads // groups * n, keys)
    return (packed @ value.float()).reshape(batch, heads, n, -1)
