"""One batch of effects: what happens to each word when each unit of heads, or each of its edges, is taken away.

Copies of a sample, each with its own unit, go through the upper layers as one batch (`interp.causation.upper_layers`).
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.attention.ablation import ablate
from interp.attention.edges import knockout
from interp.attention.record import record
from interp.causation.own_answers import named
from interp.causation.reading import Reading
from interp.causation.setting import How, Measured, edges_of, of_sample, padded
from interp.causation.subjects import Group
from interp.causation.units import Unit
from interp.causation.upper_layers import Resumable
from interp.models._lmm import evaluating
from interp.ranking.scoring import scored


class _Copy(NamedTuple):
    unit: int
    sample: int
    subjects: tuple[int, ...]


class _Seen(NamedTuple):
    """Of one copy's subjects."""

    logprob: np.ndarray  # [subject]
    rank: np.ndarray  # [subject]
    grounding: np.ndarray  # [subject layer head], layers above the one that was resumed from


def measure(reading: Reading, units: Sequence[Unit], how: How) -> tuple[Measured, Measured, np.ndarray]:
    """The plain model's measures, each unit's harm, and how many patches are knocked out for each subject (0 for
    ablations)."""
    group, resumable = reading.group, reading.resumable
    with evaluating(reading.lmm.model):
        plain, sinks = reading.once((id(how.metric), how.weighting), lambda: _plain(group, resumable, how))
        edges = [edges_of(s, group, how, sinks) for s in group.subjects]
        found = _taken_away(group, resumable, units, how, edges, plain)
        before = np.full(len(group.subjects), np.nan)
        if how.generate:
            before, after = named(reading, units, how, edges)
            found = found._replace(named=before - after)
    first = Measured(plain.logprob, plain.rank, _mean(plain.grounding), before)
    return first, found, np.array([len(e) for e in edges])


def _plain(group: Group, resumable: Resumable, how: How) -> tuple[_Seen, Float[Tensor, "sample key"]]:
    """The measures of all subjects in the plain model, and the mean attention to each patch over answer and heads."""
    copies = [_Copy(0, b, of_sample(group, b)) for b in range(len(group.samples))]
    samples = torch.arange(len(copies))
    seen, mean = _look(group, resumable, -1, copies, samples, contextlib.nullcontext(), how)
    joined = _Seen(*(np.concatenate(parts) for parts in zip(*seen, strict=True)))
    order = np.argsort([i for c in copies for i in c.subjects])
    return _Seen(*(part[order] for part in joined)), mean.mean((1, 2))


def _taken_away(
    group: Group, resumable: Resumable, units: Sequence[Unit], how: How, edges: list[list[int]], plain: _Seen
) -> Measured:
    shape = (len(units), len(group.subjects))
    out = {name: np.full(shape, np.nan) for name in _Seen._fields}
    by_layer = defaultdict(list)
    for number, unit in enumerate(units):
        by_layer[min(h.layer for h in unit)].append(number)
    for layer, numbers in sorted(by_layer.items()):
        copies = [copy for number in numbers for copy in _copies(group, number, how, edges)]
        for first in range(0, len(copies), how.copies):
            some = copies[first : first + how.copies]
            change = _intervention(group, resumable, some, units, how, edges)
            samples = torch.tensor([c.sample for c in some])
            seen, _ = _look(group, resumable, layer, some, samples, change, how)
            for copy, own in zip(some, seen, strict=True):
                at = (copy.unit, list(copy.subjects))
                out["logprob"][at], out["rank"][at], out["grounding"][at] = own.logprob, own.rank, _mean(own.grounding)
        before = _mean(plain.grounding[:, [place for place, n in enumerate(resumable.layers) if n > layer]])
        out["grounding"][numbers] = before - out["grounding"][numbers]
    nothing = np.full(shape, np.nan)
    return Measured(plain.logprob - out["logprob"], out["rank"] - plain.rank, out["grounding"], nothing)


def _copies(group: Group, unit: int, how: How, edges: list[list[int]]) -> list[_Copy]:
    """A copy per sample, or per subject where each has rows or edges of its own; none for one without edges."""
    if how.intervention == "knockout" or how.where == "word":
        some = [i for i in range(len(group.subjects)) if how.intervention != "knockout" or edges[i]]
        return [_Copy(unit, group.subjects[i].sample, (i,)) for i in some]
    return [_Copy(unit, b, own) for b in range(len(group.samples)) if (own := of_sample(group, b))]


def _intervention(
    group: Group, resumable: Resumable, copies: Sequence[_Copy], units: Sequence[Unit], how: How, edges: list[list[int]]
) -> AbstractContextManager[None]:
    """What is done to the copies, each with its own heads, rows and keys."""
    model, heads = resumable.lmm.model, [units[c.unit] for c in copies]
    start = resumable.start
    rows: Any = None
    if how.where == "word":
        rows = padded([[start + t for t in group.subjects[c.subjects[0]].phrase.tokens] for c in copies])
    elif how.where == "answer":
        rows = padded([range(start, start + len(group.ids[c.sample])) for c in copies])
    if how.intervention == "knockout":
        return knockout(model, rows, padded([edges[c.subjects[0]] for c in copies]), heads)
    return ablate(model, heads, how.intervention, reference=how.reference, rows=rows, seed=how.seed)


def _look(
    group: Group,
    resumable: Resumable,
    layer: int,
    copies: Sequence[_Copy],
    samples: Int[Tensor, " copy"],
    change: AbstractContextManager[None],
    how: How,
) -> tuple[list[_Seen], Tensor]:
    """What each copy says of its subjects, run from the layer on (-1: from the first, plain) under the change; and the
    mean attention [copy layer head key] of the answer's rows, of the plain pass at least."""
    start, own = resumable.start, [[t for i in c.subjects for t in group.subjects[i].phrase.tokens] for c in copies]
    rows = padded([[start + t for t in tokens] for tokens in own])
    answer = padded([range(start, start + len(group.ids[c.sample])) for c in copies])
    later = [number for number in resumable.layers if number > layer]
    keys = group.keys[samples]
    mean = None if how.metric.raw and layer >= 0 else answer
    decoder = resumable.lmm.decoder
    kind: Any = {"layers": later, "mean": mean, "weighting": how.weighting}
    with contextlib.ExitStack() as stack:
        stack.enter_context(change)
        seen = stack.enter_context(record(decoder, rows, keys, **kind)) if later else None
        first = resumable.layers[0] if layer < 0 else layer
        logits = resumable.run(first, samples, rows, whole=how.where == "all" and layer >= 0)
    wanted = padded([[group.ids[c.sample][t] for t in tokens] for c, tokens in zip(copies, own, strict=True)])
    wanted = wanted.clamp(min=0)[..., None].to(logits.device)
    said = logits.float()
    target = said.gather(-1, wanted)
    logprob = (target - said.logsumexp(-1, keepdim=True))[..., 0].cpu().double().numpy()
    rank = ((said > target).sum(-1) + 1).cpu().numpy()
    found = [
        _of_copy(group, copy, logprob[c], rank[c], None if seen is None else _maps(seen, c, mean is not None), how)
        for c, copy in enumerate(copies)
    ]
    return found, torch.empty(0) if seen is None or mean is None else seen.mean.cpu()


def _maps(seen: Any, copy: int, with_mean: bool) -> tuple[Tensor, Tensor | None]:
    return seen.attention[copy], seen.mean[copy] if with_mean else None


def _of_copy(group: Group, copy: _Copy, logprob: np.ndarray, rank: np.ndarray, attention: Any, how: How) -> _Seen:
    ends = np.cumsum([len(group.subjects[i].phrase.tokens) for i in copy.subjects])
    starts = [0, *ends[:-1]]
    spans = [slice(a, b) for a, b in zip(starts, ends, strict=True)]
    grounding = np.zeros((len(spans), 0, 0))
    if attention is not None:
        rows, mean = attention  # [layer head slot key], [layer head key]
        grid = group.grids[copy.sample]
        shape, patches, tokens = grid.shape, grid.token_index.size, len(grid.tokens)
        maps = torch.stack([rows[:, :, span, :patches].mean(2) for span in spans])
        maps = maps if how.metric.raw else maps - mean[..., :patches]
        elsewhere = torch.stack([rows[:, :, span, patches:tokens].mean(2).sum(-1) for span in spans])
        cover = torch.stack([group.subjects[i].cover for i in copy.subjects]).to(maps.device)
        scores = scored(how.metric, maps.unflatten(-1, shape), cover, torch.zeros_like(cover), elsewhere)
        grounding = scores.float().cpu().numpy()
    total = np.array([logprob[span].sum() for span in spans])
    return _Seen(total, np.array([rank[span][0] for span in spans], dtype=float), grounding)


def _mean(grounding: Float[np.ndarray, "subject layer head"]) -> Float[np.ndarray, " subject"]:
    """Over layers and heads; NaN where there are none."""
    defined = np.isfinite(grounding)
    with np.errstate(invalid="ignore"):
        return np.where(defined, grounding, 0.0).sum((1, 2)) / defined.sum((1, 2))
