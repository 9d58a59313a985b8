"""A batch that fails as a whole is tried again in halves, so that one bad sample costs no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


def in_halves(group: Sequence[Any], work: Callable[[Sequence[Any]], list[Any]]) -> list[Any]:
    """What ``work`` gives for each of the group, or the error that its sample raises by itself.

    Raises:
        torch.OutOfMemoryError: memory cannot hold even one.
    """
    if not group:
        return []
    try:
        return work(group)
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        if len(group) == 1 and isinstance(error, torch.OutOfMemoryError):
            raise
        failed = error.with_traceback(None)  # frees the tensors of the failed try
    return [failed] if len(group) == 1 else split(group, work)


def split(group: Sequence[Any], work: Callable[[Sequence[Any]], list[Any]]) -> list[Any]:
    """The same, one half after the other."""
    middle = len(group) // 2
    return in_halves(group[:middle], work) + in_halves(group[middle:], work)
