"""EdgeTAM (arXiv 2501.07256): SAM 2 with a small convolutional encoder, for quick runs.

Default checkpoint: ``yonigozlan/EdgeTAM-hf``. Its encoder is a model of the package ``timm``.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from interp.segmenters._hf import Sam2Like
from interp.segmenters._hf import load as _load
from interp.segmenters._pil import sam2_processor


class EdgeTam(Sam2Like):
    """SAM 2 with another encoder."""

    name = "edgetam"


def load(checkpoint: str | None = None, device: str | None = None, **options: Any) -> EdgeTam:
    """EdgeTAM from a hub id or a folder; ``options`` go to ``from_pretrained``.

    Raises:
        ImportError: the package ``timm`` is not installed.
    """
    from transformers import EdgeTamModel

    if find_spec("timm") is None:
        raise ImportError("EdgeTAM's encoder is a model of the package timm, which is not installed: pip install timm")
    checkpoint = checkpoint or "yonigozlan/EdgeTAM-hf"
    return EdgeTam(_load(EdgeTamModel, checkpoint, device, **options), sam2_processor(checkpoint))
