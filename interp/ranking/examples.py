"""Examples to look at: phrases drawn at random, with the mean map and the best heads' maps; and things that the text
has told before it says them, beside a caption of the same image that has not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.answer.capturing import captures
from interp.answer.maps import coverage, phrase_maps, reduce_heads
from interp.answer.targets import match_targets, targets_named
from interp.metrics._given import metric_of
from interp.plots.overlay import Row
from interp.ranking.asked import finder
from interp.ranking.scoring import scored
from interp.types import Capture, Head, Sample, Skip


def examples(
    lmm: Any,
    dataset: Iterable[Sample | Skip],
    sample_ids: Sequence[str],
    top: Sequence[Head],
    metric: Any,
    count: int,
    how: Any,
) -> list[Row]:
    """At most ``count`` rows, of as many images drawn at random among ``sample_ids``: hits and misses as they come.

    ``how`` holds the run's arguments: ``seed answers query weighting normalise batch``, and may name ``words``
    (`interp.ranking.asked`). Under each map stands its
    score.
    """
    rng = np.random.default_rng(how["seed"])
    samples = drawn(dataset, sample_ids, count, rng)
    results = captures(
        lmm,
        samples,
        answers=how["answers"],
        batch=how["batch"],
        query=how["query"],
        weighting=how["weighting"],
        phrases=finder(how.get("words")),
    )
    rows = []
    for sample, result in zip(samples, results, strict=True):
        if isinstance(result, Capture):
            found = match_targets(result.phrases, sample.targets)
            if found:
                which, mask = found[int(rng.integers(len(found)))]
                rows.append(_row(sample, result, which, np.asarray(mask), top, metric, how["normalise"]))
    return rows


def told(
    lmm: Any,
    dataset: Iterable[Sample | Skip],
    sample_ids: Sequence[str],
    kind: str,
    heads: Sequence[Head],
    images: int,
    how: Any,
) -> list[Row]:
    """Two rows an image, of the first ``images`` that have them: two of its things that one caption tells before it
    says them, by ``kind`` (`interp.types.Target`), and another, free one, says untold.

    Maps are of the first token's row, which has not read the word, of each of the heads: told, and not told.
    ``how`` as for `examples`. The samples of an image stand together.
    """
    wanted, rows = set(sample_ids), list[Row]()
    those = (s for s in dataset if isinstance(s, Sample) and s.id in wanted)
    for _, some in groupby(those, key=lambda sample: sample.image_id):
        captions = list(some)
        bound = max(captions, key=lambda sample: _amount(sample, kind))
        untold = [sample for sample in captions if all(target.kind == "free" for target in sample.targets)]
        if untold and _amount(bound, kind) > 1:
            free = max(untold, key=lambda sample: len(sample.targets))
            rows += _beside(lmm, bound, free, kind, heads, how)
        if len(rows) >= 2 * images:
            break
    return rows


def _amount(sample: Sample, kind: str) -> int:
    return sum(target.kind == kind for target in sample.targets)


def _beside(lmm: Any, bound: Sample, free: Sample, kind: str, heads: Sequence[Head], how: Any) -> list[Row]:
    """Rows of two things that both captions say once; none if there are not two."""
    read = {key: how[key] for key in ("answers", "batch", "query", "weighting")}
    results = captures(lmm, [bound, free], phrases=finder(how.get("words")), **read)
    both = [r for r in results if isinstance(r, Capture)]
    if len(both) < 2:
        return []
    places = [_first_named(c, s) for c, s in zip(both, (bound, free), strict=True)]
    things = {target.phrase: target for target in bound.targets if target.kind == kind}
    shared = [name for name in places[0] if name in places[1] and name in things][:2]
    maps = [phrase_maps(c, how["normalise"], rows="first") for c in both]
    rows = []
    for name in shared if len(shared) == 2 else ():
        own = {
            f"{head}, {said}": reduce_heads(m.maps[[at[name]]], [head], layers=m.layers)[0].float().cpu().numpy()
            for head in heads
            for m, at, said in zip(maps, places, ("told", "not told"), strict=True)
        }
        rows.append(Row(bound.image, both[0].phrases[places[0][name]].text, both[0].grid, own, things[name].mask))
    return rows


def _first_named(capture: Capture, sample: Sample) -> dict[str, int]:
    """Name of a target -> the first phrase that names it and no other. Samples of one image may have other targets."""
    found: dict[str, int] = {}
    for i, some in enumerate(targets_named(capture.phrases, sample.targets)):
        if len(some) == 1:
            found.setdefault(sample.targets[some[0]].phrase, i)
    return found


def drawn(
    dataset: Iterable[Sample | Skip], sample_ids: Sequence[str], count: int, rng: np.random.Generator
) -> list[Sample]:
    """At most ``count`` samples drawn at random among ``sample_ids``, in the data set's order."""
    there = sorted(set(sample_ids))
    chosen = {there[i] for i in rng.permutation(len(there))[:count]}
    return [sample for sample in dataset if isinstance(sample, Sample) and sample.id in chosen]


def _row(
    sample: Sample, capture: Capture, which: int, mask: np.ndarray, top: Sequence[Head], given: Any, normalise: str
) -> Row:
    metric, scorer = metric_of(given)
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
