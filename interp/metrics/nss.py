"""Normalised scanpath saliency: mean over the mask of the z-scored map, in standard deviations.

mean over M of (a - mean(a)) / std(a), population standard deviation over all patches (Peters et al. 2005; Bylinskii et
al. 2016, arXiv 1604.03605), with the patches of M in the place of fixations. M is the patches that the mask covers by
half or more.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from interp.metrics._region import has_shape, in_mask, patches, undefined_to_nan, within

higher_is_better = True
raw = False
uses_mask = True
limits = (-math.inf, math.inf)


def score(
    maps: Float[Tensor, "phrase layer head row col"],
    masks: Float[Tensor, "phrase row col"],
    others: Float[Tensor, "phrase row col"],
) -> Float[Tensor, "phrase layer head"]:
    """Mean z-score in M; NaN if M has no patch and for a constant map.

    >>> a = torch.tensor([[0.1, 0.6], [0.2, 0.1]])[None, None, None]  # a phrase, a layer, a head, 2 x 2 patches
    >>> mask = torch.tensor([[0.0, 1.0], [0.0, 0.5]])[None]  # shares of the patches: M is the right column
    >>> round(score(a, mask, mask).item(), 3)  # (0.35 - 0.25) / 0.206
    0.485
    """
    return score_each(maps, masks[:, None], others)[:, 0]


def score_each(
    maps: Float[Tensor, "phrase layer head row col"],
    masks: Float[Tensor, "phrase mask row col"],
    others: Float[Tensor, "phrase row col"],
) -> Float[Tensor, "phrase mask layer head"]:
    """The same for several masks of each phrase at once."""
    a, inside = patches(maps), in_mask(masks)
    # Scaled first: the squares of raw attention would fall below single precision's range.
    low, high = a.aminmax(dim=-1, keepdim=True)
    a = (a - low) / torch.where(high > low, high - low, 1)
    positives = inside.sum(-1)[..., None, None]
    mean = a.mean(-1, keepdim=True)
    z = within(a, inside.float()) / positives.clamp(min=1) - mean[:, None, ..., 0]
    z = z / (a - mean).square().mean(-1).sqrt()[:, None]
    return undefined_to_nan(z, has_shape(a)[:, None] & (positives > 0))


def chance(masks: Float[Tensor, "phrase row col"]) -> Float[Tensor, " phrase"]:
    """0, the mean of a z-score; NaN if M has no patch."""
    return torch.where(in_mask(masks).any(-1), 0.0, torch.nan)
