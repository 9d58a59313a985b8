"""LLaVA-NeXT (1.6): the whole image once, then tiles of it at a higher resolution.

The image's tokens are those of the whole image (the view ``base``), then the tiles' patches in image order with the
padding cut off and one newline token behind each row (``pack_image_features``). The main view is the fine one.
https://llava-vl.github.io/blog/2024-01-30-llava-next
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers.image_processing_utils import select_best_resolution

from interp.models import _hf
from interp.types import PatchGrid, View

architecture = "LlavaNextForConditionalGeneration"


def grid(model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Tensor]) -> PatchGrid:
    """All tokens of one image of (height, width) pixels: the fine view, the base view, the ends of rows.

    Raises:
        ValueError: the text holds another number of image tokens than the image's tiles make patches.
    """
    vision = model.config.vision_config
    rows, cols, box = fine_grid(image_size, model.config.image_grid_pinpoints, vision.image_size, vision.patch_size)
    return with_base(model, image_size, inputs, rows, cols, box)


def with_base(
    model: Any,
    image_size: tuple[int, int],
    inputs: Mapping[str, Tensor],
    rows: int,
    cols: int,
    box: tuple[float, float, float, float],
) -> PatchGrid:
    """The tokens of an image whose base view comes first, and then a fine one with a newline behind each row.

    Raises:
        ValueError: the text holds another number of image tokens.
    """
    vision = model.config.vision_config
    side = vision.image_size // vision.patch_size
    positions = _hf.image_positions(inputs["input_ids"], model.config.image_token_id)
    told = f"{side} x {side} and {rows} rows of {cols} and a newline"
    _hf.check_count(positions, side * side + rows * (cols + 1), told, image_size)
    fine, seen = positions[side * side :].reshape(rows, cols + 1), side * vision.patch_size / vision.image_size
    whole = (0.0, 0.0, image_size[1] * seen, image_size[0] * seen)
    base = View(positions[: side * side].reshape(side, side), whole, "base")
    return PatchGrid(fine[:, :-1].copy(), box, others=(base,), placeless=fine[:, -1].copy())


def fine_grid(
    image_size: tuple[int, int], resolutions: Sequence[Sequence[int]], tile: int, patch: int
) -> tuple[int, int, tuple[float, float, float, float]]:
    """Rows, columns and box (x0, y0, x1, y1; original pixels) of the fine grid of an image of (height, width) pixels.

    The processor scales the image to fit the best of ``resolutions`` (height, width) and pads it with black to that
    size; the model then cuts off whole rows or columns of patches that hold padding alone. A tile that is no whole
    number of patches is taken for one: its cells are a little larger than its patches (SigLIP's: 384 / 27 for 14).
    """
    height, width = image_size
    full_height, full_width = select_best_resolution(image_size, [tuple(r) for r in resolutions])
    scale_x, scale_y = full_width / width, full_height / height
    if scale_x < scale_y:
        new_height, new_width = min(math.ceil(height * scale_x), full_height), full_width
    else:
        new_height, new_width = full_height, min(math.ceil(width * scale_y), full_width)
    per_x, per_y = width / new_width, height / new_height
    side = tile // patch
    rows, cols = full_height // tile * side, full_width // tile * side
    cut_rows, cut_cols = _cut(image_size, rows, cols)
    cell = tile / side
    left = (cut_cols * cell - (full_width - new_width) // 2) * per_x
    top = (cut_rows * cell - (full_height - new_height) // 2) * per_y
    rows, cols = rows - 2 * cut_rows, cols - 2 * cut_cols
    return rows, cols, (left, top, left + cols * cell * per_x, top + rows * cell * per_y)


def _cut(image_size: tuple[int, int], rows: int, cols: int) -> tuple[int, int]:
    """Rows of patches cut off at the top and at the bottom, and columns at either side."""
    height, width = image_size
    if width / height > cols / rows:
        return (rows - int(round(height * (cols / width), 7))) // 2, 0
    return 0, (cols - int(round(width * (rows / height), 7))) // 2
