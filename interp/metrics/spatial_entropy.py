"""How scattered the map is: entropy of its mass over connected components, in nats; 0 is one blob. No mask is used.

b = relu(a - mean(a)); its positive patches fall into 8-connected components C; p(C) = sum over C of b / sum of b;
S = - sum of p(C) log p(C). Localization heads (Kang et al., arXiv 2503.06287, section 3), after spatial entropy for
saliency maps (Peruzzo et al., arXiv 2206.04636).

The published code takes the same relu(S - mean). No fixed threshold is used here: it would depend on the grid's size.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import max_pool2d

from interp.metrics._region import has_shape, patches, undefined_to_nan

higher_is_better = False
raw = True
uses_mask = False
limits = (0.0, math.inf)


def score(
    maps: Float[Tensor, "phrase layer head row col"],
    masks: Float[Tensor, "phrase row col"],
    others: Float[Tensor, "phrase row col"],
) -> Float[Tensor, "phrase layer head"]:
    """Entropy in nats, 0 up to the log of the number of components; NaN for a constant map.

    >>> corners = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])[None, None, None]
    >>> round(score(corners, torch.ones(1, 3, 3), torch.ones(1, 3, 3)).item(), 3)  # two equal blobs: log 2
    0.693
    """
    a = patches(maps)
    # In units of the maximum: differences of raw attention from its mean must not vanish beside 1.
    mass = ((a - a.mean(-1, keepdim=True)) / a.abs().amax(-1, keepdim=True)).relu().nan_to_num()
    labels = components(mass.unflatten(-1, maps.shape[-2:]) > 0).flatten(-2)
    share = torch.zeros_like(torch.nn.functional.pad(mass, (1, 0))).scatter_add(-1, labels, mass)
    total = mass.sum(-1, keepdim=True)
    entropy = torch.special.entr(share / torch.where(total > 0, total, 1)).sum(-1).clamp(min=0.0)
    return undefined_to_nan(entropy, has_shape(a) & (total > 0)[..., 0])


def components(active: Bool[Tensor, "*axes row col"]) -> Int[Tensor, "*axes row col"]:
    """Number of each cell's 8-connected component: 0 where not active, else the largest cell number (from 1) in it.

    All maps at once: by SciPy where they lie in its memory, else on their device.
    """
    return _by_scipy(active) if active.device.type == "cpu" else spreading(active)


def _by_scipy(active: Bool[Tensor, "*axes row col"]) -> Int[Tensor, "*axes row col"]:
    """The maps lie on each other, and nothing joins one with the next."""
    from scipy import ndimage  # a second of its own

    rows, cols = active.shape[-2:]
    flat = active.reshape(-1, rows, cols).numpy()
    together = np.zeros((3, 3, 3), dtype=bool)
    together[1] = True
    labels, count = cast("tuple[np.ndarray, int]", ndimage.label(flat, together))
    largest = np.zeros(count + 1, dtype=np.int64)
    cells = np.arange(1, rows * cols + 1).reshape(rows, cols)
    largest[labels] = np.broadcast_to(cells, flat.shape)  # in order: the last cell of each label stays
    largest[0] = 0
    return torch.from_numpy(largest[labels]).view(active.shape)


def spreading(active: Bool[Tensor, "*axes row col"]) -> Int[Tensor, "*axes row col"]:
    """The same on any device: every cell takes the largest label around it, then the label of the cell that it names
    (which halves the remaining way), until nothing changes.
    """
    rows, cols = active.shape[-2:]
    cells = active.reshape(-1, 1, rows, cols)
    # Labels are at most the number of cells, which single precision holds exactly.
    labels = torch.arange(1, rows * cols + 1, device=active.device, dtype=torch.float32).view(1, 1, rows, cols) * cells
    while True:
        spread = max_pool2d(labels, 3, stride=1, padding=1) * cells if labels.numel() else labels
        flat = spread.flatten(1)
        named = flat.gather(1, (flat.long() - 1).clamp(min=0)).view_as(spread) * cells
        if torch.equal(named, labels):
            return labels.long().view(active.shape)
        labels = named


def chance(masks: Float[Tensor, "phrase row col"]) -> Float[Tensor, " phrase"]:
    """NaN: it says nothing about masks."""
    return torch.full(masks.shape[:1], torch.nan, device=masks.device)
