"""The study's figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from head_choice.tables import MEASURES
from interp.plots.style import BEST, MEAN, style


def draw(table: pd.DataFrame) -> Figure:
    """A column per model, a row per measure; points with intervals, filled where the answer's mean was subtracted."""
    models, segmenters = list(table["model"].unique()), list(table["segmenter"].unique())
    order = list(dict.fromkeys(table["heads"]))[::-1]
    colours = dict(zip(segmenters, (BEST, MEAN, "#009e73", "#cc79a7"), strict=False))
    with style():
        figure = Figure(figsize=(4.2 * len(models) + 1.6, 2.5 * len(MEASURES)), layout="constrained")
        axes = figure.subplots(len(MEASURES), len(models), squeeze=False, sharey=True, sharex="row")
        for row, (name, label) in enumerate(MEASURES.items()):
            for column, model in enumerate(models):
                ax = axes[row, column]
                own = table[(table["model"] == model) & (table["measure"] == name)]
                for k, segmenter in enumerate(segmenters[:1] if name == "point" else segmenters):
                    _points(ax, own[own["segmenter"] == segmenter], order, colours[segmenter], 0.3 * k, name, segmenter)
                ax.set_yticks(range(len(order)), order)
                ax.set_xlim(left=0)
                ax.grid(axis="x", linewidth=0.4, alpha=0.5)
                ax.set_xlabel(label)
                if row == 0:
                    ax.set_title(Path(model).name)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(segmenters), fontsize=8)
        figure.supxlabel(
            "filled: less the answer's mean map; open: attention as it is; 95 % intervals over images", fontsize=8
        )
    return figure


def _points(ax: Any, own: pd.DataFrame, order: Sequence[str], colour: str, shift: float, name: str, label: str) -> None:
    colour = "#333333" if name == "point" else colour
    for normalise, offset, fill in (("answer", 0.08, colour), ("none", -0.08, "white"), ("", 0.0, colour)):
        some = own[own["normalise"] == normalise]
        y = np.array([order.index(h) for h in some["heads"]], dtype=float) + offset - shift
        error = np.abs(some[["low", "high"]].to_numpy(float).T - some["value"].to_numpy(float))
        ax.errorbar(
            some["value"],
            y,
            xerr=np.nan_to_num(error),
            fmt="o",
            markersize=4,
            color=colour,
            markerfacecolor=fill,
            linewidth=1,
            label=label if normalise == "answer" and name != "point" else None,
        )
