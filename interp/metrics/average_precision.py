"""Average precision of the map as a score for "this patch lies in the mask", 0..1.

AP = sum over distinct thresholds t, from high to low, of (R_t - R_t-1) P_t, with recall R and precision P of the
patches whose value is at least t: no interpolation, and patches of equal value come in together (the definition of
scikit-learn's ``average_precision_score``). M is the patches that the mask covers by half or more.
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
    """Average precision, 0..1; NaN if M has no patch and for a constant map.

    >>> a = torch.tensor([[0.1, 0.6], [0.2, 0.1]])[None, None, None]  # a phrase, a layer, a head, 2 x 2 patches
    >>> mask = torch.tensor([[0.0, 1.0], [0.0, 0.5]])[None]  # shares of the patches: M is the right column
    >>> round(score(a, mask, mask).item(), 3)  # found at places 1 and 4: (1/1 + 2/4) / 2
    0.75
    """
    a, inside = patches(maps), in_mask(masks)
    ranked = in_order(maps)
    hit = along(inside.to(a.dtype), ranked.order)
    precision = hit.cumsum(-1).gather(-1, ranked.ends) / (ranked.ends + 1)
    positives = inside.sum(-1)[:, None, None]
    return undefined_to_nan((hit * precision).sum(-1) / positives.clamp(min=1), has_shape(a) & (positives > 0))


def chance(masks: Float[Tensor, "phrase row col"]) -> Float[Tensor, " phrase"]:
    """Expected average precision of a random order; NaN if M has no patch.

    With n patches, m of them in M, and H_n = 1 + 1/2 + ... + 1/n: (H_n + (m - 1)(n - H_n)/(n - 1)) / n. It is a little
    above the prevalence m/n, which it approaches for many patches (Bestgen 2015, Bull. Math. Linguistics 103).

    >>> round(chance(torch.tensor([[[0.0, 1.0], [0.0, 0.5]]])).item(), 3)  # the mean over the 6 places of 2 patches
    0.681
    """
    inside = in_mask(masks)
    n, m = inside.shape[1], inside.sum(-1)
    harmonic = (1 / torch.arange(1, n + 1, dtype=torch.float64)).sum().item()
    expected = (harmonic + (m - 1) * (n - harmonic) / max(n - 1, 1)) / n
    return torch.where(m > 0, expected, torch.nan)
