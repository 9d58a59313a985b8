"""Maps and masks -> scores: every metric x every head x every phrase, on the phrase's own mask and on null masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.contracts import Metric
from interp.ranking.specificity import specificity


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
    scores = {}
    for name, metric in metrics.items():
        maps = raw if metric.raw else normalised
        values = scored(metric, maps, masks, others, elsewhere)
        null = specific = torch.full_like(values, torch.nan)
        if metric.uses_mask:
            null = _null(metric, maps, others, null_masks)
            specific = specificity(metric, maps, values, masks, others, partner)
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


def _null(
    metric: Metric,
    maps: Float[Tensor, "phrase layer head row col"],
    others: Float[Tensor, "phrase row col"],
    null_masks: Float[Tensor, "phrase null row col"],
) -> Float[Tensor, "phrase layer head"]:
    """Mean score over the null masks, one at a time: what depends on the maps alone is computed once (`in_order`)."""
    parts = [metric.score(maps, some, others) for some in null_masks.unbind(1)]
    return torch.stack(parts, 1).nanmean(1) if parts else maps.new_full(maps.shape[:3], torch.nan)
