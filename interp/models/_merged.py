"""Image tokens that stand for m x m merged patches of one grid, as wide and high as the image asks for (Qwen-VL's)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from interp.models import _hf
from interp.types import PatchGrid


def grid(model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Tensor]) -> PatchGrid:
    """All tokens of one image of (height, width) pixels: the whole image, stretched to a multiple of a cell.

    Raises:
        ValueError: the text holds another number of image tokens than the processor makes cells.
    """
    merge = processor.image_processor.merge_size
    _, rows, cols = (inputs["image_grid_thw"].flatten() // merge).tolist()
    positions = _hf.image_positions(inputs["input_ids"], model.config.image_token_id)
    _hf.check_count(positions, rows * cols, f"{rows} x {cols} cells", image_size)
    height, width = image_size
    return PatchGrid(positions.reshape(rows, cols), (0.0, 0.0, float(width), float(height)))
