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


class Repeatable:
    """The first ``samples`` samples of a data set; called or gone through, it starts anew."""

    def __init__(self, dataset: Iterable[Sample | Skip], samples: int | None = None):
        self.dataset, self.samples = dataset, samples

    def __call__(self) -> Iterator[Sample | Skip]:
        return islice(self.dataset, self.samples)

    def __iter__(self) -> Iterator[Sample | Skip]:
        return self()

    @property
    def size(self) -> int | None:
        """How many there are; None for a data set that has to be gone through to know it, and for a stretch of it."""
        known = isinstance(self.dataset, list | tuple) or hasattr(self.dataset, "stretch")
        if not (known and hasattr(self.dataset, "__len__")):
            return None
        there = len(self.dataset)  # type: ignore[arg-type]
        return there if self.samples is None else min(there, self.samples)

    def stretch(self, start: int, stop: int) -> list[Sample | Skip]:
        """Those from ``start`` to before ``stop``; the others are not read if there is a size."""
        if self.size is None:
            return list(islice(self(), start, stop))
        stop = min(stop, self.size)
        some = getattr(self.dataset, "stretch", lambda a, b: self.dataset[a:b])  # type: ignore[index]
        return list(some(start, stop))


def repeatable(dataset: Iterable[Sample | Skip], samples: int | None) -> Repeatable:
    """The first ``samples`` samples, to be gone through again and again; an iterator is read into memory."""
    if isinstance(dataset, Repeatable) and samples is None:
        return dataset
    if iter(dataset) is dataset:
        dataset = list(islice(dataset, samples))
    return Repeatable(dataset, samples)


class Batches:
    """A data set in batches of ``batch`` samples, the last one smaller, each with its number."""

    def __init__(self, samples: Callable[[], Iterator[Sample | Skip]], batch: int):
        self.samples, self.batch = samples, batch

    @property
    def total(self) -> int | None:
        """How many there are, if that is known before the data set is gone through."""
        size = getattr(self.samples, "size", None)
        return None if size is None else -(-size // self.batch)

    def __iter__(self) -> Iterator[tuple[int, Callable[[], list[Sample | Skip]]]]:
        """Numbers, each with a function that reads the batch; where the total is known, nothing else reads it."""
        if self.total is None:
            yield from (
                (number, lambda group=group: group) for number, group in enumerate(cut(self.samples(), self.batch))
            )
            return
        yield from ((number, lambda number=number: self.read(number)) for number in range(self.total))

    def read(self, number: int) -> list[Sample | Skip]:
        """The batch of that number."""
        start, stop = number * self.batch, (number + 1) * self.batch
        if isinstance(self.samples, Repeatable):
            return self.samples.stretch(start, stop)
        return list(islice(self.samples(), start, stop))


HELD = 2 << 30
"""Bytes of images and masks that are kept in memory between two walks; a larger data set is read anew for each."""


class Held(Repeatable):
    """The samples of another, read once, and from then on from memory, if they fit. A walk that was not finished, and
    one through a stretch of them, count as none."""

    def __init__(self, again: Repeatable):
        super().__init__(again)
        self.again = again
        self.kept: list[Sample | Skip] | None = None

    def __call__(self) -> Iterator[Sample | Skip]:
        return self._walk() if self.kept is None else iter(self.kept)

    @property
    def size(self) -> int | None:
        """As of `Repeatable`; known after the first walk."""
        return self.again.size if self.kept is None else len(self.kept)

    def stretch(self, start: int, stop: int) -> list[Sample | Skip]:
        """Those from ``start`` to before ``stop``."""
        return self.again.stretch(start, stop) if self.kept is None else self.kept[start:stop]

    def _walk(self) -> Iterator[Sample | Skip]:
        some, size = list[Sample | Skip](), 0
        for sample in self.again():
            if isinstance(sample, Sample):
                size += sample.image.nbytes + sum(t.mask.nbytes for t in sample.targets)
            if size <= HELD:
                some.append(sample)
            else:
                some.clear()
            yield sample
        if size <= HELD:
            self.kept = some


def held(again: Repeatable | Callable[[], Iterator[Sample | Skip]]) -> Held:
    """The same samples, from memory after the first walk if they fit (`Held`)."""
    if isinstance(again, Held):
        return again
    return Held(again if isinstance(again, Repeatable) else Repeatable(Again(again)))


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
