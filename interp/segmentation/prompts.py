"""A phrase's map -> what a segmenter is asked.

`Method` says how; its defaults and two presets are attend-and-segment's (arXiv 2410.08209).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.answer.pixels import above, argmax_points
from interp.segmentation.method import Method
from interp.types import Prompts

LIKELIHOODS = (0.001, 0.999)  # of the released second mode: the mask's probability is clipped to these


def prompts_of(
    pixels: Float[Tensor, "phrase height width"], method: Method, patch: tuple[float, float] = (1.0, 1.0)
) -> Prompts:
    """The prompts of every phrase from its map over the image's pixels; NaN where a map gives none.

    ``patch`` is the size of a patch in pixels (width, height): peaks are at least that far from one another.
    """
    if method.prompting == "peaks":
        points = peak_points(pixels, method.peaks, method.peak_share, patch)
    elif method.prompting == "argmax":
        points = argmax_points(pixels)[:, None]
    else:
        points = np.zeros((len(pixels), 0, 2))
    boxes = logits = None
    if method.prompting == "box":
        boxes = boxes_of(_highest_part(pixels, method.box_share))
    elif method.prompting == "mask":
        shares = pixels / method.temperature
        boxes = boxes_of((shares > method.box_above).cpu().numpy())
        # outside the model's crop nothing is known: as likely as not
        logits = shares.clamp(*LIKELIHOODS).nan_to_num(nan=0.5).logit()
    return Prompts(points=points, boxes=boxes, logits=logits, maps=pixels)


def peak_points(
    pixels: Float[Tensor, "phrase height width"], peaks: int, share: float, patch: tuple[float, float]
) -> Float[np.ndarray, "phrase point 2"]:
    """Up to ``peaks`` local maxima of each map as (x, y), highest first; the first is the argmax. NaN fills up.

    A peak is the highest pixel of the (2 patch + 1) square around it, lies at least ``share`` of the map's range above
    its minimum, and no other peak lies in that square.

    >>> row = torch.tensor([[[0.0, 5.0, 0.0, 0.0, 4.0, 0.0, 0.0, 1.0]]])
    >>> peak_points(row, peaks=3, share=0.7, patch=(1.0, 1.0)).tolist()  # the third is too low
    [[[1.0, 0.0], [4.0, 0.0], [nan, nan]]]
    """
    reach_x, reach_y = (max(1, round(side)) for side in patch)
    known = pixels.nan_to_num(nan=-torch.inf)
    lowest = pixels.nan_to_num(nan=torch.inf).amin((1, 2), keepdim=True)
    around = _window_maximum(known, reach_y, reach_x)
    high = known >= lowest + share * (known.amax((1, 2), keepdim=True) - lowest)
    peak = (known == around) & high & known.isfinite()
    points = np.full((len(pixels), peaks, 2), np.nan)
    points[:, 0] = argmax_points(pixels)
    for i in np.flatnonzero(np.isfinite(points[:, 0, 0])):
        y, x = (side.cpu().numpy() for side in peak[i].nonzero(as_tuple=True))
        order = np.argsort(-known[i, y, x].cpu().numpy(), kind="stable")
        found = [points[i, 0]]
        for k in order:
            if len(found) < peaks and all(abs(x[k] - a) > reach_x or abs(y[k] - b) > reach_y for a, b in found):
                found.append(np.array([x[k], y[k]]))
        points[i, : len(found)] = found
    return points


def boxes_of(masks: Bool[np.ndarray, "phrase height width"]) -> Float[np.ndarray, "phrase 4"]:
    """(x0, y0, x1, y1) around each mask's pixels, x1 and y1 exclusive; NaN for an empty mask.

    >>> boxes_of(np.array([[[False, True, True], [False, True, False]]])).tolist()
    [[1.0, 0.0, 3.0, 2.0]]
    """
    boxes = np.full((len(masks), 4), np.nan)
    for box, mask in zip(boxes, masks, strict=True):
        cols, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        if len(cols):
            box[:] = cols[0], rows[0], cols[-1] + 1, rows[-1] + 1
    return boxes


def _highest_part(
    pixels: Float[Tensor, "phrase height width"], share: float
) -> Bool[np.ndarray, "phrase height width"]:
    """Of the pixels above the share, those that hang together (8 neighbours) with the highest one."""
    from scipy.ndimage import label

    parts, points = above(pixels, share), argmax_points(pixels)
    for i in np.flatnonzero(np.isfinite(points[:, 0])):
        x, y = points[i].astype(int)
        named = label(parts[i], np.ones((3, 3)))[0]  # pyright: ignore[reportIndexIssue]
        parts[i] = (named == named[y, x]) & parts[i]
    return parts


def _window_maximum(values: Tensor, reach_y: int, reach_x: int) -> Tensor:
    """The highest value at most ``reach`` pixels away; one axis after the other."""
    pool = torch.nn.functional.max_pool1d
    across = pool(values.flatten(0, 1), 2 * reach_x + 1, 1, reach_x).view(values.shape)
    down = pool(across.mT.flatten(0, 1), 2 * reach_y + 1, 1, reach_y).view(across.mT.shape)
    return down.mT
