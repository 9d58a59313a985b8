"""Image tokens of tiles that cover the image row by row, with a thumbnail of the whole behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from interp.models import _hf
from interp.types import PatchGrid, View


def on_canvas(positions: Int[np.ndarray, " token"], images: Any, image_size: tuple[int, int], side: int) -> PatchGrid:
    """The tokens of one image of (height, width) pixels from GOT-OCR2's image processor, which chooses the canvas of
    tiles whose shape is nearest to the image's; ``side`` x ``side`` tokens a tile.

    Raises:
        ValueError: the text holds another number of image tokens than the image's tiles give.
    """
    cols = rows = 1
    if len(positions) > side * side:  # one tile alone: a small image, or crop_to_patches=False
        tile = (images.size["height"], images.size["width"])
        cols, rows = get_optimal_tiled_canvas(image_size, tile, images.min_patches, images.max_patches)
    squares = rows * cols + (rows * cols > 1)
    _hf.check_count(positions, squares * side * side, f"{squares} squares of {side} x {side}", image_size)
    return tiled(positions, image_size, side, rows, cols)


def tiled(
    positions: Int[np.ndarray, " token"], image_size: tuple[int, int], side: int, rows: int, cols: int
) -> PatchGrid:
    """The tokens of ``rows`` x ``cols`` tiles of ``side`` x ``side``, as one main view, and the view ``thumbnail``.

    The image of (height, width) pixels is squeezed to the tiles' canvas, so that both views show all of it. A single
    tile comes without a thumbnail.
    """
    tiles = positions[: rows * cols * side * side].reshape(rows, cols, side, side)
    box = (0.0, 0.0, float(image_size[1]), float(image_size[0]))
    rest = positions[tiles.size :]
    others = (View(rest.reshape(side, side), box, "thumbnail"),) if len(rest) else ()
    return PatchGrid(tiles.transpose(0, 2, 1, 3).reshape(rows * side, cols * side), box, others=others)
