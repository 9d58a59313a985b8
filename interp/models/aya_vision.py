"""Aya Vision: tiles of the image, then a thumbnail of it; 2 x 2 patches to a token. arXiv 2505.08751."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from interp.models import _hf
from interp.models._tiles import tiled
from interp.types import PatchGrid

architecture = "AyaVisionForConditionalGeneration"


def grid(model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Tensor]) -> PatchGrid:
    """All tokens of one image of (height, width) pixels: the tiles as one view, and the ``thumbnail``.

    Raises:
        ValueError: the text holds another number of image tokens than the image's tiles give.
    """
    vision, images = model.config.vision_config, processor.image_processor
    side = vision.image_size // vision.patch_size // model.config.downsample_factor
    positions = _hf.image_positions(inputs["input_ids"], model.config.image_token_id)
    cols = rows = 1
    if len(positions) > side * side:  # one tile alone: a small image, or crop_to_patches=False
        tile = (images.size["height"], images.size["width"])
        cols, rows = get_optimal_tiled_canvas(image_size, tile, images.min_patches, images.max_patches)
    squares = rows * cols + (rows * cols > 1)
    _hf.check_count(positions, squares * side * side, f"{squares} squares of {side} x {side}", image_size)
    return tiled(positions, image_size, side, rows, cols)
