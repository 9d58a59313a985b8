"""One batch, measured: samples -> captured maps -> every metric for every head and phrase."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.answer.capturing import captures
from interp.answer.maps import coverage, phrase_maps
from interp.answer.nouns import words_of
from interp.answer.targets import match_targets, targets_named
from interp.ranking.batch import Maps, Plan, by_grid, pack_group
from interp.ranking.controls import other_images, sinks_of, without
from interp.ranking.reductions import in_order, score_reductions
from interp.ranking.scoring import MetricScores, score_sample
from interp.ranking.specificity import partners
from interp.statistics.nulls import stack
from interp.types import Capture, PatchGrid, Sample, Skip, Target
from interp.work.store import marked

AGAIN = "again"
"""The kind of a phrase that names what has been named before, where the data set says of what kind targets are."""

KNOWN = 4096
"""Samples whose masks on the patch grid are kept for the next checkpoint."""


class _LeftOut(Exception):
    """Why a sample has nothing to score."""


class _Prepared(NamedTuple):
    """A sample that can be scored: what is known of its phrases, their maps and masks, and their maps by rows."""

    about: list[dict[str, Any]]
    maps: Maps
    by_rows: dict[str, Float[Tensor, "phrase layer head row col"]]
    layers: tuple[int, ...]


def score_batch(plan: Plan, samples: Sequence[Sample | Skip], maps: bool = True) -> dict[str, np.ndarray]:
    """Plain arrays for the store: every metric for every phrase that names a target, and the maps in half precision
    unless ``maps`` is False."""
    losses: dict[str, float] = {}
    unmatched: list[str] = []
    skipped: list[tuple[str, str]] = []
    prepared: list[_Prepared] = []
    rows, layers = 0, tuple[int, ...]()
    for place, (sample, result) in enumerate(zip(samples, _captured(plan, samples), strict=True)):
        if isinstance(result, Capture) and result.logprobs is not None:
            losses[result.sample_id] = float(-result.logprobs.mean(dtype=np.float64))
        try:
            own = _prepare(plan, sample, result, rows, place, unmatched)
        except _LeftOut as reason:
            skipped.append((result.sample_id, str(reason)))
            continue
        rows += len(own.about)
        prepared.append(own)
        layers = own.layers
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
    about = {"phrases": phrases, "skipped": skipped, "groups": len(kept), "losses": losses, "unmatched": unmatched}
    about |= {"metrics": list(plan.metrics) if groups else [], "rows": list(found["rows"][0]) if groups else []}
    about |= {"layers": list(layers)}
    return marked(arrays | {"about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)}, bool(phrases))


def _compared(
    plan: Plan, scores: Mapping[str, MetricScores], partner: Int[np.ndarray, "phrase slot"]
) -> Int[np.ndarray, " phrase"]:
    """With how many partners each phrase is compared: not with a thing so small that its mask is undefined here."""
    masked = [scores[name].values for name, metric in plan.metrics.items() if metric.uses_mask]
    defined = np.zeros(len(partner), dtype=bool)
    for values in masked:
        defined |= np.isfinite(values).any((1, 2))
    return ((partner >= 0) & defined[partner] & defined[:, None]).sum(1)


def _captured(plan: Plan, samples: Sequence[Sample | Skip]) -> list[Capture | Skip]:
    """What the model attends to; under the control ``image``, in the image of another sample."""
    shown = other_images(list(samples)) if plan.control == "image" else samples
    return list(
        captures(
            plan.lmm,
            shown,
            answers=plan.answers,
            batch=len(samples),
            tokens="phrases",
            query=plan.query,
            weighting=plan.weighting,
            max_new_tokens=plan.max_new_tokens,
        )
    )


def _score_rows(plan: Plan, prepared: Sequence[_Prepared], group: Maps, partner: np.ndarray) -> dict[str, MetricScores]:
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


def _prepare(
    plan: Plan, sample: Sample | Skip, result: Capture | Skip, first: int, place: int, unmatched: list[str]
) -> _Prepared:
    """The sample's phrases that name a target, and their maps and masks on its grid. Phrases that name none are added
    to ``unmatched``.

    Raises:
        _LeftOut: it has none, or could not be captured; with the reason.
    """
    if isinstance(sample, Skip):
        raise _LeftOut(sample.reason)
    if isinstance(result, Skip):
        raise _LeftOut(result.reason)
    about, masks = _named(plan, sample, result, unmatched)
    index = [phrase.pop("index") for phrase in about]
    try:
        raw, normalised, elsewhere = _maps(plan, result, index, plan.rows)
        singly = dict[str, Tensor]()
        for kind in ("mean", "first", "last") if plan.by_rows else ():
            one_raw, one_normalised, _ = _maps(plan, result, index, kind)
            singly[kind] = one_raw if plan.metrics[plan.by_rows].raw else one_normalised
    except ValueError as error:
        raise _LeftOut(str(error)) from error
    on_grid, others, nulls = _masks(plan, sample, about, index, masks, result.grid)
    rows = list(range(first, first + len(about)))
    maps = Maps(rows, [place] * len(about), raw, normalised, on_grid, others, nulls, elsewhere)
    return _Prepared(about, maps, singly, result.layers)


def _named(
    plan: Plan, sample: Sample, result: Capture, unmatched: list[str]
) -> tuple[list[dict[str, Any]], Bool[np.ndarray, "phrase height width"]]:
    """What is known of each phrase that names a target, and the masks of what they name."""
    size = sample.image.shape[:2]
    wrong = [t for t in sample.targets if t.mask.shape != size]
    if wrong:
        raise _LeftOut(
            f"the mask of {wrong[0].phrase!r} is {wrong[0].mask.shape}, the image {size}; a mask has the image's pixels"
        )
    targets = targets_named(result.phrases, sample.targets)
    unmatched += [" ".join(words_of(p.text)) for p, some in zip(result.phrases, targets, strict=True) if not some]
    about, masks, said = [], [], dict[int, int]()
    for i, mask in match_targets(result.phrases, sample.targets):
        said |= {t: said.get(t, 0) + 1 for t in targets[i]}
        phrase, mention = result.phrases[i], max(said[t] for t in targets[i])
        named = [sample.targets[t] for t in targets[i]]
        if plan.mentions == "first" and mention > 1:
            continue
        known = {"text": phrase.text, "root": phrase.root, "tokens": len(phrase.tokens), "area": float(mask.mean())}
        place = {"sample_id": sample.id, "image_id": str(sample.image_id), "index": i}
        about.append({**place, **known, "targets": list(targets[i]), "mention": mention, "kind": _kind(named, mention)})
        masks.append(mask)
    if not about:
        phrases = ", ".join(repr(p.text) for p in result.phrases) or "none"
        there = ", ".join(repr(t.phrase) for t in sample.targets) or "none"
        raise _LeftOut(f"no phrase of the answer names a target (phrases: {phrases}; targets: {there})")
    return about, np.stack(masks)


def _kind(named: Sequence[Target], mention: int) -> str:
    """What told the phrase's targets before they were named: their kind, or ``again`` once they have been named."""
    kinds = dict.fromkeys(target.kind for target in named)
    if not any(kinds):
        return ""
    return AGAIN if mention > 1 else "/".join(kinds)


def _maps(plan: Plan, result: Capture, index: Sequence[int], rows: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Raw and normalised maps of some of the capture's phrases, on the model's device, and what lies elsewhere."""
    found = phrase_maps(result, "none", rows=rows)
    raw = normalised = found.maps[index]
    if plan.normalise != "none":
        normalised = phrase_maps(result, "answer", rows=rows).maps[index]
    if plan.control == "sinks":
        sinks = sinks_of(result.mean)
        raw, normalised = without(raw, sinks), without(normalised, sinks)
    device = getattr(plan.lmm, "device", raw.device)
    elsewhere = None if found.elsewhere is None else found.elsewhere[index].to(device)
    return raw.to(device), normalised.to(device), elsewhere


def _masks(
    plan: Plan,
    sample: Sample,
    about: Sequence[Mapping[str, Any]],
    index: Sequence[int],
    masks: Bool[np.ndarray, "phrase height width"],
    grid: PatchGrid,
) -> tuple[Tensor, Tensor, Tensor]:
    """On the grid: the phrases' masks, the usual places of things, and the null masks; from memory if known."""
    known = {} if plan.known is None else plan.known
    key, size = (sample.id, *index, *grid.shape, *grid.box), sample.image.shape[:2]
    image = str(sample.image_id)
    if key not in known:
        usual = plan.pool.usual_places(image, size, grid)
        nulls = [
            plan.pool.of_others(image, i, phrase["area"], size, grid, plan.nulls, plan.seed)
            for i, phrase in zip(index, about, strict=True)
        ]
        if len(known) >= KNOWN:
            known.clear()
        known[key] = coverage(masks, grid), usual.expand(len(index), -1, -1), stack(nulls, plan.nulls)
    return known[key]
