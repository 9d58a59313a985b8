"""Share of the row's attention that goes to the image: sum of a over all of its tokens, 0..1.

Patches of its other views (thumbnail, crops) and tokens without a place count as those of the main view do.

Says how much a head looks at the image at all, not where; no mask is used. Defined for every map, a constant one too.
Of value-weighted maps it is the sum of attention times norm, which is no share and has no upper limit.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.metrics._region import patches, require_attention

higher_is_better = True
raw = True
uses_mask = False
all_views = True
limits = (0.0, 1.0)


def score(
    maps: Float[Tensor, "phrase layer head row col"],
    masks: Float[Tensor, "phrase row col"],
    others: Float[Tensor, "phrase row col"],
) -> Float[Tensor, "phrase layer head"]:
    """Sum of the map, 0..1 for attention; NaN where the map holds NaN.

    Raises:
        ValueError: maps with negative values.

    >>> a = torch.tensor([[0.1, 0.6], [0.2, 0.1]])[None, None, None]  # a phrase, a layer, a head, 2 x 2 patches
    >>> mask = torch.tensor([[0.0, 1.0], [0.0, 0.5]])[None]  # shares of the patches: M is the right column
    >>> round(score(a / 2, mask, mask).item(), 3)
    0.5
    """
    require_attention(maps, "image_mass")
    return patches(maps).sum(-1)


def chance(masks: Float[Tensor, "phrase row col"]) -> Float[Tensor, " phrase"]:
    """NaN: how much attention the image gets by chance depends on the prompt's length, not on the mask."""
    return torch.full(masks.shape[:1], torch.nan, device=masks.device)
