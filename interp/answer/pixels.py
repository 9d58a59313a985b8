"""Maps -> pixels: upsampled over the image, their highest point, their upper part."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.types import View


def to_pixels(
    maps: Float[Tensor, "phrase row col"], grid: View, image_size: tuple[int, int]
) -> Float[Tensor, "phrase height width"]:
    """The maps at each pixel of an image of (height, width): bicubic over the grid's box, cut to the image.

    Where the box overhangs the image (padding), that part is cut off; where it ends inside the image (centre crop),
    the pixels outside are NaN. Equals torch's bicubic ``interpolate`` to the padded square followed by the cut
    (arXiv 2410.08209, section 3.2) when the box has whole pixels.

    >>> from interp.types import PatchGrid
    >>> grid = PatchGrid(np.arange(4).reshape(2, 2), box=(0.0, 0.0, 4.0, 4.0))
    >>> pixels = to_pixels(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), grid, (4, 6))
    >>> pixels.shape, pixels[0, 0].isnan().tolist()  # the two columns on the right lie outside the crop
    (torch.Size([1, 4, 6]), [False, False, False, False, True, True])
    """
    height, width = image_size
    if height < 1 or width < 1:
        raise ValueError(f"image_size must be (height, width) of at least one pixel; got {image_size}")
    x0, y0, x1, y1 = box_of(grid)
    x = ((torch.arange(width, dtype=torch.float64) + 0.5 - x0) / (x1 - x0)).to(maps.device)
    y = ((torch.arange(height, dtype=torch.float64) + 0.5 - y0) / (y1 - y0)).to(maps.device)
    at = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).float()[None] * 2 - 1
    if not len(maps):
        return maps.new_zeros(0, height, width)
    # relative to the minimum: rounding would else give a constant map an argmax
    lowest = maps.float().nan_to_num(nan=torch.inf).amin((-2, -1), keepdim=True)
    level = torch.where(lowest.isfinite(), lowest, 0.0)
    pixels = torch.nn.functional.grid_sample(
        (maps.float() - level)[None], at, mode="bicubic", padding_mode="border", align_corners=False
    )[0]
    inside = ((y >= 0) & (y <= 1))[:, None] & ((x >= 0) & (x <= 1))
    return torch.where(inside, pixels + level, torch.nan)


def argmax_points(maps: Float[Tensor, "phrase height width"]) -> Float[np.ndarray, "phrase 2"]:
    """The highest pixel of each map as (x, y), NaN pixels left aside, the first one in reading order if several.

    (NaN, NaN) where there is no highest pixel: the map is constant or all NaN.

    >>> argmax_points(torch.tensor([[[0.0, 0.0], [0.0, 2.0], [0.0, 1.0]], [[1.0, 1.0]] * 3])).tolist()
    [[1.0, 1.0], [nan, nan]]
    """
    flat = maps.flatten(1)
    defined = ~flat.isnan()
    highest = flat.masked_fill(~defined, -torch.inf)
    lowest = flat.masked_fill(~defined, torch.inf).amin(1)
    index = highest.argmax(1)
    points = torch.stack([index % maps.shape[2], index // maps.shape[2]], 1).double()
    points[~(highest.amax(1) > lowest)] = torch.nan
    return points.cpu().numpy()


def above(pixels: Float[Tensor, "phrase height width"], share: float) -> Bool[np.ndarray, "phrase height width"]:
    """Where each map exceeds its minimum by more than ``share`` of its range; nowhere if it is constant or NaN.

    >>> above(torch.tensor([[[0.0, 1.0], [2.0, 4.0]]]), 0.4).tolist()
    [[[False, False], [True, True]]]
    """
    lowest = pixels.nan_to_num(nan=torch.inf).amin((1, 2), keepdim=True)
    highest = pixels.nan_to_num(nan=-torch.inf).amax((1, 2), keepdim=True)
    found = (pixels > lowest + share * (highest - lowest)) & (highest > lowest)
    return found.cpu().numpy()


def box_of(grid: View) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = grid.box
    if not (np.isfinite(grid.box).all() and x0 < x1 and y0 < y1):
        raise ValueError(f"the grid's box must be (x0, y0, x1, y1) with x0 < x1 and y0 < y1; got {grid.box}")
    return grid.box
