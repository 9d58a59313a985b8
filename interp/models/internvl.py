"""InternVL 3 and 3.5 (-hf): tiles of the image, then a thumbnail of it. arXiv 2504.10479, 2508.18265."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from interp.models import _hf
from interp.models._tiles import on_canvas
from interp.types import PatchGrid

architecture = "InternVLForConditionalGeneration"


def grid(model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Tensor]) -> PatchGrid:
    """All tokens of one image of (height, width) pixels: the tiles as one view, and the ``thumbnail``.

    Raises:
        ValueError: the text holds another number of image tokens than the image's tiles give.
    """
    config, images = model.config, processor.image_processor
    # Of the pixels that are given: the vision tower stretches its positions to tiles of another size than it had.
    patches = images.size["height"] // config.vision_config.patch_size[0]
    positions = _hf.image_positions(inputs["input_ids"], config.image_token_id)
    return on_canvas(positions, images, image_size, int(patches * config.downsample_ratio))
