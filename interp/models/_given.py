"""A model as a user gives it: an LMM, a model with its processor, or the name of one."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from interp.models._load import load, wrap


def lmm_of(given: Any) -> Any:
    """The LMM: as it is, wrapped around (model, processor), loaded by its name or folder, or around a loaded model
    whose folder or hub id has its processor.

    Raises:
        ValueError: a module without a processor, and that does not say where it came from.
        interp.models._load.UnknownModel, interp.models._refused.RefusedFamily, ...: as for `interp.load`.
    """
    if isinstance(given, str | os.PathLike):
        return load(given)
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], nn.Module):
        return wrap(*given)
    if not isinstance(given, nn.Module):
        return given  # an LMM, or whatever behaves like one
    place = getattr(getattr(given, "config", None), "_name_or_path", "")
    if not place:
        raise ValueError(
            f"a bare {type(given).__name__} has no processor; expected interp.wrap(model, processor) or a tuple of both"
        )
    from transformers import AutoProcessor

    return wrap(given, AutoProcessor.from_pretrained(place))
