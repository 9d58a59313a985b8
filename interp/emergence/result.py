"""What a series of checkpoints showed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from interp.statistics.scores import HeadScores
from interp.types import Head, Sample

METRICS = ("pointing_game", "average_precision")
"""What is measured unless told otherwise."""


@dataclass(frozen=True)
class Measurement:
    """One checkpoint: every metric's scores; per image the caption loss (nats a token) and, if asked for, how many of
    its targets the model's own answer names, and of how many."""

    step: int
    stage: str
    scores: dict[str, HeadScores]
    losses: dict[str, float] = field(default_factory=dict)
    named: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Emergence:
    """What a series showed; every frame is tidy.

    ``heads``: a row per step, metric and head (`summary.statistics`, with ``stage``). ``onsets``: a row per metric and
    head. ``layers``: per metric and layer. ``steps``: per step, with caption loss and noun recall. ``agreement``: per
    metric and pair of steps. ``leaders``: the best heads per metric and step. ``lags``: per metric, grounding beside
    the caption loss. ``orders``: per metric, whether heads look at things or tell the named one first.
    """

    heads: pd.DataFrame
    onsets: pd.DataFrame
    layers: pd.DataFrame
    steps: pd.DataFrame
    agreement: pd.DataFrame
    leaders: pd.DataFrame
    lags: pd.DataFrame
    orders: pd.DataFrame

    def best(self, metric: str, k: int = 3) -> list[Head]:
        """The k leading heads at the last step, best first."""
        last = self.leaders.query("metric == @metric and step == step.max()").sort_values("place").head(k)
        return [Head(int(layer), int(head)) for layer, head in last[["layer", "head"]].to_numpy()]


@dataclass(frozen=True)
class Example:
    """One phrase of one image: its maps for every head at each step, NaN at a step that has none. ``layers``: their
    numbers, if they are not 0, 1, ..."""

    sample: Sample
    phrase: str
    mask: np.ndarray
    grid: Any
    maps: dict[int, np.ndarray]
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Emerged:
    """The tables, the examples' maps per step, and what was left out: (checkpoint or sample, reason)."""

    tables: Emergence
    examples: list[Example]
    skipped: list[tuple[str, str]]
    computed: int
