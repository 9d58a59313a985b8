"""Which attention heads of a multimodal model ground its words. Names are imported on first use, torch not before."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "load": "interp.models._load",
    "wrap": "interp.models._load",
    "LMM": "interp.models._lmm",
    "fingerprint": "interp.models._identity",
    "hash_weights": "interp.models._identity",
    "record": "interp.attention.record",
    "ablate": "interp.attention.ablation",
    "knockout": "interp.attention.edges",
    "head_outputs": "interp.attention.outputs",
    "reference": "interp.causation.usual",
    "effects": "interp.causation.harm",
    "Effects": "interp.causation.result",
    "cause": "interp.causation.study",
    "Reference": "interp.attention.ablation",
    "patch_cells": "interp.attention.unet.cells",
    "capture": "interp.answer.capturing",
    "captures": "interp.answer.capturing",
    "find_phrases": "interp.answer.phrases",
    "phrase_maps": "interp.answer.maps",
    "to_lens": "interp.answer.lens",
    "lens_prompt": "interp.answer.lens",
    "rank": "interp.ranking.study",
    "compare": "interp.comparison.study",
    "series": "interp.emergence.timeline",
    "emerge": "interp.emergence.study",
    "segment": "interp.segmentation.study",
    "segment_capture": "interp.segmentation.study",
    "segment_maps": "interp.segmentation.study",
    "load_segmenter": "interp.segmenters._load",
    "Capture": "interp.types",
    "Head": "interp.types",
    "HeadScores": "interp.statistics.scores",
    "LensPrompt": "interp.answer.lens",
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
