"""Shuffled AUC: how often a patch in the mask outranks one drawn from the masks of *other* images, 0..1.

AUC = P(a(x) > a(y)) + P(a(x) = a(y)) / 2, x uniform in M, y drawn with the weights ``others`` (the share of other
images whose mask covers the patch). A map that only knows where objects usually lie, such as a centre blob, gets 0.5
(Zhang et al. 2008, J. Vision 8(7):32; Bylinskii et al. 2016, arXiv 1604.03605). M is the patches that the mask covers
by half or more. Patches of M stay among the y, as in those sources: a perfect map gets 1 - w/2, with w the share of
``others`` that lies in M.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.metrics._region import along, has_shape, in_mask, in_order, patches, undefined_to_nan, within

higher_is_better = True
raw = False
uses_mask = True
limits = (0.0, 1.0)


def score(
    maps: Float[Tensor, "phrase layer head row col"],
    masks: Float[Tensor, "phrase row col"],
    others: Float[Tensor, "phrase row col"],
) -> Float[Tensor, "phrase layer head"]:
    """Shuffled AUC, 0..1; NaN if M has no patch, if ``others`` is all zero, and for a constant map.

    >>> a = torch.tensor([[0.1, 0.6], [0.2, 0.1]])[None, None, None]  # a phrase, a layer, a head, 2 x 2 patches
    >>> mask = torch.tensor([[0.0, 1.0], [0.0, 0.5]])[None]  # shares of the patches: M is the right column
    >>> everywhere = torch.ones(1, 2, 2)
    >>> score(a, mask, everywhere).item()  # 0.6 outranks 3.5 of 4 patches, 0.1 one of 4
    0.5625
    >>> round(score(a, mask, mask).item(), 3)  # against patches of M alone there is nothing to win
    0.417
    """
    return score_each(maps, masks[:, None], others)[:, 0]


def score_each(
    maps: Float[Tensor, "phrase layer head row col"],
    masks: Float[Tensor, "phrase mask row col"],
    others: Float[Tensor, "phrase row col"],
) -> Float[Tensor, "phrase mask layer head"]:
    """The same for several masks of each phrase at once."""
    a, inside = patches(maps), in_mask(masks)
    usual = others.flatten(1).to(a.dtype)
    total = usual.sum(-1, keepdim=True)
    ranked = in_order(maps)
    weight = along(usual / torch.where(total > 0, total, 1), ranked.order)
    up_to = weight.cumsum(-1)
    above = (up_to - weight).gather(-1, ranked.starts)
    rank = 1 - (above + up_to.gather(-1, ranked.ends)) / 2
    rank = torch.empty_like(rank).scatter_(-1, ranked.order, rank)  # patch by patch again
    positives = inside.sum(-1)[..., None, None]
    auc = (within(rank, inside.float()) / positives.clamp(min=1)).clamp(0.0, 1.0)
    return undefined_to_nan(auc, has_shape(a)[:, None] & (positives > 0) & (total > 0)[..., None, None])


def chance(masks: Float[Tensor, "phrase row col"]) -> Float[Tensor, " phrase"]:
    """0.5; NaN if M has no patch."""
    return torch.where(in_mask(masks).any(-1), 0.5, torch.nan)
