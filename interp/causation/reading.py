"""A batch of samples, read once for all that is measured on it: answers, subjects, and the plain pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

from interp.answer.replay import Answer
from interp.causation.subjects import Group, read_group
from interp.causation.upper_layers import Resumable
from interp.models._lmm import LMM, evaluating
from interp.types import Sample, Skip

Found = TypeVar("Found")


class Reading:
    """The batch, read when something of it is first asked for; a run that finds all of it stored never does."""

    def __init__(
        self, lmm: LMM, samples: Sequence[Sample | Skip], answers: Any, max_new_tokens: int, said: dict[str, Answer]
    ) -> None:
        self.lmm = lmm
        self._asked = (samples, answers, max_new_tokens, said)
        self._kept: dict[Any, Any] = {}

    @property
    def group(self) -> Group:
        """The samples that could be read, and the words of their answers whose things are known."""
        return self._read[0]

    @property
    def resumable(self) -> Resumable:
        """The plain pass over them."""
        found = self._read[1]
        assert found is not None  # asked for only where there are subjects
        return found

    def once(self, key: Any, work: Callable[[], Found]) -> Found:
        """What the work gives, done once for each key."""
        if key not in self._kept:
            self._kept[key] = work()
        return self._kept[key]

    @cached_property
    def _read(self) -> tuple[Group, Resumable | None]:
        def plain(group: Group) -> Resumable:
            with evaluating(self.lmm.model):
                return Resumable(self.lmm, group.inputs, group.ids)

        samples, answers, most, said = self._asked
        return read_group(self.lmm, samples, answers, most, plain, said)
