"""One batch of a ranking: samples -> captured maps -> scores, and its form in the store (plain arrays)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from interp.capturing import captures
from interp.contracts import Metric
from interp.maps import coverage, phrase_maps, reduce_heads
from interp.nulls import MaskPool, half, stack
from interp.phrases import match_targets
from interp.scoring import MetricScores, score_sample
from interp.types import Capture, Head, Query, Sample, Skip, Weighting

REDUCTIONS = {"paper": "all", "released": "released"}
KNOWN = 4096
"""Samples whose masks on the patch grid are kept for the next checkpoint."""


@dataclass(frozen=True)
class Plan:
    """What all batches of a run have in common. ``known`` keeps masks on patch grids for a data set that is scored
    again and again; None keeps none."""

    lmm: Any
    metrics: Mapping[str, Metric]
    pool: MaskPool
    answers: Literal["reference", "generated"]
    normalise: Literal["answer", "none"]
    query: Query
    seed: int
    nulls: int
    max_new_tokens: int
    weighting: Weighting = "attention"
    known: dict[tuple[Any, ...], tuple[Tensor, Tensor, Tensor]] | None = None


@dataclass(frozen=True)
class Maps:
    """Phrases that share a grid: their maps and masks. ``rows`` and ``samples`` are their places in the batch."""

    rows: list[int]
    samples: list[int]
    raw: Float[Tensor, "phrase layer head row col"]
    normalised: Float[Tensor, "phrase layer head row col"]
    masks: Float[Tensor, "phrase row col"]
    others: Float[Tensor, "phrase row col"]
    nulls: Float[Tensor, "phrase null row col"]


@dataclass(frozen=True)
class Batch:
    """A batch that has been scored. ``phrases``: sample_id, text, root, tokens and area of each; ``losses``: sample id
    -> mean -log p of its answer's tokens, in nats."""

    phrases: list[dict[str, Any]]
    skipped: list[Skip]
    scores: dict[str, MetricScores]
    reduced: dict[str, MetricScores]
    groups: list[Maps]
    losses: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.phrases)

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], maps: bool = True) -> Batch:
        """The batch from what the store holds; without its maps if they are not needed."""
        about = json.loads(bytes(arrays["about"]).decode())
        scores, reduced = (
            {
                name: MetricScores(*(arrays[f"{kind}.{name}.{part}"] for part in MetricScores._fields))
                for name in about["metrics"]
            }
            for kind in ("heads", "reduced")
        )
        groups = [_unpack_group(arrays, g) for g in range(about["groups"])] if maps else []
        skipped = [Skip(*s) for s in about["skipped"]]
        return cls(about["phrases"], skipped, scores, reduced, groups, about.get("losses", {}))


def score_batch(plan: Plan, samples: Sequence[Sample | Skip], maps: bool = True) -> dict[str, np.ndarray]:
    """Plain arrays for the store: every metric for every phrase that names a target, and the maps in half precision
    unless ``maps`` is False."""
    phrases: list[dict[str, Any]] = []
    losses: dict[str, float] = {}
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
            about, own = _prepare(plan, sample, result, len(phrases), place)
        except _LeftOut as reason:
            skipped.append((result.sample_id, str(reason)))
            continue
        phrases += about
        prepared.append(own)
    groups = _by_grid(prepared)
    scored = [score_sample(g.raw, g.normalised, g.masks, g.others, g.nulls, plan.metrics) for g in groups]
    reduced = [_score_reductions(g, plan.metrics) for g in groups]
    arrays = {}
    for kind, parts in (("heads", scored), ("reduced", reduced)):
        for name in plan.metrics if groups else ():
            for part in MetricScores._fields:
                arrays[f"{kind}.{name}.{part}"] = _in_order(groups, [getattr(s[name], part) for s in parts])
    kept = groups if maps else []
    for i, group in enumerate(kept):
        arrays |= _pack_group(group, i)
    metrics = list(plan.metrics) if groups else []
    about = {"phrases": phrases, "skipped": skipped, "metrics": metrics, "groups": len(kept), "losses": losses}
    return arrays | {"about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)}


def score_top(
    plan: Plan, batch: Batch, chosen: Mapping[str, tuple[list[Head], list[Head]]], sizes: Mapping[str, int]
) -> dict[str, MetricScores]:
    """Scores of the mean map of the best heads: per metric, the sizes in place of heads of one layer.

    ``chosen[metric][h]`` are the heads for images of half ``h``, best first; where there are none, NaN.
    """
    scores = {}
    for name, heads in chosen.items():
        parts = []
        for g in batch.groups:
            halves = torch.tensor([half(plan.seed, batch.phrases[row]["sample_id"]) for row in g.rows])
            raw, normalised = (_best(maps, halves, heads, sizes) for maps in (g.raw, g.normalised))
            parts.append(score_sample(raw, normalised, g.masks, g.others, g.nulls, {name: plan.metrics[name]})[name])
        scores[name] = MetricScores(
            *(_in_order(batch.groups, [getattr(p, part) for p in parts]) for part in MetricScores._fields)
        )
    return scores


class _LeftOut(Exception):
    """Why a sample has nothing to score."""


def _prepare(
    plan: Plan, sample: Sample | Skip, result: Capture | Skip, first: int, place: int
) -> tuple[list[dict[str, Any]], Maps]:
    """What is known of the sample's phrases, and their maps and masks on its grid."""
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


def _score_reductions(group: Maps, metrics: Mapping[str, Metric]) -> dict[str, MetricScores]:
    raw, normalised = (_reduce(maps) for maps in (group.raw, group.normalised))
    return score_sample(raw, normalised, group.masks, group.others, group.nulls, metrics)


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
    chosen: tuple[list[Head], list[Head]],
    sizes: Mapping[str, int],
) -> Float[Tensor, "phrase 1 size row col"]:
    best = maps.new_full((len(maps), 1, len(sizes), *maps.shape[-2:]), torch.nan)
    for own, heads in enumerate(chosen):
        rows = (halves == own).nonzero()[:, 0].to(maps.device)
        if not heads or not len(rows):
            continue
        layer, head = (torch.tensor(i, device=maps.device) for i in zip(*heads, strict=True))
        picked = maps[rows][:, layer, head]
        best[rows, 0] = torch.stack([picked[:, :k].mean(1) for k in sizes.values()], 1)
    return best


def _in_order(groups: Sequence[Maps], parts: Sequence[np.ndarray]) -> np.ndarray:
    """The groups' rows, back in the order of the batch."""
    order = np.argsort([row for g in groups for row in g.rows], kind="stable")
    return np.concatenate(parts)[order]


def _pack_group(group: Maps, i: int) -> dict[str, np.ndarray]:
    """The group as arrays. Maps are in half precision; what was subtracted from a sample's maps is kept once, so that
    the raw ones can be had back."""
    arrays = {"rows": np.array(group.rows, dtype=np.int64), "samples": np.array(group.samples, dtype=np.int64)}
    for name in ("masks", "others", "nulls"):
        arrays[name] = getattr(group, name).cpu().numpy()
    arrays |= _halved("maps", group.normalised)
    first = np.unique(group.samples, return_index=True)[1].tolist()
    offset = group.raw[first] - group.normalised[first]
    if offset.count_nonzero():
        arrays |= _halved("offset", offset)
    return {f"group{i}.{name}": array for name, array in arrays.items()}


def _halved(name: str, maps: Float[Tensor, "phrase layer head row col"]) -> dict[str, np.ndarray]:
    """Half precision in units of each map's maximum: attention of 1e-5 would else lose its digits."""
    unit = maps.abs().amax((-1, -2), keepdim=True)
    unit = torch.where(unit > 0, unit, 1.0)
    return {name: (maps / unit).half().cpu().numpy(), f"{name}_unit": unit.cpu().numpy()}


def _unpack_group(arrays: Mapping[str, np.ndarray], i: int) -> Maps:
    def of(name: str) -> Tensor:
        return torch.from_numpy(arrays[f"group{i}.{name}"])

    rows, samples = of("rows").tolist(), of("samples").tolist()
    normalised = raw = of("maps").float() * of("maps_unit")
    if f"group{i}.offset" in arrays:
        place = np.unique(samples, return_inverse=True)[1]
        raw = (normalised + (of("offset").float() * of("offset_unit"))[place]).clamp(min=0)
    return Maps(rows, samples, raw, normalised, of("masks"), of("others"), of("nulls"))
