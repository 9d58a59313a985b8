"""Image tokens of tiles that cover the image row by row, with a thumbnail of the whole behind them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from interp.types import PatchGrid, View


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
