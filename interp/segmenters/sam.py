"""Segment Anything (arXiv 2304.02643): three masks for a point, the last as a rule the whole thing.

Default checkpoint: ``facebook/sam-vit-huge``. ``mini-sam`` is of this kind.
"""

from __future__ import annotations

from typing import Any

from interp.segmenters._hf import SamLike
from interp.segmenters._hf import load as _load


def load(checkpoint: str | None = None, device: str | None = None, **options: Any) -> SamLike:
    """SAM from a hub id or a folder; ``options`` go to ``from_pretrained``."""
    from transformers import SamModel, SamProcessor

    checkpoint = checkpoint or "facebook/sam-vit-huge"
    return SamLike(_load(SamModel, checkpoint, device, **options), SamProcessor.from_pretrained(checkpoint))
