"""Positions on the key axis, as ``record`` takes them: once for all samples, or per sample with -1 for absent."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor


def joined(kept: Tensor, averaged: Tensor) -> Int[Tensor, "sample row"]:
    """Both sets of positions side by side; one that is shared by all samples is repeated for each.

    Raises:
        ValueError: if they are given for different numbers of samples.
    """
    samples = {kept.shape[0], averaged.shape[0]} - {1}
    if len(samples) > 1:
        raise ValueError(f"queries are given for {kept.shape[0]} samples, but mean for {averaged.shape[0]}")
    n = max(samples, default=1)
    return torch.cat([kept.expand(n, -1), averaged.expand(n, -1)], 1)


def positions(positions: Any, name: str) -> Int[Tensor, "sample row"]:
    """Positions as a CPU tensor; one row for all samples, or one per sample.

    Raises:
        ValueError: anything but whole numbers, or a negative one (-1 is allowed per sample).

    >>> positions(range(3), "queries")
    tensor([[0, 1, 2]])
    >>> positions([0.5], "queries")
    Traceback (most recent call last):
        ...
    ValueError: queries must be whole numbers from 0 up, or an Int tensor [sample row] ...; got [0.5]
    """
    try:
        x = torch.as_tensor(positions if isinstance(positions, Tensor) else list(positions)).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise _wrong(positions, name) from error
    if x.numel() == 0:
        x = x.long()
    if x.ndim not in (1, 2) or x.dtype == torch.bool or x.is_floating_point() or x.is_complex():
        raise _wrong(positions, name)
    if x.numel() and int(x.min()) < (0 if x.ndim == 1 else -1):
        raise _wrong(positions, name)
    return torch.atleast_2d(x.long())


def _wrong(positions: Any, name: str) -> ValueError:
    """The error, made only when there is one: a tensor is slow to print."""
    return ValueError(
        f"{name} must be whole numbers from 0 up, or an Int tensor [sample row] with -1 for absent"
        f"{', or last' if name == 'queries' else ''}; got {positions!r}"
    )


def check_batch(positions: Tensor | None, batch: int, name: str) -> None:
    """Raises a ValueError if positions per sample do not fit a forward pass of ``batch`` samples."""
    if positions is not None and positions.shape[0] not in (1, batch):
        raise ValueError(f"{name} are given for {positions.shape[0]} samples, but the forward pass has {batch}")
