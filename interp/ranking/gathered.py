"""The scored batches of a run -> one array a metric, batch by batch: arrays larger than memory lie in files
(`interp.work.room`), and what is known of the phrases is kept once, a column each."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from interp.contracts import Metric
from interp.ranking.batch import Batch
from interp.ranking.scoring import MetricScores
from interp.statistics.scores import HeadScores
from interp.types import Skip
from interp.work.room import by_column, put

TOGETHER = 1024
"""Phrases whose scores are written at a time."""

Load = Callable[[int], Batch]
"""The batch of that number, with its scores."""


class Words:
    """What is known of a run's batches beside scores; batches are added in their order.

    ``counts``: how many phrases each batch has. ``texts`` and ``numbers``: columns of
    `interp.ranking.batch.Batch.phrases`, a text kept once however often it comes.
    """

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.skipped: list[Skip] = []
        self.unmatched: Counter[str] = Counter()
        self.layers: tuple[int, ...] = ()
        self.texts: dict[str, list[str]] = {n: [] for n in ("sample_id", "image_id", "text", "root", "kind")}
        self.numbers = {"tokens": array("q"), "area": array("d"), "mention": array("q"), "partners": array("q")}
        self._known: dict[str, str] = {}

    def add(self, batch: Batch) -> None:
        """Takes a batch in; its scores are let go."""
        self.counts.append(len(batch))
        self.skipped += batch.skipped
        self.unmatched.update(batch.unmatched)
        self.layers = self.layers or (batch.layers if len(batch) else ())
        for phrase in batch.phrases:
            for name, column in self.texts.items():
                column.append(self._known.setdefault(phrase[name], phrase[name]))
            for name, numbers in self.numbers.items():
                numbers.append(phrase[name])

    def __len__(self) -> int:
        return sum(self.counts)

    def column(self, name: str) -> np.ndarray:
        """One column, an element a phrase."""
        own = self.texts.get(name)
        return np.array(self.numbers[name]) if own is None else np.array(own, dtype=object)


class Gathered(NamedTuple):
    """Scores of all phrases: by metric; of the named reductions; and of one metric by each word's rows."""

    scores: dict[str, HeadScores]
    reduced: dict[str, HeadScores]
    by_rows: dict[str, HeadScores]


def gather(
    words: Words, load: Load, metrics: Mapping[str, Metric], by_rows: str = "", folder: str | Path | None = None
) -> Gathered:
    """The scores of ``metrics``, and of the metric ``by_rows`` by rows; ``folder`` is where files may lie."""
    count, first = len(words), 0
    partners = words.column("partners").astype(np.int64)
    sample_ids, phrases, images = (tuple(words.texts[name]) for name in ("sample_id", "text", "image_id"))
    arrays: dict[str, dict[str, MetricScores]] = {}
    held: list[Batch] = []
    there = [i for i, phrases_of in enumerate(words.counts) if phrases_of]
    for i in there:
        held.append(load(i))
        if i != there[-1] and sum(map(len, held)) < TOGETHER:
            continue
        first = _put(arrays, held, count, first, folder)
        held = []

    def of(kind: str, name: str, metric: str) -> HeadScores:
        values, null, specific, chance = arrays[kind][name]
        return HeadScores(
            metric, metrics[metric].higher_is_better, sample_ids, phrases, values, null, chance,
            specificity=specific, partners=partners, image_ids=images, layers=words.layers,
        )  # fmt: skip

    reduced = {name: replace(of("reduced", name, name), layers=()) for name in arrays["reduced"]}
    rows = {name: of("by_rows", name, by_rows) for name in arrays["by_rows"]}
    return Gathered({name: of("scores", name, name) for name in metrics}, reduced, rows)


def _put(arrays: dict[str, dict[str, MetricScores]], held: Sequence[Batch], count: int, first: int, folder: Any) -> int:
    """Where the next phrases begin; the scores of these are put into the arrays."""
    end = first + sum(map(len, held))
    for kind in ("scores", "reduced", "by_rows"):
        own = arrays.setdefault(kind, {})
        for name, found in getattr(held[0], kind).items():
            if name not in own:
                own[name] = MetricScores(*(by_column(count, p.shape[1:], p.dtype, folder) for p in found))
            for part, whole in zip(MetricScores._fields, own[name], strict=True):
                put(whole[first:end], np.concatenate([getattr(getattr(b, kind)[name], part) for b in held]))
    return end
