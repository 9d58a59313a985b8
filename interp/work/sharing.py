"""How the batches of a study are divided among processes that have one store.

    with interp.shard("1/4"):            # the second of four parts; "auto" asks SLURM or torchrun
        interp.rank(lmm, samples, store=run)
    ranking = interp.rank(lmm, samples, store=run)     # once all parts are there, computes what is missing: nothing

Without a shard, processes that give the same call with one run folder leave to each other what the other computes now
(`interp.work.claims`), wait for it, and each have the result.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")


class Unfinished(Exception):
    """A process has computed its part of a study; tables need the parts of the others.

    What to do: the same call or command without a shard, once the others are done; it computes what is missing.
    """

    def __init__(self, computed: int):
        self.computed = computed
        super().__init__(f"{computed} batches computed; the same call without a shard makes the tables")


@dataclass(frozen=True)
class Share:
    """What of a study this process computes: all that nobody else does now, unless there is a ``shard`` (number from 0,
    of how many). ``launch``: the name of workers that were started together, which believe each other's notes; empty
    for a process of its own. ``place``: the worker's number, and of how many. ``whole``: it waits for the others and
    wants the result."""

    shard: tuple[int, int] | None = None
    launch: str = ""
    place: tuple[int, int] = (0, 1)
    whole: bool = True

    def has(self, number: int, total: int | None = None) -> bool:
        """Whether the batch is of this part: every n-th, or with a ``total`` one stretch of them."""
        if self.shard is None:
            return True
        own, parts = self.shard
        if total is None:
            return number % parts == own
        return own * total // parts <= number < (own + 1) * total // parts

    def turn(self, things: Sequence[T]) -> list[T]:
        """The things in the order in which this worker looks at them: each begins at another one."""
        first = self.place[0] * len(things) // self.place[1]
        return [*things[first:], *things[:first]]


_SHARE: ContextVar[Share] = ContextVar("share", default=Share())  # noqa: B039  (it is frozen)


def current() -> Share:
    """What this process computes of the study at hand."""
    return _SHARE.get()


@contextmanager
def of(share: Share) -> Iterator[Share]:
    """Inside, studies compute this share."""
    before = _SHARE.set(share)
    try:
        yield share
    finally:
        _SHARE.reset(before)


@contextmanager
def together(launch: str = "") -> Iterator[Share]:
    """Inside, all of the work is done by whoever comes, and waited for: what follows needs all of it. ``launch`` names
    notes to believe where the process has none."""
    own = current()
    with of(replace(own, shard=None, whole=True, launch=own.launch or launch)) as share:
        yield share


@contextmanager
def reading() -> Iterator[None]:
    """Inside, a process that makes tables reads every batch itself, whatever workers have noted: what a data set says
    of its samples shows as they are read."""
    own = current()
    with of(replace(own, launch="") if own.whole else own):
        yield


@contextmanager
def shard(which: str | tuple[int, int]) -> Iterator[None]:
    """Inside, a study computes one part of its batches, puts them into its store, and ends the block: there is no
    result until the same call without a shard makes it.

    ``which``: ``"1/4"`` or ``(1, 4)``, the second of four; ``"auto"`` as SLURM or torchrun have it (`shard_of`).

    Raises:
        ValueError: no such part.
    """
    own = shard_of(which)
    try:
        with of(Share(own, whole=own[1] == 1)):
            yield
    except Unfinished:
        return


def shard_of(which: str | tuple[int, int], environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """(number from 0, of how many). ``auto``: SLURM_ARRAY_TASK_ID of SLURM_ARRAY_TASK_COUNT, or RANK of WORLD_SIZE.

    Raises:
        ValueError: not i/n with i from 0 to n - 1, or no SLURM array and no torchrun to ask.

    >>> shard_of("1/4"), shard_of("auto", {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "8"})
    ((1, 4), (2, 8))
    """
    if which == "auto":
        which = _asked(environment)
    said = which if isinstance(which, str) else "/".join(map(str, which))
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", said.strip())
    if not found or int(found[1]) >= int(found[2]):
        raise ValueError(f"shard is {said!r}; expected i/n with i from 0 to n - 1, such as 0/4, or auto")
    return int(found[1]), int(found[2])


def _asked(environment: Mapping[str, str]) -> str:
    if "SLURM_ARRAY_TASK_ID" in environment:
        number, count = int(environment["SLURM_ARRAY_TASK_ID"]), environment.get("SLURM_ARRAY_TASK_COUNT", "0")
        first = int(environment.get("SLURM_ARRAY_TASK_MIN", "0"))
        step = int(environment.get("SLURM_ARRAY_TASK_STEP", "1"))
        own = (number - first) // step
        if (number - first) % step or not 0 <= own < int(count):
            raise ValueError(
                f"shard is 'auto', and task {number} is none of {count} tasks in even steps from {first}; submit the "
                "array as --array=0-N, or give i/n"
            )
        return f"{own}/{count}"
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return f"{environment['RANK']}/{environment['WORLD_SIZE']}"
    raise ValueError("shard is 'auto', and there is no SLURM array (SLURM_ARRAY_TASK_ID) and no torchrun (RANK)")


class Several:
    """Calls the studies that a study is made of: one that is unfinished does not keep the next from its part."""

    def __init__(self) -> None:
        self.left: list[Unfinished] = []

    def __call__(self, study: Callable[..., Any], *given: Any, **options: Any) -> Any:
        """The study's result; None while it is unfinished."""
        try:
            return study(*given, **options)
        except Unfinished as one:
            self.left.append(one)
            return None

    def check(self) -> None:
        """Nothing, if all studies have their results.

        Raises:
            Unfinished: else.
        """
        if self.left:
            raise Unfinished(sum(one.computed for one in self.left))
