"""Two models side by side: maps of all heads on one scale, grounding over depth, and every paired difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from interp.plots.heads import known, select, square
from interp.plots.style import NULL, SCORES, layer_label, style, words

MODELS = ("#0072b2", "#d55e00")
"""Model A, model B."""
GAIN = "PuOr_r"
CHOICES = {
    "paper": "all heads",
    "released": "head H−2 of each layer",
    "top1": "best head",
    "top3": "best 3",
    "top10": "best 10",
}
CONTRASTS = {"normalise": "mean subtracted − raw", "query": "predicting − own row", "heads": "few − all heads"}
_ROOM_FOR_TICKS = 16


def side_by_side(
    heads: pd.DataFrame,
    metric: str,
    differences: pd.DataFrame | None = None,
    *,
    by: str = "mean",
    higher_is_better: bool = True,
    level: float = 0.05,
) -> Figure:
    """Both models' layer x head maps on one scale and, where both have as many heads, B - A with dots where it is sure.

    ``heads``: ``model metric layer head mean``, of two models and one setting; ``differences``: ``metric layer head
    difference p_corrected``, of one quantity. ``by="specificity"`` shows how well heads tell the named thing. Bright is
    better; in the difference orange is where B scores higher.

    Raises:
        ValueError: the frame has no row of this metric.
    """
    rows: Any = select(heads, metric, by)
    names = list(dict.fromkeys(rows["model"]))
    maps = [square(rows[rows["model"] == name], by) for name in names]
    higher_is_better = higher_is_better or by == "specificity"
    own: Any = None if differences is None or differences.empty else differences[differences["metric"] == metric]
    gap = None if own is None or not known(own, "difference") else square(own, "difference")
    low, high = np.nanmin([np.nanmin(m) for m in maps]), np.nanmax([np.nanmax(m) for m in maps])
    panels = len(maps) + (gap is not None)
    widest, tallest = max(m.shape[1] for m in maps), max(m.shape[0] for m in maps)
    size = (panels * (min(max(widest * 0.34, 2.2), 5.0) + 0.9), min(max(tallest * 0.32, 2.4), 8.0) + 0.9)
    with style():
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(1, panels, squeeze=False)[0]
        for axes, name, means in zip(grid, names, maps, strict=False):
            there = rows.loc[rows["model"] == name, "layer"]
            image = axes.imshow(
                means, cmap=SCORES if higher_is_better else f"{SCORES}_r", vmin=low, vmax=high, aspect="auto"
            )
            best = np.unravel_index(np.nanargmax(means if higher_is_better else -means), means.shape)
            _frame(axes, means.shape, f"{name}\nbest L{best[0]} H{best[1]}: {means[best]:.3g}", there)
        bar = figure.colorbar(image, ax=grid[: len(maps)], pad=0.02)
        shown = words(metric) if by == "mean" else f"{words(metric)}, specificity"
        bar.set_label(f"{shown}, {'higher' if higher_is_better else 'lower'} is better")
        if gap is not None and own is not None:
            _gap(figure, grid[-1], gap, own, level)
    return figure


def _gap(figure: Figure, axes: Axes, gap: np.ndarray, own: Any, level: float) -> None:
    most = max(float(np.nanmax(np.abs(gap))), 1e-12)
    image = axes.imshow(gap, cmap=GAIN, norm=TwoSlopeNorm(0, -most, most), aspect="auto")
    sure = own[own["p_corrected"] < level]
    axes.scatter(sure["head"], sure["layer"], s=12, color="white", edgecolors="black", linewidths=0.7)
    _frame(axes, gap.shape, f"B − A\ndots: corrected p < {level:g} ({len(sure)} of {len(own)})", own["layer"])
    figure.colorbar(image, ax=axes, pad=0.02).set_label("paired difference")


def _frame(axes: Axes, shape: tuple[int, ...], title: str, layers: Any) -> None:
    axes.set(xlabel="head", ylabel=layer_label(layers), title=title)
    for ticks, number in ((axes.set_yticks, shape[0]), (axes.set_xticks, shape[1])):
        ticks(range(0, number, 1 if number <= _ROOM_FOR_TICKS else number // 8))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def profiles(layers: pd.DataFrame, metric: str, *, higher_is_better: bool = True) -> Figure:
    """Grounding over depth, a colour a model: best head of each layer, mean over its heads, and the null.

    ``layers``: ``model metric layer depth mean low high best_mean best_low best_high null``. The best head is chosen
    on the other half of the images. Depth is relative where the models differ in their number of layers.
    """
    rows: Any = select(layers, metric)
    names = list(dict.fromkeys(rows["model"]))
    same = rows.groupby("model")["layer"].max().nunique() == 1
    with style():
        figure = Figure(figsize=(7.4, 3.8), layout="constrained")
        axes = figure.subplots()
        for colour, name in zip(MODELS, names, strict=False):
            own = rows[rows["model"] == name].sort_values("layer")
            x = own["layer" if same else "depth"]
            axes.plot(x, own["best_mean"], "s-", color=colour, markersize=4, label=f"{name}: best head")
            axes.fill_between(x, own["best_low"], own["best_high"], color=colour, alpha=0.18, linewidth=0)
            axes.plot(x, own["mean"], "o--", color=colour, markersize=3, linewidth=1, label=f"{name}: mean over heads")
            axes.fill_between(x, own["low"], own["high"], color=colour, alpha=0.12, linewidth=0)
            if known(own, "null"):
                axes.plot(x, own["null"], ":", color=colour, linewidth=1.3, label=f"{name}: masks of other images")
        better = "higher" if higher_is_better else "lower"
        axes.set(xlabel=layer_label(rows["layer"]) if same else "depth (0: first layer, 1: last)", ylabel=words(metric))
        axes.set_title(f"{words(metric)} over depth ({better} is better)")
        if same and rows["layer"].nunique() <= _ROOM_FOR_TICKS:
            axes.set_xticks(sorted(rows["layer"].unique()))
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def effects(
    differences: pd.DataFrame, metric: str, *, higher_is_better: bool = True, quantity: str = "score"
) -> Figure:
    """Every paired difference of the metric with its 95 % interval, grouped by what is compared.

    ``differences``: ``metric contrast model heads a_is b_is difference low high favours``; ``quantity``: of ``score``
    or ``specificity``, if the frame has both. Filled marks are those that favour one side
    (`interp.statistics.contrasts.differences`).

    Raises:
        ValueError: no difference of this metric is defined.
    """
    rows: Any = differences[(differences["metric"] == metric) & differences["difference"].notna()]
    rows = rows[rows["quantity"] == quantity] if "quantity" in rows else rows
    rows = rows[rows["contrast"].isin(["model", *CONTRASTS])]
    higher_is_better = higher_is_better or quantity == "specificity"
    if rows.empty:
        raise ValueError(f"no difference of {metric!r} is defined: there is nothing to draw")
    names = list(rows.loc[rows["contrast"] == "model", ["a_is", "b_is"]].iloc[0])
    groups = [(contrast, some) for contrast, some in rows.groupby("contrast", sort=False)]
    order = ["model", *CONTRASTS]
    groups.sort(key=lambda group: order.index(str(group[0])))
    with style():
        heights = [some["heads"].nunique() for _, some in groups]
        figure = Figure(figsize=(7.4, 0.27 * sum(heights) + 0.62 * len(groups) + 0.7), layout="constrained")
        panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=[h + 0.6 for h in heights])
        for axes, (contrast, some) in zip(panels[:, 0], groups, strict=True):
            _forest(axes, str(contrast), some, names)
        shown = words(metric) if quantity == "score" else f"specificity ({words(metric)})"
        panels[-1, 0].set_xlabel(f"difference in {shown} ({'>' if higher_is_better else '<'} 0 is better)")
        handles = [
            Line2D([], [], color=c, marker="o", linestyle="none", label=n) for c, n in zip(MODELS, names, strict=True)
        ]
        figure.legend(handles=handles, loc="outside right upper", title="within model")
    return figure


def _forest(axes: Axes, contrast: str, some: Any, names: list[Any]) -> None:
    choices = [choice for choice in CHOICES if choice in set(some["heads"])]
    models = list(dict.fromkeys(some["model"]))
    for row in some.to_dict("records"):
        shift = 0.0 if len(models) == 1 else (models.index(row["model"]) - (len(models) - 1) / 2) * 0.34
        y = choices.index(row["heads"]) + shift
        colour = "#222222" if contrast == "model" else MODELS[names.index(row["model"])]
        axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.4)
        axes.plot(
            row["difference"], y, "o", color=colour, markersize=5, markerfacecolor=colour if row["favours"] else "white"
        )
    axes.axvline(0, color=NULL, linewidth=1)
    axes.set_yticks(range(len(choices)), [CHOICES[choice] for choice in choices])
    axes.set_ylim(len(choices) - 0.4, -0.6)
    axes.set_title(f"{names[1]} − {names[0]}" if contrast == "model" else CONTRASTS[contrast], fontsize=9)
