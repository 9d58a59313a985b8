"""Mean maps of several heads: all, the released code's, and the best ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from interp.answer.maps import reduce_heads
from interp.contracts import Metric
from interp.ranking.batch import Batch, Maps, Plan
from interp.ranking.scoring import MetricScores, score_sample
from interp.ranking.specificity import partners
from interp.types import Head

REDUCTIONS = {"paper": "all", "released": "released"}


def score_top(
    plan: Plan,
    batch: Batch,
    chosen: Mapping[str, tuple[list[Head], list[Head]]],
    sizes: Mapping[str, int],
    halves: Mapping[str, int],
) -> dict[str, MetricScores]:
    """Scores of the mean map of the best heads: per metric, the sizes in place of heads of one layer.

    ``chosen[metric][h]`` are the heads for images of half ``h``, best first; where there are none, NaN. ``halves``: the
    half of each image.
    """
    scores = {}
    for name, heads in chosen.items():
        parts = []
        for g in batch.groups:
            own = [batch.phrases[row] for row in g.rows]
            which = torch.tensor([halves[phrase["image_id"]] for phrase in own])
            heads_at = tuple([(batch.place(h.layer), h.head) for h in some] for some in heads)
            device = getattr(plan.lmm, "device", g.raw.device)
            raw, normalised = (_best(maps, which, heads_at, sizes).to(device) for maps in (g.raw, g.normalised))
            elsewhere = None if g.elsewhere is None else _best(g.elsewhere[..., None, None], which, heads_at, sizes)
            elsewhere = None if elsewhere is None else elsewhere[..., 0, 0].to(device)
            how = (g.masks, g.others, g.nulls, partners(own), {name: plan.metrics[name]}, elsewhere)
            parts.append(score_sample(raw, normalised, *how)[name])
        scores[name] = MetricScores(
            *(in_order(batch.groups, [getattr(p, part) for p in parts]) for part in MetricScores._fields)
        )
    return scores


def score_reductions(
    group: Maps, partner: Int[np.ndarray, "phrase slot"], metrics: Mapping[str, Metric]
) -> dict[str, MetricScores]:
    """Scores of the named reductions, as heads of one layer."""
    raw, normalised = (_reduce(maps) for maps in (group.raw, group.normalised))
    elsewhere = None if group.elsewhere is None else _reduce(group.elsewhere[..., None, None])[..., 0, 0]
    return score_sample(raw, normalised, group.masks, group.others, group.nulls, partner, metrics, elsewhere)


def _reduce(maps: Float[Tensor, "phrase layer head row col"]) -> Float[Tensor, "phrase 1 reduction row col"]:
    """The named reductions as heads of one layer; a model with one head a layer has no ``released`` ones: NaN."""
    reduced = [
        torch.full_like(maps[:, 0, 0], torch.nan)
        if heads == "released" and maps.shape[2] < 2
        else reduce_heads(maps, heads)
        for heads in REDUCTIONS.values()
    ]
    return torch.stack(reduced, 1)[:, None]


def _best(
    maps: Float[Tensor, "phrase layer head row col"],
    halves: Shaped[Tensor, " phrase"],
    chosen: Sequence[list[tuple[int, int]]],
    sizes: Mapping[str, int],
) -> Float[Tensor, "phrase 1 size row col"]:
    """``chosen``: places of the heads along the maps' axes, for each half."""
    best = maps.new_full((len(maps), 1, len(sizes), *maps.shape[-2:]), torch.nan)
    for own, heads in enumerate(chosen):
        rows = (halves == own).nonzero()[:, 0].to(maps.device)
        if not heads or not len(rows):
            continue
        layer, head = (torch.tensor(i, device=maps.device) for i in zip(*heads, strict=True))
        picked = maps[rows[:, None], layer, head]
        best[rows, 0] = torch.stack([picked[:, :k].mean(1) for k in sizes.values()], 1)
    return best


def in_order(groups: Sequence[Maps], parts: Sequence[np.ndarray]) -> np.ndarray:
    """The groups' rows, back in the order of the batch."""
    order = np.argsort([row for g in groups for row in g.rows], kind="stable")
    return np.concatenate(parts)[order]
