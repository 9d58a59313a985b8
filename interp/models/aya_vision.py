"""Aya Vision: tiles of the image, then a thumbnail of it; 2 x 2 patches to a token. arXiv 2505.08751."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from interp.models import _hf
from interp.models._tiles import on_canvas
from interp.types import PatchGrid

architecture = "AyaVisionForConditionalGeneration"


def grid(model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Tensor]) -> PatchGrid:
    """All tokens of one image of (height, width) pixels: the tiles as one view, and the ``thumbnail``.

    Raises:
        ValueError: the text holds another number of image tokens than the image's tiles give.
    """
    vision = model.config.vision_config
    side = vision.image_size // vision.patch_size // model.config.downsample_factor
    positions = _hf.image_positions(inputs["input_ids"], model.config.image_token_id)
    return on_canvas(positions, processor.image_processor, image_size, side)
