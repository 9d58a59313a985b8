"""Examples for the gallery: phrases drawn at random, with the mean map and the best heads' maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from interp import plugins
from interp.answer.capturing import captures
from interp.answer.maps import coverage, phrase_maps, reduce_heads
from interp.answer.targets import match_targets
from interp.contracts import Metric
from interp.plots.overlay import Row
from interp.ranking.scoring import scored
from interp.types import Capture, Head, Sample, Skip


def examples(
    lmm: Any,
    dataset: Iterable[Sample | Skip],
    sample_ids: Sequence[str],
    top: Sequence[Head],
    metric: str,
    count: int,
    how: Any,
) -> list[Row]:
    """At most ``count`` rows, of as many images drawn at random among ``sample_ids``: hits and misses as they come.

    ``how`` holds the run's arguments: ``seed answers query weighting normalise batch``. Under each map stands its
    score.
    """
    rng = np.random.default_rng(how["seed"])
    there = sorted(set(sample_ids))
    drawn = {there[i] for i in rng.permutation(len(there))[:count]}
    samples = [sample for sample in dataset if isinstance(sample, Sample) and sample.id in drawn]
    results = captures(
        lmm, samples, answers=how["answers"], batch=how["batch"], query=how["query"], weighting=how["weighting"]
    )
    rows = []
    for sample, result in zip(samples, results, strict=True):
        if isinstance(result, Capture):
            found = match_targets(result.phrases, sample.targets)
            if found:
                which, mask = found[int(rng.integers(len(found)))]
                rows.append(_row(sample, result, which, np.asarray(mask), top, metric, how["normalise"]))
    return rows


def _row(
    sample: Sample, capture: Capture, which: int, mask: np.ndarray, top: Sequence[Head], metric: str, normalise: str
) -> Row:
    scorer = cast(Metric, plugins.get("metrics", metric))
    found = phrase_maps(capture, "none" if scorer.raw else normalise)
    choices: dict[str, Any] = {"mean of all heads": "all"}
    if len(top) > 1:
        choices[f"mean of best {len(top)}"] = list(top)
    choices |= {str(head): [head] for head in top}

    def reduced(x: Tensor) -> Tensor:
        own = x[which : which + 1]
        return torch.stack([reduce_heads(own, heads, layers=found.layers)[0] for heads in choices.values()]).cpu()

    stacked = reduced(found.maps)
    shown = dict(zip(choices, stacked, strict=True))
    elsewhere = None if found.elsewhere is None else reduced(found.elsewhere[..., None, None])[None, None, :, 0, 0]
    covered = coverage(mask[None], capture.grid)
    values = scored(scorer, stacked[None, None], covered, torch.zeros_like(covered), elsewhere)[0, 0].tolist()
    name = metric.replace("_", " ")
    if metric == "auc_shuffled":  # it compares with the masks of many images, and here is one
        values = []
    notes = {
        title: f"{name}: {value:.2g}" if np.isfinite(value) else f"{name}: undefined"
        for title, value in zip(shown, values, strict=False)
    }
    return Row(
        image=sample.image,
        phrase=capture.phrases[which].text,
        grid=capture.grid,
        maps={title: m.float().cpu().numpy() for title, m in shown.items()},
        mask=mask,
        notes=notes,
    )
