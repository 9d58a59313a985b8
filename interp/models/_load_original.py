"""A LLaVA in its own code's layout as an LMM, converted in memory: what a series over such a run begins with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from interp import plugins
from interp.models._lmm import LMM
from interp.models._load import check_finite, device_of
from interp.models._original.building import in_memory
from interp.models._original.parts import Parts
from interp.models._processor import with_options


def load_original(
    parts: Parts,
    name: str,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    *,
    processor_options: Mapping[str, Any] | None = None,
    view: str | None = None,
    **options: Any,
) -> LMM:
    """An LMM of these parts; nothing is written. Device, precision and options as for `interp.load`.

    Raises:
        interp.models._original.layout.OriginalLayout: parts that do not fit each other, or are not there.
        BrokenCheckpoint: weights that are no numbers.
    """
    device = device_of(device)
    model, processor = in_memory(parts, dtype or ("auto" if device.type != "cpu" else torch.float32), **options)
    check_finite(model, name)
    shown = dict(processor_options or {})
    return LMM(model.to(device), with_options(processor, shown), plugins.get("models", "llava"), name, shown, view)
