"""One batch, measured: samples -> captured maps -> every metric for every head and phrase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from interp.answer.capturing import captures
from interp.answer.maps import coverage, less_mean, phrase_maps
from interp.answer.nouns import words_of
from interp.answer.targets import match_targets, targets_named
from interp.ranking.batch import Maps, Plan
from interp.ranking.controls import other_images, sinks_of, without
from interp.ranking.scored import Prepared, score_prepared
from interp.statistics.nulls import stack
from interp.types import Capture, PatchGrid, Sample, Skip, Target
from interp.work.store import marked

AGAIN = "again"
"""The kind of a phrase that names what has been named before, where the data set says of what kind targets are."""

KNOWN = 4096
"""Samples whose masks on the patch grid are kept for the next checkpoint."""


class _LeftOut(Exception):
    """Why a sample has nothing to score."""


def score_batch(plan: Plan, samples: Sequence[Sample | Skip], maps: bool = True) -> dict[str, np.ndarray]:
    """Plain arrays for the store: every metric for every phrase that names a target, and the maps in half precision
    unless ``maps`` is False."""
    losses: dict[str, float] = {}
    unmatched: list[str] = []
    skipped: list[tuple[str, str]] = []
    prepared: list[Prepared] = []
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
    known = {"skipped": skipped, "losses": losses, "unmatched": unmatched, "layers": list(layers)}
    return marked(score_prepared(plan, prepared, maps, **known), bool(prepared))


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
            phrases=plan.phrases,
            on_device=True,
        )
    )


def _prepare(
    plan: Plan, sample: Sample | Skip, result: Capture | Skip, first: int, place: int, unmatched: list[str]
) -> Prepared:
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
    return Prepared(about, maps, singly, result.layers)


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
    found = phrase_maps(replace(result, phrases=tuple(result.phrases[i] for i in index)), "none", rows=rows)
    raw = normalised = found.maps
    if plan.normalise != "none":
        normalised = less_mean(raw, result)
    if plan.control == "sinks":
        sinks = sinks_of(result.mean)
        raw, normalised = without(raw, sinks), without(normalised, sinks)
    device = getattr(plan.lmm, "device", raw.device)
    elsewhere = None if found.elsewhere is None else found.elsewhere.to(device)
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
