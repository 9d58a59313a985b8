"""Curves over training steps: the field of all heads, the leading ones, and what a curve shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from interp.plots.heads import known, square
from interp.plots.style import NULL
from interp.statistics.intervals import mean
from interp.types import Head

LEADERS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00")


class Kind(NamedTuple):
    """What a curve shows: columns of its value, its interval and its onset, and what heads come to do."""

    value: str
    low: str
    high: str
    onset: str
    said: str


THINGS = Kind("mean", "low", "high", "onset", "look at things")


WORDS = Kind("specificity", "specificity_low", "specificity_high", "onset_word", "tell the named thing from the others")


def column(rows: pd.DataFrame, name: str) -> Float[np.ndarray, " row"]:
    """The column as plain numbers."""
    return rows[name].to_numpy(dtype=float)


def _leading(rows: pd.DataFrame, own: pd.DataFrame) -> Sequence[tuple[int, int]]:
    last = rows.loc[rows["step"] == rows["step"].max(), :]
    if known(last, "specificity"):
        above, started = square(last, "specificity"), np.isfinite(square(own, "onset_word"))
    else:
        mean, null, started = square(last, "mean"), square(last, "null"), np.isfinite(square(own, "onset"))
        above = mean - np.where(np.isfinite(null), null, 0.0)
        # Which way is better shows in the table: heads with an onset lie beyond their null.
        above = above * (-1 if started.any() and above[started].mean() < 0 else 1)
    order = np.lexsort((-np.nan_to_num(above, nan=-np.inf).ravel(), ~started.ravel()))[: len(LEADERS)]
    return [(int(i // above.shape[1]), int(i % above.shape[1])) for i in order]


def field_of(axes: Axes, rows: pd.DataFrame, kind: Kind) -> None:
    steps = np.unique(column(rows, "step"))
    parts = [rows.loc[rows["step"] == step, :] for step in steps]
    means = np.stack([square(part, kind.value).ravel() for part in parts])
    lines = [np.column_stack([steps, line]) for line in means.T]
    axes.add_collection(LineCollection(lines, colors="#b9c0c8", linewidths=0.7, alpha=0.6, zorder=1))
    if kind is WORDS:
        axes.axhline(0, color=NULL, linestyle="--", linewidth=1.2, label="does not know the word")
    elif known(rows, "null"):
        null = [np.nanmean(column(part, "null")) for part in parts]
        axes.plot(steps, null, color=NULL, linestyle="--", linewidth=1.2, label="null: masks of\nother images")
    axes.plot(steps, mean(means.T), color="#5b6675", linewidth=1.4, label=f"mean of {means.shape[1]} heads")
    axes.autoscale_view()


def leaders_of(axes: Axes, rows: pd.DataFrame, own: pd.DataFrame, kind: Kind) -> None:
    for colour, (layer, head) in zip(LEADERS, _leading(rows, own), strict=False):
        _curve(axes, rows, own, layer, head, colour, kind)


def _curve(axes: Axes, rows: pd.DataFrame, own: pd.DataFrame, layer: int, head: int, colour: str, kind: Kind) -> None:
    mine = rows.loc[(rows["layer"] == layer) & (rows["head"] == head), :]
    order = np.argsort(column(mine, "step"))
    steps, means, low, high = (column(mine, name)[order] for name in ("step", *kind[:3]))
    onset = float(square(own, kind.onset)[layer, head])
    note = f"from step {onset:g}" if np.isfinite(onset) else "no onset"
    axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(steps, means, color=colour, marker="o", markersize=3, label=f"{Head(layer, head)}, {note}")
    start = steps == onset
    axes.scatter(steps[start], means[start], s=70, facecolors="none", edgecolors=colour, linewidths=1.6, zorder=4)
