"""SAM 2 (arXiv 2408.00714): successor of SAM with a hierarchical encoder; three masks for a point.

Default checkpoint: ``facebook/sam2.1-hiera-large``.
"""

from __future__ import annotations

from typing import Any

from interp.segmenters._hf import Sam2Like
from interp.segmenters._hf import load as _load
from interp.segmenters._pil import sam2_processor


def load(checkpoint: str | None = None, device: str | None = None, **options: Any) -> Sam2Like:
    """SAM 2 from a hub id or a folder; ``options`` go to ``from_pretrained``."""
    from transformers import Sam2Model

    checkpoint = checkpoint or "facebook/sam2.1-hiera-large"
    return Sam2Like(_load(Sam2Model, checkpoint, device, **options), sam2_processor(checkpoint))
