"""Share of the map's mass that lies in the mask: sum over M of a / sum of a, 0..1.

The energy-based pointing game of Score-CAM (Wang et al. 2020, arXiv 1910.01279, section 4.3). A patch that the mask
covers in part counts with the covered share, so small objects are defined too.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.metrics._region import has_shape, patches, require_attention, undefined_to_nan, within

higher_is_better = True
raw = True
uses_mask = True
limits = (0.0, 1.0)


def score(
    maps: Float[Tensor, "phrase layer head row col"],
    masks: Float[Tensor, "phrase row col"],
    others: Float[Tensor, "phrase row col"],
) -> Float[Tensor, "phrase layer head"]:
    """sum(a x coverage) / sum(a), 0..1; NaN for an empty mask (coverage 0 everywhere) and a constant map.

    Raises:
        ValueError: maps with negative values.

    >>> a = torch.tensor([[0.1, 0.6], [0.2, 0.1]])[None, None, None]  # a phrase, a layer, a head, 2 x 2 patches
    >>> mask = torch.tensor([[0.0, 1.0], [0.0, 0.5]])[None]  # shares of the patches: M is the right column
    >>> round(score(a, mask, mask).item(), 3)  # 0.6 and half of 0.1, of 1.0
    0.65
    """
    return score_each(maps, masks[:, None], others)[:, 0]


def score_each(
    maps: Float[Tensor, "phrase layer head row col"],
    masks: Float[Tensor, "phrase mask row col"],
    others: Float[Tensor, "phrase row col"],
) -> Float[Tensor, "phrase mask layer head"]:
    """The same for several masks of each phrase at once."""
    require_attention(maps, "mass_in_mask")
    a, cover = patches(maps), masks.flatten(-2)
    # Rounding may put a map that lies wholly in the mask above 1.
    share = (within(a, cover) / a.sum(-1)[:, None]).clamp(max=1.0)
    return undefined_to_nan(share, has_shape(a)[:, None] & (cover.sum(-1) > 0)[..., None, None])


def chance(masks: Float[Tensor, "phrase row col"]) -> Float[Tensor, " phrase"]:
    """Mean coverage: what a map whose patches are exchangeable holds in the mask on average. NaN for an empty mask."""
    area = masks.float().mean((1, 2))
    return torch.where(area > 0, area, torch.nan)
