"""IoU of the patches above a threshold with the mask, at the threshold that is best for this map and mask, 0..1.

max over t of |{a > t} and M| / |{a > t} or M|, t below the minimum included. M is the patches that the mask covers by
half or more. The threshold is chosen with the mask in hand, so this is an upper bound, not a segmentation result.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.metrics._region import along, has_shape, in_mask, in_order, patches, undefined_to_nan

higher_is_better = True
raw = False
uses_mask = True
limits = (0.0, 1.0)


def score(
    maps: Float[Tensor, "phrase layer head row col"],
    masks: Float[Tensor, "phrase row col"],
    others: Float[Tensor, "phrase row col"],
) -> Float[Tensor, "phrase layer head"]:
    """Best IoU, 0..1; NaN if M has no patch and for a constant map.

    >>> a = torch.tensor([[0.1, 0.6], [0.2, 0.1]])[None, None, None]  # a phrase, a layer, a head, 2 x 2 patches
    >>> mask = torch.tensor([[0.0, 1.0], [0.0, 0.5]])[None]  # shares of the patches: M is the right column
    >>> score(a, mask, mask).item()  # the highest patch alone: 1 of 2; all patches: 2 of 4
    0.5
    """
    a, inside = patches(maps), in_mask(masks)
    ranked = in_order(maps)
    common = along(inside.to(a.dtype), ranked.order).cumsum(-1)
    chosen = torch.arange(1, a.shape[-1] + 1, device=a.device, dtype=a.dtype)
    positives = inside.sum(-1)[:, None, None]
    iou = common / (chosen + positives[..., None] - common)
    # A threshold cannot part patches of equal value: only the last of each run counts.
    parted = torch.ones_like(ranked.values, dtype=torch.bool)
    parted[..., :-1] = ranked.values[..., :-1] > ranked.values[..., 1:]
    return undefined_to_nan(iou.masked_fill(~parted, 0).amax(-1), has_shape(a) & (positives > 0))


def chance(masks: Float[Tensor, "phrase row col"]) -> Float[Tensor, " phrase"]:
    """NaN: the expectation over random orders has no closed form; the shuffled-mask null stands in for it."""
    return torch.full(masks.shape[:1], torch.nan, device=masks.device)
