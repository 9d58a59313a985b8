"""What all batches of effects have in common, and which edges a subject's knockout takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from interp.answer.maps import coverage
from interp.attention.ablation import Reference
from interp.causation.subjects import Group, Subject
from interp.contracts import Metric
from interp.statistics.nulls import draw
from interp.types import Weighting

EDGES = ("own", "others", "background", "sinks")


@dataclass(frozen=True)
class How:
    """What all batches of a run have in common; see `interp.effects`."""

    intervention: str
    where: str
    keys: str
    reference: Reference | None
    metric: Metric
    generate: bool
    seed: int
    copies: int
    max_new_tokens: int
    weighting: Weighting


class Measured(NamedTuple):
    """Per subject: log-probability in nats of its root's tokens, rank of the first of them from 1, mean grounding of
    heads, and whether the model's own answer names it (1, 0; NaN where nothing was generated).

    Of units they are the harm done, [unit subject]: by how much the log-probability falls, the rank rises, the
    grounding of the layers above the unit's first falls, and 1 if the subject is named no more.
    """

    logprob: Float[np.ndarray, "*unit subject"]
    rank: Float[np.ndarray, "*unit subject"]
    grounding: Float[np.ndarray, "*unit subject"]
    named: Float[np.ndarray, "*unit subject"]


def of_sample(group: Group, sample: int) -> tuple[int, ...]:
    return tuple(i for i, s in enumerate(group.subjects) if s.sample == sample)


def edges_of(subject: Subject, group: Group, how: How, sinks: Float[Tensor, "sample key"]) -> list[int]:
    """Columns that are knocked out for the subject: in every view of the image as many patches as its thing covers
    there by half (at least one, if it is seen there at all)."""
    if how.intervention != "knockout":
        return []
    random = draw(how.seed, "edges", group.samples[subject.sample].id, subject.phrase.start)
    masks = [subject.mask, *(s.mask for s in group.subjects if s.sample == subject.sample)]
    masks += [t.mask for t in group.samples[subject.sample].targets if t.mask.any()]
    found, first = list[int](), 0
    for view in group.grids[subject.sample].views:
        own, *others = (coverage(mask[None], view)[0].flatten().numpy() for mask in masks)
        attended = sinks[subject.sample, first : first + len(own)].numpy()
        found += [first + i for i in _chosen(how.keys, own, np.max(others, 0), attended, random)]
        first += len(own)
    return group.keys[subject.sample, torch.tensor(sorted(found), dtype=torch.long)].tolist()


def _chosen(
    kind: str,
    cover: Float[np.ndarray, " patch"],
    covered: Float[np.ndarray, " patch"],
    attended: Float[np.ndarray, " patch"],
    random: np.random.Generator,
) -> list[int]:
    """Patches of one view: ``cover`` is the thing's share of each, ``covered`` the largest share of any thing."""
    own = (cover >= min(0.5, cover.max())) & (cover > 0)
    if kind == "own":
        return np.flatnonzero(own).tolist()
    if kind == "sinks":
        strongest = np.argsort(np.where(own, -np.inf, attended), kind="stable")[::-1][: own.sum()]
        return strongest[~own[strongest]].tolist()
    pool = (covered >= 0.5) & (cover == 0) if kind == "others" else covered == 0
    return random.permutation(np.flatnonzero(pool))[: own.sum()].tolist()


def padded(rows: Sequence[Sequence[int] | range]) -> Int[Tensor, "copy row"]:
    return pad_sequence([torch.tensor(list(r), dtype=torch.long) for r in rows], batch_first=True, padding_value=-1)
