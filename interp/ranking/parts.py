"""What a ranking keeps of each batch: its scores, and its maps, which only the mean maps of the best heads need.

Maps are most of a run's size. With ``lean`` none are kept: when the best heads are known the model reads the batches a
second time. Its maps are rounded as those that are kept, so that the numbers are the same either way.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from interp.answer.layers import layers_with_heads
from interp.models._lmm import LMM
from interp.ranking.batch import Batch, Plan
from interp.ranking.gathered import Words
from interp.ranking.measure import score_batch
from interp.ranking.reductions import score_top
from interp.ranking.result import TOP
from interp.ranking.scoring import MetricScores
from interp.ranking.tables import Top
from interp.types import Sample, Skip
from interp.work.samples import cut
from interp.work.store import Store

Group = Sequence[Sample | Skip]
MAPS = "group"
"""What the names of a batch's maps begin with (`interp.ranking.batch.pack_group`)."""


class Parts:
    """The batches of a run in its store, which keeps the scores and the maps of each apart (``get`` are the scores);
    ``words`` is what is known of those that were added, in their order."""

    def __init__(self, plan: Plan, store: Store, again: Callable[[], Iterator[Sample | Skip]], batch: int, lean: bool):
        self.plan, self.store, self.lean = plan, store, lean
        self.claims, self.in_background = (getattr(store, name, None) for name in ("claims", "in_background"))
        self.folder: Path | None = getattr(store, "folder", None)
        self.keys: list[str] = []
        self.words = Words()
        self._groups, self._at = iter(()), 0
        self._start = lambda: iter(enumerate(cut(again(), batch)))

    def measured(self, group: Group) -> dict[str, np.ndarray]:
        """What is to be put of a batch."""
        return score_batch(self.plan, group, not self.lean)

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """A batch without its maps, or None."""
        return self.store.get(key)

    def put(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Keeps a measured batch, its maps beside it."""
        scores, maps = _apart(arrays)
        if maps:
            self.store.put(_maps(key), maps)
        self.store.put(key, scores)  # last: where scores are, the maps are too, unless they were taken away

    def add(self, key: str, batch: Batch) -> None:
        """Takes the next batch in."""
        self.words.add(batch)
        self.keys.append(key)

    def scores(self, number: int) -> Batch:
        """The batch without its maps.

        Raises:
            LookupError: the store has lost it.
        """
        arrays = self.store.get(self.keys[number])
        if arrays is None:
            raise LookupError(
                f"the store lost {self.keys[number]} while the run used it; start the run again, it goes on from the "
                "rest"
            )
        return Batch.of(arrays, maps=False)

    def best(self, number: int, top: Top, halves: Mapping[str, int]) -> dict[str, MetricScores]:
        """Scores of the best heads' mean maps (`interp.ranking.reductions.score_top`); with ``lean`` they are kept, so
        that the second pass goes on where it was."""
        key = self._best_key(number, top)
        arrays = self.store.get(key) if self.lean else None
        if arrays is None:
            found = score_top(self.plan, self._with_maps(number), top, TOP, halves)
            if self.lean:
                self.store.put(key, {f"{n}.{p}": a for n, own in found.items() for p, a in own._asdict().items()})
            return found
        return {name: MetricScores(*(arrays[f"{name}.{part}"] for part in MetricScores._fields)) for name in top}

    def _best_key(self, number: int, top: Top) -> str:
        heads = {name: [[[*head] for head in some] for some in own] for name, own in top.items()}
        said = json.dumps([self.keys[number], heads, self.plan.seed, TOP], sort_keys=True)
        return f"best-{hashlib.sha256(said.encode()).hexdigest()[:40]}"

    def _with_maps(self, number: int) -> Batch:
        maps = self.store.get(_maps(self.keys[number]))
        scores = self.store.get(self.keys[number]) if maps is not None else None
        if maps is None or scores is None:
            return Batch.of(score_batch(replace(self.plan, metrics={}, by_rows=""), self._group(number)))
        return Batch.of({**scores, **maps})

    def _group(self, number: int) -> Group:
        """The samples of a batch; the data set is gone through once more, and once for all batches in their order."""
        if not self._at or number < self._at:
            self._groups = self._start()
        for at, group in self._groups:
            self._at = at + 1
            if at == number:
                return group
        raise LookupError(f"the data set has no batch {number} any more; it gave one when it was gone through before")

    def let_go(self) -> None:
        """Takes the maps out of the store, if the run is lean."""
        drop: Any = getattr(self.store, "drop", None)
        for key in self.keys if self.lean and drop else ():
            drop(_maps(key))


def size_of(plan: Plan, samples: Iterable[Sample | Skip], images: int, lean: bool) -> dict[str, int]:
    """Bytes that a run over so many images will take, by the masks of its pool and the patches of its first image:
    ``maps`` and ``scores`` in the store, and ``beside`` it while tables are made. Nothing where that cannot be told: no
    model of ours, or an image that it cannot read."""
    first = next((sample for sample in samples if isinstance(sample, Sample)), None)
    if not isinstance(plan.lmm, LMM) or first is None:
        return {}
    try:
        inputs = plan.lmm.inputs([first.image], [plan.lmm.template(first.prompt)])
        patches = math.prod(plan.lmm.grid(first.image.shape[:2], inputs).shape)
    except Exception:  # whatever it is, the run itself meets it again, and says it of that sample
        return {}
    phrases, heads = len(plan.pool.bits), len(layers_with_heads(plan.lmm)) * plan.lmm.heads
    scores = 12 * heads * phrases * (len(plan.metrics) + 3 * bool(plan.by_rows))
    return {"maps": 0 if lean else 2 * heads * patches * (phrases + images), "scores": scores, "beside": scores}


def _apart(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The scores and the maps."""
    maps = {name: array for name, array in arrays.items() if name.startswith(MAPS)}
    return {name: array for name, array in arrays.items() if name not in maps}, maps


def _maps(key: str) -> str:
    return f"maps-{key}"
