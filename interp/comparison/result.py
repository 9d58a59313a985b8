"""What a comparison found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from interp.handle import OfTables
from interp.ranking.result import TOP
from interp.statistics.scores import HeadScores
from interp.types import Skip

EFFECTS: dict[str, tuple[str, str]] = {"normalise": ("none", "answer"), "query": ("self", "predicting")}
"""Setting that is varied -> the two that are compared, the second less the first."""


QUANTITIES = {"specificity": "specificity", "score": "value"}
"""What is compared -> the column of a ranking's phrases that holds it."""
CHOICES = ("paper", "released", *TOP)
"""Choices of heads, as in a ranking's reductions."""


class NothingToCompare(ValueError):
    """The two models share no phrase that could be scored, so no difference can be paired.

    What to do: compare them on one data set, with ``answers="reference"`` if they say different things.
    """


@dataclass(frozen=True)
class Measured:
    """One model: ``tables`` and ``heads`` per (normalise, query); ``scores`` of the main setting; ``named`` per image.

    ``tables``: a row per phrase, metric and choice of heads. ``words``: a row per phrase, in the order of ``scores``.
    """

    name: str
    layers: int
    heads_per_layer: int
    tables: dict[tuple[str, str], pd.DataFrame]
    heads: dict[tuple[str, str], pd.DataFrame]
    scores: Mapping[str, HeadScores]
    words: pd.DataFrame
    named: dict[str, np.ndarray]
    skipped: tuple[Skip, ...]
    manifest: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(OfTables):
    """What `compare` found; every frame is tidy, ``model`` holds the models' names.

    ``models``: a row per model: sizes, phrases, noun recall (0..1) with interval. ``scores``: a row per quantity
    (``specificity`` or ``score``), metric, model, setting and choice of heads, over the phrases that both models have.
    ``differences``: a row per quantity, metric, contrast and choice of heads, paired
    (`interp.statistics.contrasts.differences`): contrast ``model`` is B - A, ``normalise`` is answer - none, ``query``
    is predicting - self, ``heads`` is a choice of heads - all heads, ``recall`` is B - A of noun recall. ``heads``,
    ``layers``: each model's own, with ``depth`` 0..1. ``head_differences`` and ``layer_differences``: B - A for each
    head and layer, if both models have as many; else without rows. ``phrases``: what it all rests on.
    """

    models: pd.DataFrame
    scores: pd.DataFrame
    differences: pd.DataFrame
    layers: pd.DataFrame
    heads: pd.DataFrame
    layer_differences: pd.DataFrame
    head_differences: pd.DataFrame
    phrases: pd.DataFrame
    skipped: tuple[tuple[str, Skip], ...]
    manifest: dict[str, Any] = field(default_factory=dict)

    def plot(self, metric: str | None = None, **how: Any) -> Any:
        """Every paired difference of the first metric (or another); ``how`` as `interp.plots.compare.effects` takes it:
        of specificity where it is defined, unless ``quantity`` says otherwise."""
        from interp.plots.compare import effects

        metric = metric or str(self.manifest["metrics"][0])
        own = self.differences[(self.differences["metric"] == metric) & self.differences["difference"].notna()]
        quantity = "specificity" if "specificity" in set(own["quantity"]) else "score"
        return effects(self.differences, metric, **{"quantity": quantity, **how})

    def _line(self) -> str:
        first, second = self.manifest["names"]
        metrics = ", ".join(self.manifest["metrics"])
        return f"{second!r} beside {first!r}, {self.manifest['paired']} paired phrases, {metrics}"
