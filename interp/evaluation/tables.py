"""Rows of phrases or samples -> one number per measure, with an interval over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from interp.statistics import intervals

COLUMNS = ("measure", "value", "low", "high", "n", "unit", "note")


@dataclass(frozen=True)
class Measure:
    """One measure of a data set: its value, a 95 % bootstrap interval over images (NaN where it is no mean), of how
    many phrases or samples (``unit``) it is, and what a reader must know of it."""

    measure: str
    value: float
    low: float
    high: float
    n: int
    unit: str
    note: str = ""


@dataclass(frozen=True)
class Evaluated:
    """``measures``: a row per measure. ``samples``, ``phrases``: tidy, one row per sample or phrase."""

    measures: pd.DataFrame
    samples: pd.DataFrame
    phrases: pd.DataFrame


def mean_of(
    name: str, values: Sequence[float] | np.ndarray, clusters: Sequence[str], unit: str, seed: int, note: str = ""
) -> Measure:
    """The mean of the values that are defined, with its interval; images are drawn, not phrases."""
    array = np.asarray(values, dtype=np.float64)[:, None]
    (low,), (high,) = intervals.bootstrap(array, clusters, seed=seed)
    (mean,) = intervals.mean(array)
    return Measure(name, float(mean), float(low), float(high), int(np.isfinite(array).sum()), unit, note)


def without_interval(name: str, value: float, n: int, unit: str, note: str = "") -> Measure:
    """A measure that is no mean over images."""
    return Measure(name, float(value), float("nan"), float("nan"), n, unit, note)


def frame(measures: Sequence[Measure]) -> pd.DataFrame:
    """The measures as a table with the columns of `COLUMNS`."""
    return pd.DataFrame([vars(m) for m in measures], columns=list(COLUMNS))
