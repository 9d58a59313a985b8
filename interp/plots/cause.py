"""What heads do: grounding against effect, sets beside random sets, and edges to one kind of patch beside another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from interp.plots.style import BEST, MEAN, NULL, SCORES, Limits, panels, style, whole, words
from interp.types import Head

MEASURES = {
    "logprob": "fall of log-probability (nats)",
    "rank": "rise of the first token's rank",
    "grounding": "fall of later heads' grounding",
    "named": "share named no more",
}
KINDS = {
    "own": "its own thing",
    "others": "other things",
    "background": "background",
    "sinks": "most attended elsewhere",
}
_NAMED = 6


def against(
    heads: pd.DataFrame,
    metric: str,
    measure: str,
    rho: pd.Series | None = None,
    *,
    ax: Axes | None = None,
    cmap: str = SCORES,
    limits: Limits | None = None,
) -> Figure:
    """One mark per head: grounding along x, its effect along y, both with 95 % intervals; colour is the layer.

    ``heads``: ``metric layer head mean low high``, with rows of the grounding metric and of the measure. ``rho``: the
    row of ``correlation``. The heads of the greatest effect and the best grounding carry their names. ``limits`` of the
    effect, as in the other plots of this file.
    """
    key = ["layer", "head"]
    x, y = (heads[heads["metric"] == name].set_index(key)[["mean", "low", "high"]] for name in (metric, measure))
    rows: Any = x.add_suffix("_x").join(y.add_suffix("_y")).dropna(subset=["mean_x", "mean_y"]).reset_index()
    with style():
        figure, ((axes,),) = panels(ax, (6.2, 4.4))
        spans = [[rows[f"mean_{a}"] - rows[f"low_{a}"], rows[f"high_{a}"] - rows[f"mean_{a}"]] for a in "xy"]
        axes.errorbar(
            rows["mean_x"], rows["mean_y"], xerr=np.clip(spans[0], 0, None), yerr=np.clip(spans[1], 0, None),
            fmt="none", ecolor="#b8bec6", elinewidth=0.7, zorder=1,
        )  # fmt: skip
        marks = axes.scatter(rows["mean_x"], rows["mean_y"], c=rows["layer"], cmap=cmap, s=26, zorder=2)
        figure.colorbar(marks, ax=axes, pad=0.02).set_label("layer")
        axes.axhline(0, color=NULL, linewidth=0.8)
        named = {*rows.nlargest(_NAMED, "mean_y").index, *rows.nlargest(_NAMED // 2, "mean_x").index}
        axes.set_ylim(limits)
        said = "" if rho is None else f"\nSpearman's ρ {rho['rho']:.2f} [{rho['low']:.2f}, {rho['high']:.2f}]"
        axes.set(xlabel=words(metric), ylabel=MEASURES[measure])
        axes.set_title(f"Each head taken away by itself ({len(rows)} heads){said}")
        _name(axes, rows.loc[sorted(named)])
    return whole(figure)


def _name(axes: Axes, rows: Any) -> None:
    """The heads' names beside their marks, from top to bottom, each moved down until it lies over no other."""
    high, wide = 9.0, 30.0  # points that a name takes
    taken: list[tuple[float, float]] = []
    to_points = 72 / axes.figure.dpi
    for row in rows.sort_values("mean_y", ascending=False).to_dict("records"):
        x, y = axes.transData.transform((row["mean_x"], row["mean_y"])) * to_points
        place = y + 3
        while near := [b for a, b in taken if abs(a - x) < wide and abs(b - place) < high]:
            place = min(near) - high
        taken.append((x, place))
        axes.annotate(
            str(Head(int(row["layer"]), int(row["head"]))), (row["mean_x"], row["mean_y"]), xytext=(4, place - y),
            textcoords="offset points", fontsize=7,
        )  # fmt: skip


def sets(table: pd.DataFrame, measure: str, *, ax: Axes | None = None, limits: Limits | None = None) -> Figure:
    """The best heads by grounding taken away together, beside random heads of the same layers.

    ``table``: ``measure unit mean low high null``.
    """
    rows: Any = table[table["measure"] == measure]
    with style():
        figure, ((axes,),) = panels(ax, (5.2, 0.5 * len(rows) + 1.3))
        y = np.arange(len(rows))
        _points(axes, rows, y, MEAN, "best by grounding")
        axes.plot(rows["null"], y + 0.22, "D", color=NULL, markersize=5, label="random, same layers (mean)")
        axes.set_yticks(y, [f"{unit} ({size})" for unit, size in zip(rows["unit"], rows["size"], strict=True)])
        _finish(axes, len(rows), measure)
        axes.set_xlim(limits)
    return whole(figure)


def edges(table: pd.DataFrame, measure: str, *, ax: Axes | None = None, limits: Limits | None = None) -> Figure:
    """What hiding each kind of patch from the word's row does, in all heads.

    ``table``: ``measure keys mean low high``.
    """
    rows: Any = table[table["measure"] == measure]
    with style():
        figure, ((axes,),) = panels(ax, (5.2, 0.42 * len(rows) + 1.1))
        y = np.arange(len(rows))
        _points(axes, rows, y, BEST, None)
        axes.set_yticks(y, [KINDS[k] for k in rows["keys"]])
        _finish(axes, len(rows), measure)
        axes.set_xlim(limits)
    return whole(figure)


def by_layer(table: pd.DataFrame, measure: str, *, ax: Axes | None = None, limits: Limits | None = None) -> Figure:
    """The same in one layer at a time, own patches beside background.

    ``table``: ``measure keys layer mean low high``.
    """
    rows: Any = table[table["measure"] == measure]
    with style():
        figure, ((axes,),) = panels(ax, (5.6, 3.2))
        for keys, colour in (("own", BEST), ("background", NULL)):
            own = rows[rows["keys"] == keys].sort_values("layer")
            axes.plot(own["layer"], own["mean"], "o-", color=colour, markersize=4, label=KINDS[keys])
            axes.fill_between(own["layer"], own["low"], own["high"], color=colour, alpha=0.18, linewidth=0)
        axes.axhline(0, color=NULL, linewidth=0.8)
        axes.set(xlabel="layer in which the word's row cannot see the patches", ylabel=MEASURES[measure])
        if rows["layer"].nunique() <= 16:
            axes.set_xticks(sorted(rows["layer"].unique()))
        axes.set_ylim(limits)
        axes.legend()
    return whole(figure)


def _points(axes: Axes, rows: Any, y: np.ndarray, colour: str, label: str | None) -> None:
    spans = [rows["mean"] - rows["low"], rows["high"] - rows["mean"]]
    axes.errorbar(
        rows["mean"], y, xerr=np.clip(spans, 0, None), fmt="o", color=colour, markersize=5, elinewidth=1.4, label=label
    )


def _finish(axes: Axes, number: int, measure: str) -> None:
    axes.axvline(0, color=NULL, linewidth=0.8)
    axes.set_ylim(number - 0.5, -0.6)
    axes.set_xlabel(MEASURES[measure])
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1.22), ncols=2)
