"""1 if the map's maximum lies in the mask, else 0.

Zhang et al. 2016 (arXiv 1608.00507), on the patch grid and without their 15-pixel tolerance: M is the patches that the
mask covers by half or more. If several patches share the maximum, the score is the share of them that lies in M.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.metrics._region import has_shape, in_mask, patches, undefined_to_nan, within

higher_is_better = True
raw = False
uses_mask = True
limits = (0.0, 1.0)


def score(
    maps: Float[Tensor, "phrase layer head row col"],
    masks: Float[Tensor, "phrase row col"],
    others: Float[Tensor, "phrase row col"],
) -> Float[Tensor, "phrase layer head"]:
    """Share of the maxima that lie in M, 0..1; NaN if M has no patch and for a constant map.

    >>> a = torch.tensor([[0.1, 0.6], [0.2, 0.1]])[None, None, None]  # a phrase, a layer, a head, 2 x 2 patches
    >>> mask = torch.tensor([[0.0, 1.0], [0.0, 0.5]])[None]  # shares of the patches: M is the right column
    >>> score(a, mask, mask).item()  # the highest patch lies in M
    1.0
    >>> score(-a, mask, mask).item()  # of the two lowest, one does
    0.5
    """
    return score_each(maps, masks[:, None], others)[:, 0]


def score_each(
    maps: Float[Tensor, "phrase layer head row col"],
    masks: Float[Tensor, "phrase mask row col"],
    others: Float[Tensor, "phrase row col"],
) -> Float[Tensor, "phrase mask layer head"]:
    """The same for several masks of each phrase at once."""
    a, inside = patches(maps), in_mask(masks)
    top = a == a.amax(-1, keepdim=True)
    hits = within(top.float(), inside.float()) / top.sum(-1).clamp(min=1)[:, None]
    return undefined_to_nan(hits.to(a.dtype), has_shape(a)[:, None] & inside.any(-1)[..., None, None])


def chance(masks: Float[Tensor, "phrase row col"]) -> Float[Tensor, " phrase"]:
    """Share of the patches that lie in M; NaN if none does.

    >>> chance(torch.tensor([[[0.0, 1.0], [0.0, 0.5]], [[0.0, 0.0], [0.0, 0.4]]])).tolist()  # an empty M: undefined
    [0.5, nan]
    """
    area = in_mask(masks).float().mean(-1)
    return torch.where(area > 0, area, torch.nan)
