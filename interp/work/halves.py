"""A batch that fails as a whole is tried again in halves, so that one bad sample costs no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


class NotForThisModel(TypeError):
    """What was asked cannot be had of this model, whatever the sample.

    What to do: ask for something else, such as maps of attention in place of value-weighted ones.
    """


def in_halves(group: Sequence[Any], work: Callable[[Sequence[Any]], list[Any]]) -> list[Any]:
    """What ``work`` gives for each of the group, or the error that its sample raises by itself.

    Raises:
        Exception: one that is no sample's own, see `only_its_own`: memory cannot hold even one, the device is lost.
    """
    if not group:
        return []
    try:
        return work(group)
    except Exception as error:
        if not (only_its_own(error) or (len(group) > 1 and _memory(error))):
            raise
        failed = error.with_traceback(None)  # frees the tensors of the failed try
    return [failed] if len(group) == 1 else split(group, work)


def split(group: Sequence[Any], work: Callable[[Sequence[Any]], list[Any]]) -> list[Any]:
    """The same, one half after the other."""
    middle = len(group) // 2
    return in_halves(group[:middle], work) + in_halves(group[middle:], work)


def only_its_own(error: Exception) -> bool:
    """Whether an error of one sample leaves the others as they are, of whatever kind it is: then the sample is skipped.
    Memory that is full, a device that is lost (after it nothing works) and a model that cannot do it are of all."""
    lost = isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)
    return not (_memory(error) or lost or isinstance(error, NotForThisModel))


def _memory(error: Exception) -> bool:
    full = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(said in str(error) for said in full)
