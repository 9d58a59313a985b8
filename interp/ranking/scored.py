"""Prepared maps and masks of a batch -> every metric for every head and phrase, as plain arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.ranking.batch import Maps, Plan, by_grid, pack_group
from interp.ranking.reductions import in_order, score_reductions
from interp.ranking.scoring import MetricScores, score_sample
from interp.ranking.specificity import partners


class Prepared(NamedTuple):
    """A sample that can be scored: what is known of its phrases, their maps and masks, and their maps by rows."""

    about: list[dict[str, Any]]
    maps: Maps
    by_rows: dict[str, Float[Tensor, "phrase layer head row col"]]
    layers: tuple[int, ...]


def score_prepared(plan: Plan, prepared: Sequence[Prepared], maps: bool = True, **about: Any) -> dict[str, np.ndarray]:
    """Plain arrays for the store: every metric for every phrase, and the maps in half precision unless ``maps`` is
    False. ``about``: the rest of what `interp.ranking.batch.Batch` knows: ``skipped losses unmatched layers``."""
    phrases = [about for own in prepared for about in own.about]
    groups = by_grid([own.maps for own in prepared])
    pairs = [partners([phrases[row] for row in g.rows]) for g in groups]
    found = {
        "heads": [
            score_sample(g.raw, g.normalised, g.masks, g.others, g.nulls, p, plan.metrics, g.elsewhere)
            for g, p in zip(groups, pairs, strict=True)
        ],
        "reduced": [score_reductions(g, p, plan.metrics) for g, p in zip(groups, pairs, strict=True)],
        "rows": [_score_rows(plan, prepared, g, p) for g, p in zip(groups, pairs, strict=True)],
    }
    for group, partner, scores in zip(groups, pairs, found["heads"], strict=True):
        for row, count in zip(group.rows, _compared(plan, scores, partner).tolist(), strict=True):
            phrases[row]["partners"] = count
    arrays = {
        f"{kind}.{name}.{part}": in_order(groups, [getattr(scores[name], part) for scores in each])
        for kind, each in found.items()
        for name in (each[0] if each else ())
        for part in MetricScores._fields
    }
    kept = groups if maps else []
    for i, group in enumerate(kept):
        arrays |= pack_group(group, i)
    known = {"phrases": phrases, "groups": len(kept), **about}
    known |= {"metrics": list(plan.metrics) if groups else [], "rows": list(found["rows"][0]) if groups else []}
    return arrays | {"about": np.frombuffer(json.dumps(known).encode(), dtype=np.uint8)}


def _compared(
    plan: Plan, scores: Mapping[str, MetricScores], partner: Int[np.ndarray, "phrase slot"]
) -> Int[np.ndarray, " phrase"]:
    """With how many partners each phrase is compared: not with a thing so small that its mask is undefined here."""
    masked = [scores[name].values for name, metric in plan.metrics.items() if metric.uses_mask]
    defined = np.zeros(len(partner), dtype=bool)
    for values in masked:
        defined |= np.isfinite(values).any((1, 2))
    return ((partner >= 0) & defined[partner] & defined[:, None]).sum(1)


def _score_rows(plan: Plan, prepared: Sequence[Prepared], group: Maps, partner: np.ndarray) -> dict[str, MetricScores]:
    """Scores of ``plan.by_rows`` on the mean, first and last row of each word of the group; nothing if it is empty."""
    if not plan.by_rows:
        return {}
    metric = {plan.by_rows: plan.metrics[plan.by_rows]}
    own = [p for p in prepared if p.maps.rows[0] in set(group.rows)]
    found = {}
    for rows in own[0].by_rows:
        maps = torch.cat([p.by_rows[rows] for p in own])
        found[rows] = score_sample(maps, maps, group.masks, group.others, group.nulls, partner, metric)[plan.by_rows]
    return found
