"""LLaVA-OneVision: LLaVA-NeXT's views, the fine one shrunk where it has too many patches. arXiv 2408.03326."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from interp.models.llava_next import fine_grid, with_base
from interp.types import PatchGrid

architecture = "LlavaOnevisionForConditionalGeneration"
SLACK = 1.1
"""A fine view is shrunk when its side is more than so many times as long as allowed."""


def grid(model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Tensor]) -> PatchGrid:
    """All tokens of one image of (height, width) pixels: the fine view, the base view, the ends of rows.

    Raises:
        ValueError: the text holds another number of image tokens than the image's tiles make patches.
    """
    config, vision = model.config, model.config.vision_config
    rows, cols, box = fine_grid(image_size, config.image_grid_pinpoints, vision.image_size, vision.patch_size)
    most = int(config.vision_aspect_ratio.removeprefix("anyres_max_")) * (vision.image_size // vision.patch_size) ** 2
    ratio = math.sqrt(rows * cols / most)
    if ratio > SLACK:
        rows, cols = int(rows // ratio), int(cols // ratio)
    return with_base(model, image_size, inputs, rows, cols, box)
