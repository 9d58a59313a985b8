"""Which attention heads of a multimodal model ground its words. Names are imported on first use, torch not before."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # for editors and type checkers, which do not see names that are imported on first use
    from interp.answer.capturing import capture as capture
    from interp.answer.capturing import captures as captures
    from interp.answer.lens import LensPrompt as LensPrompt
    from interp.answer.lens import lens_prompt as lens_prompt
    from interp.answer.lens import to_lens as to_lens
    from interp.answer.maps import phrase_maps as phrase_maps
    from interp.answer.phrases import find_phrases as find_phrases
    from interp.attention.ablation import Reference as Reference
    from interp.attention.ablation import ablate as ablate
    from interp.attention.edges import knockout as knockout
    from interp.attention.outputs import head_outputs as head_outputs
    from interp.attention.record import record as record
    from interp.attention.unet.cells import patch_cells as patch_cells
    from interp.causation.harm import effects as effects
    from interp.causation.result import Effects as Effects
    from interp.causation.study import cause as cause
    from interp.causation.usual import reference as reference
    from interp.comparison.study import compare as compare
    from interp.emergence.study import emerge as emerge
    from interp.emergence.timeline import series as series
    from interp.explorer.handle import Explorer as Explorer
    from interp.explorer.study import explore as explore
    from interp.heads import read_heads as read_heads
    from interp.models._identity import fingerprint as fingerprint
    from interp.models._identity import hash_weights as hash_weights
    from interp.models._lmm import LMM as LMM
    from interp.models._load import load as load
    from interp.models._load import wrap as wrap
    from interp.ranking.given import score as score
    from interp.ranking.study import rank as rank
    from interp.report.opened import open as open
    from interp.segmentation.study import segment as segment
    from interp.segmentation.study import segment_capture as segment_capture
    from interp.segmentation.study import segment_maps as segment_maps
    from interp.segmenters._load import load_segmenter as load_segmenter
    from interp.statistics.scores import HeadScores as HeadScores
    from interp.types import Capture as Capture
    from interp.types import Head as Head
    from interp.types import PatchGrid as PatchGrid
    from interp.types import Phrase as Phrase
    from interp.types import PhraseMaps as PhraseMaps
    from interp.types import Sample as Sample
    from interp.types import Segmentation as Segmentation
    from interp.types import Skip as Skip
    from interp.types import Target as Target
    from interp.work.sharing import shard as shard

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
    "shard": "interp.work.sharing",
    "score": "interp.ranking.given",
    "open": "interp.report.opened",
    "read_heads": "interp.heads",
    "compare": "interp.comparison.study",
    "series": "interp.emergence.timeline",
    "emerge": "interp.emergence.study",
    "explore": "interp.explorer.study",
    "Explorer": "interp.explorer.handle",
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
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


if not TYPE_CHECKING:  # or editors would take any name for a good one

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            return getattr(importlib.import_module(_HOME[name]), name)
        raise AttributeError(f"module 'interp' has no attribute {name!r}; it offers: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
