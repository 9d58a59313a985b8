"""IoU of the patches above the map's mean with the mask, 0..1.

|{a > mean(a)} and M| / |{a > mean(a)} or M|: the threshold at the mean is that of the localization-heads paper (Kang et
al., arXiv 2503.06287, section 4). M is the patches that the mask covers by half or more.
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
    """IoU, 0..1; NaN if M has no patch and for a constant map.

    >>> a = torch.tensor([[0.1, 0.6], [0.2, 0.1]])[None, None, None]  # a phrase, a layer, a head, 2 x 2 patches
    >>> mask = torch.tensor([[0.0, 1.0], [0.0, 0.5]])[None]  # shares of the patches: M is the right column
    >>> score(a, mask, mask).item()  # 0.6 alone lies above the mean of 0.25
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
    chosen = a > a.mean(-1, keepdim=True)
    common = within(chosen.float(), inside.float())
    either = chosen.sum(-1)[:, None] + inside.sum(-1)[..., None, None] - common
    return undefined_to_nan(
        (common / either.clamp(min=1)).to(a.dtype), has_shape(a)[:, None] & inside.any(-1)[..., None, None]
    )


def chance(masks: Float[Tensor, "phrase row col"]) -> Float[Tensor, " phrase"]:
    """NaN: it depends on how many patches lie above the mean, hence on the map; the shuffled-mask null stands in."""
    return torch.full(masks.shape[:1], torch.nan, device=masks.device)
