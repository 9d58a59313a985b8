"""Mistral Small 3.1 and later: one grid of any shape, merged patches a token, a break behind each row. Pixtral's tower
(arXiv 2410.07073); the breaks are text of the prompt, as they hold nothing of the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from interp.models import _hf
from interp.types import PatchGrid

architecture = "Mistral3ForConditionalGeneration"


def grid(model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Tensor]) -> PatchGrid:
    """All tokens of one image of (height, width) pixels: the whole image, stretched to a multiple of a cell.

    Raises:
        ValueError: the text holds another number of image tokens than the image has cells.
    """
    cell = model.config.vision_config.patch_size * getattr(model.config, "spatial_merge_size", 1)
    rows, cols = (inputs["image_sizes"] // cell).tolist()
    positions = _hf.image_positions(inputs["input_ids"], model.config.image_token_id)
    _hf.check_count(positions, rows * cols, f"{rows} x {cols} cells", image_size)
    return PatchGrid(positions.reshape(rows, cols), (0.0, 0.0, float(image_size[1]), float(image_size[0])))
