"""Maps and masks -> scores: every metric x every head x every phrase, on the phrase's own mask and on null masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.contracts import Metric
from interp.ranking.specificity import of_partners, specificity


class MetricScores(NamedTuple):
    """One metric: scores, mean score on null masks, specificity, and chance."""

    values: Float[np.ndarray, "phrase layer head"]
    null: Float[np.ndarray, "phrase layer head"]
    specificity: Float[np.ndarray, "phrase layer head"]
    chance: Float[np.ndarray, " phrase"]


def score_sample(
    raw: Float[Tensor, "phrase layer head row col"],
    normalised: Float[Tensor, "phrase layer head row col"],
    masks: Float[Tensor, "phrase row col"],
    others: Float[Tensor, "phrase row col"],
    null_masks: Float[Tensor, "phrase null row col"],
    partner: Int[np.ndarray, "phrase slot"],
    metrics: Mapping[str, Metric],
    elsewhere: Float[Tensor, "phrase layer head"] | None = None,
) -> dict[str, MetricScores]:
    """Every metric's scores for phrases that share a grid (of one sample, or of several).

    A metric gets the raw attention or the normalised maps, as it asks. ``null`` is its mean over the phrase's null
    masks where it is defined; NaN if it is defined on none, or if the metric does not use the mask. ``partner`` names
    each phrase's partners (`interp.ranking.specificity.partners`). ``elsewhere``: raw attention to the image's tokens
    outside the map, for metrics of all views. Masks go to the maps' device; the scores come back as numpy, in single
    precision.
    """
    masks, others, null_masks = (m.to(raw.device) for m in (masks, others, null_masks))
    crossed = of_partners(masks, partner)
    scores = {}
    for name, metric in metrics.items():
        maps = raw if metric.raw else normalised
        if metric.uses_mask:
            each = score_each(metric, maps, torch.cat([masks[:, None], crossed, null_masks], 1), others)
            values, cross, nulls = each.split([1, crossed.shape[1], null_masks.shape[1]], 1)
            values, null = (
                values[:, 0],
                nulls.nanmean(1) if nulls.shape[1] else torch.full_like(values[:, 0], torch.nan),
            )
            specific = specificity(metric, values, cross, partner)
        else:
            values = scored(metric, maps, masks, others, elsewhere)
            null = specific = torch.full_like(values, torch.nan)
        scores[name] = MetricScores(*(x.float().cpu().numpy() for x in (values, null, specific, metric.chance(masks))))
    return scores


def scored(
    metric: Metric,
    maps: Float[Tensor, "phrase layer head row col"],
    masks: Float[Tensor, "phrase row col"],
    others: Float[Tensor, "phrase row col"],
    elsewhere: Float[Tensor, "phrase layer head"] | None,
) -> Float[Tensor, "phrase layer head"]:
    """The metric's scores; one of all views gets what lies ``elsewhere`` as one more cell of one long row."""
    if elsewhere is None or not getattr(metric, "all_views", False):
        return metric.score(maps, masks, others)
    cells = torch.cat([maps.flatten(-2), elsewhere.to(maps)[..., None]], -1)
    masks, others = (torch.nn.functional.pad(m.flatten(-2), (0, 1))[:, None] for m in (masks, others))
    return metric.score(cells[..., None, :], masks, others)


def score_each(
    metric: Metric,
    maps: Float[Tensor, "phrase layer head row col"],
    masks: Float[Tensor, "phrase mask row col"],
    others: Float[Tensor, "phrase row col"],
) -> Float[Tensor, "phrase mask layer head"]:
    """The scores of several masks a phrase: at once if the metric can do that, else one after the other; then what
    depends on the maps alone is computed once all the same if the metric keeps it (`interp.metrics._region.in_order`).
    """
    if at_once := getattr(metric, "score_each", None):
        return at_once(maps, masks, others)
    return torch.stack([metric.score(maps, some, others) for some in masks.unbind(1)], 1)
