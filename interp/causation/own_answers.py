"""Which subjects the model's own answer still names when heads or edges are taken away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.answer.recall import phrases_in
from interp.answer.targets import match_targets
from interp.attention.ablation import ablate
from interp.attention.edges import knockout
from interp.causation.reading import Reading
from interp.causation.setting import How, of_sample, padded
from interp.causation.subjects import Group
from interp.causation.units import Unit


def named(
    reading: Reading, units: Sequence[Unit], how: How, edges: list[list[int]]
) -> tuple[Float[np.ndarray, " subject"], Float[np.ndarray, "unit subject"]]:
    """1 where the model's own answer names the subject's thing, else 0: plain, and with each unit taken away from every
    row that predicts a token of the answer (a knockout: one subject's edges at a time).

    What is taken away from those rows alone leaves the prompt as it was: it is read once for all units."""
    lmm, group = reading.lmm, reading.group
    with contextlib.nullcontext() if how.where == "all" else reading.resumable.prompt_known(group.inputs):
        return _each(lmm, group, units, how, edges, reading)


def _each(
    lmm: Any, group: Group, units: Sequence[Unit], how: How, edges: list[list[int]], reading: Reading
) -> tuple[Float[np.ndarray, " subject"], Float[np.ndarray, "unit subject"]]:
    before = reading.once(("named", how.where == "all", how.max_new_tokens), lambda: _answered(lmm, group, how))
    after = np.full((len(units), len(group.subjects)), np.nan)
    first = group.inputs["input_ids"].shape[1] - 1
    rows = None if how.where == "all" else range(first, first + how.max_new_tokens + 1)
    for number, unit in enumerate(units):
        if how.intervention != "knockout":
            with ablate(lmm.model, unit, how.intervention, reference=how.reference, rows=rows, seed=how.seed):
                after[number] = _answered(lmm, group, how)
            continue
        for turn in _turns(group):
            keys = padded([[] if i is None else edges[i] for i in turn])
            with knockout(lmm.model, range(first, first + how.max_new_tokens + 1), keys, unit):
                answered = _answered(lmm, group, how)
            some = [i for i in turn if i is not None and edges[i]]
            after[number, some] = answered[some]
    return before, after


def _turns(group: Group) -> Iterator[list[int | None]]:
    """One subject of every sample at a time, until each has had its turn."""
    waiting = [list(of_sample(group, b)) for b in range(len(group.samples))]
    while any(waiting):
        yield [own.pop(0) if own else None for own in waiting]


def _answered(lmm: Any, group: Group, how: How) -> Float[np.ndarray, " subject"]:
    """1 where the answer that the model generates now names the subject's thing."""
    out = lmm.generate_ids(group.inputs, how.max_new_tokens).sequences[:, group.inputs["input_ids"].shape[1] :]
    found = np.zeros(len(group.subjects))
    for b, text in enumerate(lmm.tokenizer.batch_decode(out, skip_special_tokens=True)):
        phrases = phrases_in(lmm.tokenizer, text.strip())
        masks = [mask for _, mask in match_targets(phrases, group.samples[b].targets)]
        for i in of_sample(group, b):
            found[i] = any(np.array_equal(mask, group.subjects[i].mask) for mask in masks)
    return found
