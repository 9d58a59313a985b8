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
    """Columns that are knocked out for the subject: as many patches as its thing covers by half (at least one)."""
    if how.intervention != "knockout":
        return []
    cover = subject.cover.flatten().numpy()
    own = cover >= min(0.5, cover.max())
    same = [s.cover.flatten().numpy() for s in group.subjects if s.sample == subject.sample]
    covered = np.max([*same, *_target_covers(group, subject.sample)], 0)
    random = draw(how.seed, "edges", group.samples[subject.sample].id, subject.phrase.start)
    if how.keys == "own":
        chosen = np.flatnonzero(own)
    elif how.keys == "sinks":
        attended = sinks[subject.sample, : len(own)].numpy()
        chosen = np.argsort(np.where(own, -np.inf, attended), kind="stable")[::-1][: own.sum()]
        chosen = chosen[~own[chosen]]
    else:
        pool = (covered >= 0.5) & (cover == 0) if how.keys == "others" else covered == 0
        chosen = random.permutation(np.flatnonzero(pool))[: own.sum()]
    return group.keys[subject.sample, torch.from_numpy(np.sort(chosen))].tolist()


def _target_covers(group: Group, sample: int) -> list[np.ndarray]:
    masks = [t.mask for t in group.samples[sample].targets if t.mask.any()]
    return [coverage(mask[None], group.grids[sample])[0].flatten().numpy() for mask in masks]


def padded(rows: Sequence[Sequence[int] | range]) -> Int[Tensor, "copy row"]:
    return pad_sequence([torch.tensor(list(r), dtype=torch.long) for r in rows], batch_first=True, padding_value=-1)
