"""Which attention heads of a multimodal model ground its words. Names are imported on first use, torch not before."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "load": "interp.lmm",
    "wrap": "interp.lmm",
    "LMM": "interp.lmm",
    "record": "interp.recording",
    "ablate": "interp.interventions",
    "knockout": "interp.interventions",
    "head_outputs": "interp.interventions",
    "reference": "interp.references",
    "effects": "interp.effect",
    "Effects": "interp.effect",
    "cause": "interp.causing",
    "Reference": "interp.interventions",
    "patch_cells": "interp.unet_cells",
    "capture": "interp.capturing",
    "captures": "interp.capturing",
    "find_phrases": "interp.phrases",
    "phrase_maps": "interp.maps",
    "to_lens": "interp.lens",
    "lens_prompt": "interp.lens",
    "rank": "interp.ranking",
    "compare": "interp.comparing",
    "series": "interp.timeline",
    "emerge": "interp.emerging",
    "segment": "interp.segmentation",
    "segment_capture": "interp.segmentation",
    "segment_maps": "interp.segmentation",
    "load_segmenter": "interp.segmenter",
    "Capture": "interp.types",
    "Head": "interp.types",
    "HeadScores": "interp.types",
    "LensPrompt": "interp.lens",
    "PatchGrid": "interp.types",
    "Phrase": "interp.types",
    "PhraseMaps": "interp.types",
    "Sample": "interp.types",
    "Segmentation": "interp.types",
    "Skip": "interp.types",
    "Target": "interp.types",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'interp' has no attribute {name!r}; it offers: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
