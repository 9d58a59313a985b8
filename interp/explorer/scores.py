"""What each head scores on each word of one image: with masks its specificity, without how it looks at the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float

from interp.answer.maps import coverage
from interp.answer.targets import match_targets, targets_named
from interp.contracts import Metric
from interp.explorer.shown import Recording
from interp.ranking.scoring import score_sample
from interp.ranking.scoring import scored as score
from interp.ranking.specificity import partners
from interp.types import PatchGrid, Phrase, Target


class Masks:
    """Which words name a thing, and the things' masks: what scores of words are measured on."""

    def __init__(self, phrases: Sequence[Phrase], targets: Sequence[Target], grid: PatchGrid):
        named = targets_named(phrases, targets)
        found = match_targets(phrases, targets)
        self.phrases = [i for i, _ in found]
        self.masks = {i: mask for i, mask in found}
        self.covered = coverage(np.stack([m for _, m in found]), grid) if found else torch.zeros(0, *grid.shape)
        words = [{"sample_id": "", "tokens": len(phrases[i].tokens), "targets": tuple(named[i])} for i in self.phrases]
        self.partners = partners(words)

    def __len__(self) -> int:
        return len(self.phrases)


def scored(
    recording: Recording, how: str, masks: Masks, metrics: Mapping[str, Metric]
) -> dict[str, Float[np.ndarray, "unit layer head"]]:
    """Scores by name, NaN where undefined: ``NAME`` of each metric, and ``specificity of NAME`` for those that use the
    mask. The first units are the phrases, in order; a metric that uses the mask is defined for those that name a thing.
    Without raw attention metrics that need it are left out.

    A single image is no evidence: these are the numbers behind its picture, not a ranking.
    """
    normalised, raw = recording.maps[how], recording.maps.get("none")
    usable = {name: metric for name, metric in metrics.items() if raw is not None or not metric.raw}
    given = normalised if raw is None else raw
    everything = torch.ones(len(given), *given.shape[3:])
    found: dict[str, np.ndarray] = {}
    for name, metric in usable.items():
        if not metric.uses_mask:
            maps = given if metric.raw else normalised
            found[name] = score(metric, maps, everything, everything, recording.elsewhere).float().cpu().numpy()
    with_mask = {name: metric for name, metric in usable.items() if metric.uses_mask}
    if len(masks) and with_mask:
        own = (given[masks.phrases], normalised[masks.phrases], masks.covered, torch.zeros_like(masks.covered))
        no_nulls = torch.zeros(len(masks), 0, *given.shape[3:])
        scores = score_sample(*own, no_nulls, masks.partners, with_mask)
        for part, before in (("specificity", "specificity of "), ("values", "")):
            for name, measured in scores.items():
                values = np.full(given.shape[:3], np.nan, dtype=np.float32)
                values[masks.phrases] = getattr(measured, part)
                found[before + name] = values
    return {name: values for name, values in found.items() if np.isfinite(values).any()}
