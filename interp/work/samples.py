"""A data set, gone through more than once and cut into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from tqdm.auto import tqdm

from interp.types import Sample, Skip


class Again:
    """A data set from a function that starts it anew each time it is gone through."""

    def __init__(self, start: Callable[[], Iterable[Any]]):
        self.start = start

    def __iter__(self) -> Iterator[Any]:
        return iter(self.start())


def repeatable(dataset: Iterable[Sample | Skip], samples: int | None) -> Callable[[], Iterator[Sample | Skip]]:
    """A function that starts the first ``samples`` samples anew each time."""
    if iter(dataset) is dataset:
        dataset = list(islice(dataset, samples))
    return lambda: islice(dataset, samples)


HELD = 2 << 30
"""Bytes of images and masks that are kept in memory between two walks; a larger data set is read anew for each."""


def held(again: Callable[[], Iterator[Sample | Skip]]) -> Callable[[], Iterator[Sample | Skip]]:
    """The same samples: read once, and from then on from memory, if they fit. A walk that was not finished counts as
    none."""
    kept: list[Sample | Skip] | None = None

    def walk() -> Iterator[Sample | Skip]:
        nonlocal kept
        some, size = [], 0
        for sample in again():
            if isinstance(sample, Sample):
                size += sample.image.nbytes + sum(t.mask.nbytes for t in sample.targets)
            if size <= HELD:
                some.append(sample)
            else:
                some.clear()
            yield sample
        if size <= HELD:
            kept = some

    return lambda: walk() if kept is None else iter(kept)


def of_kinds(samples: Iterable[Sample | Skip], kinds: Sequence[str]) -> Iterator[Sample | Skip]:
    """The samples with their targets of these kinds (`interp.types.Target`) alone; those that have none are left out.

    Raises:
        ValueError: at the end, if no sample had one; with the kinds that there are.
    """
    there, found = set[str](), False
    for sample in samples:
        if isinstance(sample, Skip):
            yield sample
            continue
        there |= {target.kind for target in sample.targets}
        if own := tuple(target for target in sample.targets if target.kind in kinds):
            found = True
            yield replace(sample, targets=own)
    if not found:
        listed = ", ".join(sorted(there - {""})) or "none: this data set does not tell them"
        raise ValueError(f"no target is of kind {' or '.join(map(repr, kinds))}; the kinds there are: {listed}")


def noting(samples: Iterable[Sample | Skip], ids: list[str], bar: tqdm) -> Iterator[Sample]:
    """The samples that could be read; all ids are added to the list."""
    seen = set()
    for sample in samples:
        name = sample.sample_id if isinstance(sample, Skip) else sample.id
        if name in seen:
            raise ValueError(f"the sample id {name!r} occurs twice; ids tell images apart, give each its own")
        seen.add(name)
        ids.append(name)
        if isinstance(sample, Sample):
            yield sample
        bar.update()


def cut(samples: Iterator[Sample | Skip], batch: int) -> Iterator[list[Sample | Skip]]:
    """The samples in groups of ``batch``, the last one smaller."""
    while group := list(islice(samples, batch)):
        yield group
