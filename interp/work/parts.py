"""The one loop of all studies over their batches: what is stored is taken, what is nobody's is computed and stored, and
what another process computes now is waited for (`interp.work.sharing`).

The next batch is read, and the last one written, while the model computes (`interp.work.ahead`); but not by workers of
one launch: they read no batch that another has done, and a killed one costs no more than the batch that it was at.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from tqdm.auto import tqdm

from interp.types import Sample, Skip
from interp.work.ahead import ahead, behind
from interp.work.claims import Claims
from interp.work.processes import temporary
from interp.work.samples import Batches
from interp.work.sharing import Share, Unfinished, current
from interp.work.store import Memory, Store

Group = Sequence[Sample | Skip]
T = TypeVar("T")
PAUSE = 0.2
"""Seconds between two looks at what another process computes."""


class Part(NamedTuple):
    """One batch of the work: its number, its key in the store, and what lies there."""

    number: int
    key: str
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Work:
    """What the batches of one stage of a study have in common.

    ``about`` tells the stage from all others and holds whatever can change its parts beside the samples; ``key`` and
    ``compute`` are of one batch. ``first`` and ``of``: where the stage's batches stand among those of all
    stages that a process goes through in turn, such as checkpoints, and how many there are.
    """

    store: Store
    about: Mapping[str, Any]
    batches: Batches
    key: Callable[[Group], str]
    compute: Callable[[Group], dict[str, np.ndarray]]
    first: int = 0
    of: int | None = None

    def parts(self, bar: tqdm | None = None) -> Iterator[Part]:
        """Every part as it comes: by number, except that those which another process computed meanwhile come last.

        Raises:
            interp.work.sharing.Unfinished: at the end, in a process that computes a part of the study alone.
        """
        share = current()
        if not share.whole and isinstance(getattr(self.store, "store", self.store), Memory):
            raise ValueError("a part of a study needs a store that outlives it; give store=, such as a run's folder")
        running = _Running(self, share, bar)
        with behind(running) as running.kept:
            for number, read in running.own():
                part = running.attempt(number, read)
                if part is not None and share.whole:
                    yield part
            if share.whole:
                yield from running.rest()
            else:
                running.left()
        if not share.whole:  # not before all is written
            raise Unfinished(running.computed)

    def in_order(self, take: Callable[[Part], T], bar: tqdm | None = None) -> Iterator[T]:
        """What ``take`` makes of every part, by number; of those that come early that alone is held."""
        early, number = dict[int, T](), 0
        for part in self.parts(bar):
            early[part.number] = take(part)
            while number in early:
                yield early.pop(number)
                number += 1


@dataclass
class _Running:
    """One process at one stage: what it has seen and left to others. ``get`` and ``put`` make it the store that is
    written to behind the work: a claim is let go when its batch lies there."""

    work: Work
    share: Share
    bar: tqdm | None
    computed: int = 0
    late: dict[int, str] = field(default_factory=dict)
    """Batches that another process computes, with their keys where they are known."""

    def __post_init__(self) -> None:
        about = json.dumps([self.work.about, self.work.batches.batch], sort_keys=True, default=str)
        self.stage = hashlib.sha256(about.encode()).hexdigest()[:16]
        self.claims: Claims | None = getattr(self.work.store, "claims", None)
        self.notes: Notes | None = None
        if self.share.launch and self.claims is not None:
            self.notes = Notes(self.claims.folder / self.share.launch, self.stage)
            self.notes.begin(self.work.batches.total)
        self.in_background = getattr(self.work.store, "in_background", False) and self.notes is None
        self.kept: Store = self
        self.made: dict[str, int] = {}

    def own(self) -> Iterator[tuple[int, Callable[[], Group]]]:
        """Numbers of the batches that are this process's to look at, each with a function that reads or has read it."""
        mine = ((n, read) for n, read in self.work.batches if self.share.has(self.work.first + n, self.work.of))
        if self.notes is not None:
            yield from mine
            return
        for number, group in ahead((number, read()) for number, read in mine):
            yield number, lambda group=group: group

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays under the key, or None."""
        return self.work.store.get(key)

    def put(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Keeps the arrays of a batch that was made, and lets its claim go."""
        try:
            self.work.store.put(key, arrays)
        finally:
            self._release(self.made.pop(key))

    def attempt(self, number: int, read: Callable[[], Group]) -> Part | None:
        """The part, from the store or computed; None, and the number is kept for later, if it is another's now."""
        if self.notes is not None:
            return self._known(number) or self._claimed(number, read)
        group = read()
        key = self.work.key(group)
        return self._stored(number, key, len(group)) or self._claimed(number, lambda: group, key)

    def left(self) -> None:
        """Computes what was another's, as far as its process has died meanwhile."""
        for number, key in list(self.late.items()):
            if self.claims is not None and self.claims.free(self._name(number)):
                self._claimed(number, lambda number=number: self.work.batches.read(number), key)

    def rest(self) -> Iterator[Part]:
        """What was another's, when it is there, or computed here if its process is gone."""
        while self.late:
            for number, key in list(self.late.items()):
                part = (
                    self._known(number) if self.notes is not None else self._stored(number, key, self._length(number))
                )
                if part is None and self.claims is not None and self.claims.free(self._name(number)):
                    part = self._claimed(number, lambda number=number: self.work.batches.read(number), key)
                if part is not None:
                    self.late.pop(number, None)
                    yield part
            if self.late:
                time.sleep(PAUSE)

    def _claimed(self, number: int, read: Callable[[], Group], key: str = "") -> Part | None:
        """The part, computed under a claim unless it has appeared meanwhile."""
        if self.claims is not None and not self.claims.take(self._name(number)):
            self.late[number] = key
            if self.bar is not None:
                self.bar.set_postfix_str(f"shared with {self.claims.holder(self._name(number)) or 'others'}")
            return None
        writes = False
        try:
            if self.notes is not None and (known := self._known(number)):
                return known
            group = read()
            key = key or self.work.key(group)
            if there := self._stored(number, key, len(group)):
                return there
            arrays = self.work.compute(group)
            self.made[key] = number
            self.kept.put(key, arrays)
            writes = True
        finally:
            if not writes:
                self._release(number)
        self.computed += 1
        return self._done(number, key, arrays, len(group))

    def _release(self, number: int) -> None:
        if self.claims is not None:
            self.claims.release(self._name(number))

    def _stored(self, number: int, key: str, size: int) -> Part | None:
        arrays = self.kept.get(key)
        return None if arrays is None else self._done(number, key, arrays, size)

    def _known(self, number: int) -> Part | None:
        """The part that a worker of this launch has noted; its arrays only where a result is made of them."""
        assert self.notes is not None
        if (noted := self.notes.read(number)) is None:
            return None
        key, size = noted
        return self._stored(number, key, size) if self.share.whole else Part(number, key, {})

    def _done(self, number: int, key: str, arrays: Mapping[str, np.ndarray], size: int) -> Part:
        if self.notes is not None:
            self.notes.write(number, key, size)
        if self.bar is not None:
            self.bar.update(size)
        return Part(number, key, arrays)

    def _length(self, number: int) -> int:
        size, batch = getattr(self.work.batches.samples, "size", None), self.work.batches.batch
        return batch if size is None else min(batch, size - number * batch)

    def _name(self, number: int) -> str:
        return f"{self.stage}-{number:06d}"


class Notes:
    """Which batches of a stage the workers of one launch have done: a small file each, with its key and size."""

    def __init__(self, folder: Path, stage: str):
        self.folder, self.stage = folder, stage

    def begin(self, total: int | None) -> None:
        """Notes how many batches the stage has, for whoever shows the progress."""
        path = self.folder / f"{self.stage}.json"
        if not path.exists():
            self._put(path, json.dumps(total))

    def read(self, number: int) -> tuple[str, int] | None:
        """Key and number of samples of a batch that is done."""
        try:
            key, size = self._path(number).read_text().split()
        except FileNotFoundError:
            return None
        return key, int(size)

    def write(self, number: int, key: str, size: int) -> None:
        """Notes that the batch is stored under the key."""
        if not self._path(number).exists():
            self._put(self._path(number), f"{key} {size}")

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.stage}-{number:06d}"

    def _put(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = temporary(path)
        with suppress(FileNotFoundError):  # whoever finished has removed the folder: a lost note costs work alone
            written.write_text(text)
            os.replace(written, path)
