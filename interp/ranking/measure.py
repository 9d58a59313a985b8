"""One batch, measured: samples -> captured maps -> every metric for every head and phrase."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from interp.answer.capturing import captures
from interp.answer.maps import coverage, phrase_maps
from interp.answer.nouns import words_of
from interp.answer.targets import match_targets
from interp.ranking.batch import Maps, Plan, pack_group
from interp.ranking.reductions import in_order, score_reductions
from interp.ranking.scoring import MetricScores, score_sample
from interp.statistics.nulls import stack
from interp.types import Capture, Sample, Skip

KNOWN = 4096
"""Samples whose masks on the patch grid are kept for the next checkpoint."""


def score_batch(plan: Plan, samples: Sequence[Sample | Skip], maps: bool = True) -> dict[str, np.ndarray]:
    """Plain arrays for the store: every metric for every phrase that names a target, and the maps in half precision
    unless ``maps`` is False."""
    phrases: list[dict[str, Any]] = []
    losses: dict[str, float] = {}
    unmatched: list[str] = []
    skipped, prepared = [], []
    results = captures(
        plan.lmm,
        samples,
        answers=plan.answers,
        batch=len(samples),
        tokens="phrases",
        query=plan.query,
        weighting=plan.weighting,
        max_new_tokens=plan.max_new_tokens,
    )
    for place, (sample, result) in enumerate(zip(samples, results, strict=True)):
        if isinstance(result, Capture) and result.logprobs is not None:
            losses[result.sample_id] = float(-result.logprobs.mean(dtype=np.float64))
        try:
            about, own = _prepare(plan, sample, result, len(phrases), place, unmatched)
        except _LeftOut as reason:
            skipped.append((result.sample_id, str(reason)))
            continue
        phrases += about
        prepared.append(own)
    groups = _by_grid(prepared)
    scored = [score_sample(g.raw, g.normalised, g.masks, g.others, g.nulls, plan.metrics) for g in groups]
    reduced = [score_reductions(g, plan.metrics) for g in groups]
    arrays = {}
    for kind, parts in (("heads", scored), ("reduced", reduced)):
        for name in plan.metrics if groups else ():
            for part in MetricScores._fields:
                arrays[f"{kind}.{name}.{part}"] = in_order(groups, [getattr(s[name], part) for s in parts])
    kept = groups if maps else []
    for i, group in enumerate(kept):
        arrays |= pack_group(group, i)
    metrics = list(plan.metrics) if groups else []
    about = {"phrases": phrases, "skipped": skipped, "metrics": metrics, "groups": len(kept), "losses": losses}
    about["unmatched"] = unmatched
    return arrays | {"about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)}


class _LeftOut(Exception):
    """Why a sample has nothing to score."""


def _prepare(
    plan: Plan, sample: Sample | Skip, result: Capture | Skip, first: int, place: int, unmatched: list[str]
) -> tuple[list[dict[str, Any]], Maps]:
    """What is known of the sample's phrases, and their maps and masks on its grid. Phrases that name no target are
    added to ``unmatched``."""
    if isinstance(sample, Skip):
        raise _LeftOut(sample.reason)
    if isinstance(result, Skip):
        raise _LeftOut(result.reason)
    size = sample.image.shape[:2]
    wrong = [t for t in sample.targets if t.mask.shape != size]
    if wrong:
        raise _LeftOut(
            f"the mask of {wrong[0].phrase!r} is {wrong[0].mask.shape}, the image {size}; a mask has the image's pixels"
        )
    matched = match_targets(result.phrases, sample.targets)
    named = {i for i, _ in matched}
    unmatched += [" ".join(words_of(p.text)) for i, p in enumerate(result.phrases) if i not in named]
    if not matched:
        said = ", ".join(repr(p.text) for p in result.phrases) or "none"
        there = ", ".join(repr(t.phrase) for t in sample.targets) or "none"
        raise _LeftOut(f"no phrase of the answer names a target (phrases: {said}; targets: {there})")
    index, masks = [i for i, _ in matched], np.stack([m for _, m in matched])
    try:
        raw = phrase_maps(result, "none").maps[index]
        normalised = raw if plan.normalise == "none" else phrase_maps(result, "answer").maps[index]
    except ValueError as error:
        raise _LeftOut(str(error)) from error
    about = [
        {
            "sample_id": sample.id,
            "text": result.phrases[i].text,
            "root": result.phrases[i].root,
            "tokens": len(result.phrases[i].tokens),
            "area": float(mask.mean()),
        }
        for i, mask in matched
    ]
    known = {} if plan.known is None else plan.known
    key = (sample.id, *index, *result.grid.shape, *result.grid.box)
    if key not in known:
        usual = plan.pool.usual_places(sample.id, size, result.grid)
        nulls = [
            plan.pool.of_others(sample.id, i, a["area"], size, result.grid, plan.nulls, plan.seed)
            for i, a in zip(index, about, strict=True)
        ]
        if len(known) >= KNOWN:
            known.clear()
        others = usual.expand(len(index), -1, -1)
        known[key] = coverage(masks, result.grid), others, stack(nulls, plan.nulls)
    on_grid, others, null_masks = known[key]
    device = getattr(plan.lmm, "device", raw.device)
    return about, Maps(
        rows=list(range(first, first + len(index))),
        samples=[place] * len(index),
        raw=raw.to(device),
        normalised=normalised.to(device),
        masks=on_grid,
        others=others,
        nulls=null_masks,
    )


def _by_grid(prepared: Sequence[Maps]) -> list[Maps]:
    """The samples' maps, joined where their grids have one shape."""
    groups: dict[tuple[int, ...], list[Maps]] = {}
    for maps in prepared:
        groups.setdefault(tuple(maps.masks.shape[1:]), []).append(maps)
    return [
        Maps(
            rows=[row for m in some for row in m.rows],
            samples=[place for m in some for place in m.samples],
            raw=torch.cat([m.raw for m in some]),
            normalised=torch.cat([m.normalised for m in some]),
            masks=torch.cat([m.masks for m in some]),
            others=torch.cat([m.others for m in some]),
            nulls=torch.cat([m.nulls for m in some]),
        )
        for some in groups.values()
    ]
