"""Per-layer curves of one metric: the best head, the mean over heads, their spread, and what nothing would score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from interp.plots.heads import direction, known, select
from interp.plots.style import BEST, CHANCE, MEAN, NULL, layer_label, style, words

_ROOM_FOR_NAMES = 16


def curves(heads: pd.DataFrame, metric: str, *, higher_is_better: bool | None = None, unit: str = "") -> Figure:
    """Curves over layers, from the tidy frame of a ranking (``metric layer head mean``, ``low high null chance``).

    Best head of each layer with its bootstrap interval; mean over heads with the quantiles 25..75 % and 5..95 % of
    the heads; the shuffled-mask null (mean over heads, band = 5..95 % of heads); area-matched chance.
    ``higher_is_better``: None takes it from the frame's column of that name.

    Raises:
        ValueError: the frame has no row of this metric, or no head with a defined mean.
    """
    rows = select(heads, metric)
    higher_is_better = direction(rows) if higher_is_better is None else higher_is_better
    with style():
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        layers = sorted(int(x) for x in rows["layer"].unique())
        _spread(axes, rows, layers)
        _null(axes, rows, layers)
        _best(axes, rows, higher_is_better)
        better = "higher" if higher_is_better else "lower"
        axes.set(xlabel=layer_label(layers), ylabel=f"{words(metric)}{f' [{unit}]' if unit else ''}")
        axes.set_title(f"{words(metric)} by layer ({better} is better)")
        axes.set_xticks(layers[:: max(1, len(layers) // 16)])
        axes.margins(x=0.04)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _spread(axes: Axes, rows: pd.DataFrame, layers: list[int]) -> None:
    by_layer: Any = rows.groupby("layer")["mean"]
    for low, high, alpha in ((0.05, 0.95, 0.15), (0.25, 0.75, 0.25)):
        axes.fill_between(
            layers,
            by_layer.quantile(low),
            by_layer.quantile(high),
            color=MEAN,
            alpha=alpha,
            linewidth=0,
            label=f"heads, {low:.0%} to {high:.0%}",
        )
    axes.plot(layers, by_layer.mean(), color=MEAN, marker="o", markersize=4, label="mean over heads")


def _null(axes: Axes, rows: pd.DataFrame, layers: list[int]) -> None:
    if known(rows, "null"):
        by_layer: Any = rows.groupby("layer")["null"]
        axes.fill_between(layers, by_layer.quantile(0.05), by_layer.quantile(0.95), color=NULL, alpha=0.25, linewidth=0)
        axes.plot(
            layers,
            by_layer.mean(),
            color=NULL,
            linestyle="--",
            label="null: masks of other images\n(band: 5 % to 95 % of heads)",
        )
    if known(rows, "chance"):
        axes.axhline(
            float(np.nanmean(rows["chance"].to_numpy(dtype=float))),
            color=CHANCE,
            linestyle=":",
            label="chance, matched for area",
        )


def _best(axes: Axes, rows: pd.DataFrame, higher_is_better: bool) -> None:
    defined = rows.dropna(subset=["mean"])
    by_layer: Any = defined.groupby("layer")["mean"]
    best = defined.loc[by_layer.idxmax() if higher_is_better else by_layer.idxmin()].sort_values("layer")
    layers, means = best["layer"].to_numpy(), best["mean"].to_numpy()
    axes.plot(layers, means, color=BEST, marker="s", markersize=4, label="best head")
    if {"low", "high"} <= set(best):
        ends = np.abs(np.stack([means - best["low"].to_numpy(), best["high"].to_numpy() - means]))
        axes.errorbar(
            layers, means, yerr=ends, color=BEST, linestyle="none", capsize=2, linewidth=1, label="its 95 % interval"
        )
    if len(layers) > _ROOM_FOR_NAMES:
        return
    for layer, head, mean in zip(layers, best["head"], means, strict=True):
        axes.annotate(
            f"H{head}", (layer, mean), xytext=(5, 5), textcoords="offset points", ha="left", fontsize=7, color=BEST
        )
