"""Where the asked rows and columns of one forward pass come from and go to."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

ROWS_AT_ONCE = 2**20
"""Scores (fp32 numbers) of one layer that are worked on at a time, on a CPU: they stay in its cache."""
ROWS_ON_DEVICE = 2**26
"""The same elsewhere, where each part costs launches of kernels; twice so many stand in memory at a time, 512 MiB."""


class Plan(NamedTuple):
    """Where the rows of one forward pass come from and go to."""

    slots: Tensor  # [slot] places along the query axis of the result
    here: Tensor  # bool [sample slot] whether this pass contains the row
    rows: Tensor  # [sample slot] row within this pass, on the layer's device
    columns: Tensor | None  # [sample column] column within this pass
    unseen: Tensor | None  # bool [sample column] not among this pass's keys: later, or gone from a sliding window
    absent: Tensor | None  # bool [sample column] -1; these two are None where there is no such column
    first: tuple[int, ...] | None = None  # [sample] the first column, where each sample's lie side by side


def planned(asked: Tensor, keys: Tensor | None, span: tuple[int, int, int, int], device: torch.device) -> Plan:
    """The plan of asked rows [sample row] and keys for a pass of (first query, queries, first key, keys)."""
    start, n_queries, first_key, n_keys = span
    here = (asked >= start) & (asked < start + n_queries)
    slots = here.any(0).nonzero()[:, 0]
    rows = (asked[:, slots] - start).clamp(0, n_queries - 1).to(device)
    if keys is None:
        return Plan(slots, here[:, slots], rows, None, None, None)
    columns, absent = keys - first_key, keys < 0
    unseen = (columns < 0) | (columns >= n_keys)
    if unseen.any() or not columns.shape[1] or (columns.diff(dim=1) != 1).any():
        known = columns.clamp(0, n_keys - 1).to(device), unseen.to(device), absent.to(device) if absent.any() else None
        return Plan(slots, here[:, slots], rows, *known)
    return Plan(slots, here[:, slots], rows, columns.to(device), None, None, tuple(columns[:, 0].tolist()))


def parts(plan: Plan, kept: int | None, size: int) -> list[Plan]:
    """The plan in pieces of rows to keep (the first ``kept`` slots, or all) and rows to average; a row of one layer
    takes ``size`` numbers."""
    first = len(plan.slots) if kept is None else int((plan.slots < kept).sum())
    step = max((ROWS_AT_ONCE if plan.rows.device.type == "cpu" else ROWS_ON_DEVICE) // size, 1)
    edges = [*range(0, first, step), *range(first, len(plan.slots), step), len(plan.slots)]
    edges = edges if len(edges) > 1 else [0, 0]  # a pass without any row still makes room for the later ones
    return [
        plan._replace(slots=plan.slots[a:b], here=plan.here[:, a:b], rows=plan.rows[:, a:b]) for a, b in pairwise(edges)
    ]


def cut(rows: Tensor, plan: Plan, first_key: int, end: int) -> Tensor:
    """The asked columns of ``rows`` [batch head row key], at their absolute positions if all are asked for."""
    nothing = rows[..., :1] * 0  # 0 at keys that a row cannot see, NaN in a row that sees none
    if plan.columns is None:
        before = nothing.expand(-1, -1, -1, first_key)
        return torch.cat([before, rows[..., : end - first_key]], -1)
    if plan.first is not None:
        return _sliced(rows, plan.first, plan.columns.shape[1])
    if plan.columns.shape[0] == 1:
        rows = rows.index_select(-1, plan.columns[0])
    else:
        sample = torch.arange(rows.shape[0], device=rows.device)[:, None]
        rows = rows[sample, :, :, plan.columns].permute(0, 2, 3, 1)
    if plan.unseen is not None:
        rows = torch.where(plan.unseen[:, None, None], nothing, rows)
    return rows if plan.absent is None else rows.masked_fill(plan.absent[:, None, None], torch.nan)


def _sliced(rows: Tensor, first: tuple[int, ...], count: int) -> Tensor:
    """``count`` columns of each sample from its first one on; a view where that is the same for all."""
    if len(set(first)) == 1:
        return rows[..., first[0] : first[0] + count]
    return torch.stack([own[..., start : start + count] for own, start in zip(rows, first, strict=True)])
