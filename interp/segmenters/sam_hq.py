"""SAM-HQ (arXiv 2306.01567): SAM with finer borders; its masks come sorted by score, the best first.

Default checkpoint: ``syscv-community/sam-hq-vit-huge``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from interp.segmenters._hf import SamLike
from interp.segmenters._hf import load as _load


class SamHQ(SamLike):
    """SAM with one more output token, and the features of the encoder's first global layer."""

    name = "sam_hq"
    choice = "best"

    def features(self, pixels: Tensor) -> dict[str, Any]:
        """Image embeddings and those of the layers in between."""
        embeddings, between = self.model.get_image_embeddings(pixels)
        return {"image_embeddings": embeddings, "intermediate_embeddings": between}


def load(checkpoint: str | None = None, device: str | None = None, **options: Any) -> SamHQ:
    """SAM-HQ from a hub id or a folder; ``options`` go to ``from_pretrained``."""
    from transformers import SamHQModel, SamHQProcessor

    checkpoint = checkpoint or "syscv-community/sam-hq-vit-huge"
    return SamHQ(_load(SamHQModel, checkpoint, device, **options), SamHQProcessor.from_pretrained(checkpoint))
