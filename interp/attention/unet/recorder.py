"""What a recorder of a U-Net keeps: asked rows of every attention module, worked out from its own queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.attention.positions import check_batch, positions
from interp.attention.recorder import NotRecorded
from interp.attention.rows import softmax_rows, take_rows
from interp.attention.unet.cells import PatchCells

Kind = Literal["cross", "self", "both"]


Cells = Any
"""Sequence[int] | Int[Tensor, "row"] | Int[Tensor, "sample row"], a dict of these, or a function that gives them."""


KERNELS = {
    "AttnProcessor": True,
    "SlicedAttnProcessor": True,
    "XFormersAttnProcessor": True,
    "AttnProcessor2_0": False,
    "FusedAttnProcessor2_0": False,
    "XLAFlashAttnProcessor2_0": False,
}
"""Processors whose attention is softmax(q k^T * scale + mask) -> whether the scale is the module's, or 1/sqrt(dim)."""


class UnknownProcessor(TypeError):
    """A U-Net's attention processor may compute something else than plain attention, so its rows would be guessed.

    What to do: ``unet.set_attn_processor(AttnProcessor2_0())`` before recording; a module that
    normalises its queries and keys cannot be recorded: name other ``blocks``.
    """


class UNetRecorder:
    """What ``record`` gives for a diffusion model. ``passes`` holds one dict per forward pass, as ``attention``."""

    def __init__(self, modules: Mapping[str, nn.Module], queries: Cells, kind: Kind) -> None:
        self.modules = dict(modules)
        self.passes: list[dict[str, Tensor]] = []
        self.resolution: dict[str, tuple[int, int]] = {}
        self.cells: dict[str, Int[Tensor, "sample row"]] = {}
        self._queries, self._kind = queries, kind
        self._given: dict[str, dict[str, Any]] = {}  # of the call that runs now: arguments, q and k
        self._maps: dict[str, tuple[int, int]] = {}  # of the pass that runs now: size of each part's input
        if not (callable(queries) or queries is None or isinstance(queries, Mapping)):
            positions(queries, "queries")

    @property
    def attention(self) -> dict[str, Float[Tensor, "batch head query key"]]:
        """Name of the attention module -> its attention 0..1, fp32, softmax over *all* keys; in the model's order.

        Row i of a module is that of cell ``cells[name][:, i]`` (flat, row by row) of a map of ``resolution[name]`` =
        (rows, cols). Keys are the context's tokens (cross), or the cells of the same map (self). NaN where a cell is
        absent (-1).

        Raises:
            NotRecorded: no forward pass came by, or several: then take one of ``passes``.
        """
        if len(self.passes) > 1:
            raise NotRecorded(
                f"{len(self.passes)} forward passes came by (an ensemble, or steps of denoising); take one of `passes`"
            )
        if not self.passes or not self.passes[0]:
            raise NotRecorded(
                f"no {'' if self._kind == 'both' else self._kind + '-'}attention came by: run a forward pass inside "
                f"`with record(...)` that reaches one of {', '.join(self.modules)}"
            )
        return self.passes[0]

    @property
    def by_patch(self) -> dict[str, Float[Tensor, "batch head patch key"]]:
        """The attention of each patch of `interp.patch_cells`: the mean over its cells' rows.

        Raises:
            NotRecorded: as for ``attention``.
            ValueError: the queries were not made by `interp.patch_cells`.
        """
        if not isinstance(self._queries, PatchCells):
            raise ValueError("by_patch needs queries of `interp.patch_cells`; `attention` has the rows as asked for")
        found = {}
        for name, rows in self.attention.items():
            sizes = [len(cells) for cells in self._queries.each(*self.resolution[name])]
            found[name] = torch.stack([part.mean(2) for part in rows.split(sizes, 2)], 2)
        return found

    def begin(self, *_: Any) -> None:
        """A forward pass of the whole model begins."""
        self._given.clear()
        self._maps.clear()
        self.passes.append({})

    def enter(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A part of the model is called: the size of the map that it is given, if it is one."""
        first = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))
        if isinstance(first, Tensor) and first.ndim == 4:
            self._maps[name] = (first.shape[2], first.shape[3])

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """An attention module is called."""
        self._given.pop(name, None)
        given = dict(zip(("hidden_states", "encoder_hidden_states", "attention_mask"), args, strict=False)) | kwargs
        cross = given.get("encoder_hidden_states") is not None
        if self._kind not in ("both", "cross" if cross else "self"):
            return
        processor = type(getattr(self.modules[name], "processor", None)).__name__
        if processor not in KERNELS:
            raise UnknownProcessor(
                f"{name} computes its attention by {processor}, which may not be plain attention; expected one of "
                f"{', '.join(KERNELS)}: `unet.set_attn_processor(AttnProcessor2_0())`"
            )
        if getattr(self.modules[name], "norm_q", None) is not None:
            raise UnknownProcessor(f"{name} normalises its queries and keys, which cannot be recorded yet")
        self.enter(name, args, kwargs)
        self._given[name] = {"mask": given.get("attention_mask"), "own_scale": KERNELS[processor]}

    def project(self, name: str, part: str, output: Tensor) -> None:
        """Queries or keys are there; fused projections hold several of them side by side."""
        given = self._given.get(name)
        if given is None:
            return
        if part == "to_qkv":
            given["q"], given["k"], _ = output.chunk(3, -1)
        elif part == "to_kv":
            given["k"], _ = output.chunk(2, -1)
        else:
            given[part[-1]] = output

    def leave(self, name: str) -> None:
        """An attention module is done: its asked rows are worked out from its own queries and keys."""
        given = self._given.pop(name, None)
        if given is None:
            return
        attn: Any = self.modules[name]
        query, key = (_by_head(given[part], attn.heads) for part in "qk")
        found = self._size(name, query.shape[2])
        size = found or (query.shape[2], 1)
        rows = self._rows(name, found, query.shape[2])
        if rows is None:
            return
        check_batch(rows, query.shape[0], "queries")
        self.resolution[name], self.cells[name] = size, rows
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            here = rows.clamp(min=0).to(query.device)
            seen, bias = _mask(attn, given["mask"], here, key.shape[2], query.shape[0])
            scale = float(attn.scale) if given["own_scale"] else None
            attention = softmax_rows(take_rows(query, here), key, seen, bias, scale)
            absent = (rows < 0).to(query.device)
            self.passes[-1][name] = attention.masked_fill(absent[:, None, :, None], torch.nan)

    def forget(self) -> None:
        """Lets go of what a pass that broke off has left."""
        self._given.clear()
        self._maps.clear()

    def _size(self, name: str, rows: int) -> tuple[int, int] | None:
        """Rows and columns of the map that the module's queries come from, as the nearest part around it got it; None
        if no part around it got a map of as many cells (a transformer that cuts its input into patches)."""
        parts = name.split(".")
        for end in range(len(parts), -1, -1):
            size = self._maps.get(".".join(parts[:end]))
            if size is not None and size[0] * size[1] == rows:
                return size
        return None

    def _rows(self, name: str, size: tuple[int, int] | None, count: int) -> Int[Tensor, "sample row"] | None:
        """The asked cells; None if none are asked for at this resolution."""
        asked = self._queries
        if asked is None:
            asked = torch.arange(count)
        elif isinstance(asked, Mapping):
            if size not in asked:
                return None
            asked = asked[size]
        elif callable(asked):
            if size is None:
                raise ValueError(
                    f"{name} has {count} queries, but no map of as many cells comes to it or to what holds it, so that "
                    "nobody knows where they lie in the image; give flat positions, such as [0, 5]"
                )
            asked = asked(*size)
        rows = positions(asked, "queries")
        if rows.numel() and int(rows.max()) >= count:
            raise ValueError(
                f"cell {int(rows.max())} was asked for, but {name} has {_spelt(size)}{count} cells; give "
                "cells for each resolution, {(rows, cols): cells}, take interp.patch_cells, or name blocks to record"
            )
        return rows


def _spelt(size: tuple[int, int] | None) -> str:
    return f"{size[0]} x {size[1]} = " if size else ""


def _by_head(x: Float[Tensor, "batch position channel"], heads: int) -> Float[Tensor, "batch head position dim"]:
    return x.detach().unflatten(-1, (heads, -1)).transpose(1, 2)


def _mask(attn: Any, mask: Tensor | None, rows: Tensor, keys: int, batch: int) -> tuple[Tensor, Tensor | None]:
    """Which keys are seen and what is added to the scores, as the processors take them."""
    everything = torch.ones(1, 1, 1, keys, dtype=torch.bool, device=rows.device)
    if mask is None:
        return everything, None
    prepared = attn.prepare_attention_mask(mask, keys, batch)
    prepared = prepared.reshape(batch, attn.heads, -1, prepared.shape[-1])
    if prepared.shape[2] > 1:
        prepared = take_rows(prepared, rows)
    return (prepared, None) if prepared.dtype == torch.bool else (everything, prepared.float())
