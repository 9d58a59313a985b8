"""How grounding emerges: curves over training, a map of all heads at each step, onsets by layer."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from interp.plots._curves import LEADERS, THINGS, WORDS, column, field_of, leaders_of
from interp.plots.heads import known, scale, select, square
from interp.plots.style import MEAN, Limits, layer_label, panels, style, whole, words
from interp.types import Head

LOSS = "caption loss\n[nats a token]"


def growth(
    heads: pd.DataFrame,
    onsets: pd.DataFrame,
    metric: str,
    steps: pd.DataFrame | None = None,
    *,
    ax: Axes | None = None,
    limits: Limits | None = None,
) -> Figure:
    """The leading heads over the faint field of all, with 95 % intervals and a ring at each onset: how they come to
    look at things (score beside its null), below it at the word's thing (specificity), below it the caption loss.

    ``heads``: ``metric step layer head mean low high null`` and ``specificity specificity_low specificity_high``;
    ``onsets``: ``metric layer head onset onset_word final``; ``steps``: with ``step loss loss_low loss_high``. Panels
    are left out where a frame lacks their columns. The leaders are the five heads that are best at the last step, by
    specificity if there is any, those with an onset first. A grey line parts the stages of training. ``limits`` of the
    scores and of specificity.

    Raises:
        ValueError: the frame has no row of this metric.
    """
    rows = select(heads, metric)
    with_loss = steps is not None and known(steps, "loss")
    with_words = known(rows, "specificity")
    with style():
        ratios = [3] + [3] * with_words + [1] * with_loss
        figure, grid = panels(ax, (7.2, 1.2 + 0.95 * sum(ratios)), len(ratios), sharex=True, height_ratios=ratios)
        column_of = grid[:, 0]
        own = onsets.loc[onsets["metric"] == metric, :]
        for axes, kind in zip(column_of, [THINGS] + [WORDS] * with_words, strict=False):
            field_of(axes, rows, kind)
            leaders_of(axes, rows, own, kind)
            count = int(np.isfinite(column(own, kind.onset)).sum())
            axes.set_title(f"{words(metric)}: {count} of {len(own)} heads come to {kind.said}")
            axes.set_ylabel("specificity" if kind is WORDS else words(metric))
            axes.set_ylim(limits)
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        if with_loss and steps is not None:
            _loss(column_of[-1], steps)
            column_of[-1].set_ylabel(LOSS)
        for axes in column_of:
            _stages(axes, rows, names=axes is column_of[0])
        _step_axis(column_of[-1], rows)
    return whole(figure)


def side_by_side(
    series: Mapping[str, tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]],
    metric: str,
    *,
    ax: Axes | None = None,
    limits: Limits | None = None,
) -> Figure:
    """`growth` of several series, one column each, on one axis of steps and one scale.

    ``series``: name -> (heads, onsets, steps), the tables of `growth`; every one has ``loss``.

    Raises:
        ValueError: a table has no row of this metric.
    """
    tables = {
        name: (select(heads, metric), onsets.loc[onsets["metric"] == metric, :], steps)
        for name, (heads, onsets, steps) in series.items()
    }
    every = pd.concat([rows for rows, _, _ in tables.values()])
    with style():
        size, shared = (4.6 * len(tables) + 1.2, 5.2), {"sharex": True, "sharey": "row", "height_ratios": [3, 1]}
        figure, grid = panels(ax, size, 2, len(tables), **shared)
        for (top, bottom), (name, (rows, own, steps)) in zip(grid.T, tables.items(), strict=True):
            kind = WORDS if known(rows, "specificity") else THINGS
            field_of(top, rows, kind)
            leaders_of(top, rows, own, kind)
            _loss(bottom, steps)
            top.set_title(f"{name}: {int(np.isfinite(column(own, kind.onset)).sum())} of {len(own)} heads")
            below = {"loc": "upper left", "bbox_to_anchor": (0, 0.95)}  # the stages' names
            top.legend(**below, fontsize=7, ncols=2, frameon=True, framealpha=1, edgecolor="none")
            for axes in (top, bottom):
                _stages(axes, rows, names=axes is top)
            _step_axis(bottom, every)
        grid[0, 0].set_ylabel(f"{words(metric)}, {kind.value}")
        low, high = grid[0, 0].get_ylim()
        grid[0, 0].set_ylim(limits or (low, 1.35 * high))  # room for the legends; the scale is shared
        grid[1, 0].set_ylabel(LOSS)
    return whole(figure)


def small_multiples(
    heads: pd.DataFrame,
    metric: str,
    *,
    higher_is_better: bool = True,
    ax: Axes | None = None,
    cmap: str | None = None,
    limits: Limits | None = None,
) -> Figure:
    """A layer x head map of the means at each step, on one scale; the best head of each step is named above it."""
    rows = select(heads, metric)
    steps = sorted(int(s) for s in rows["step"].unique())
    across = min(len(steps), 5)
    down = -(-len(steps) // across)
    with style():
        figure, grid = panels(ax, (2.2 * across + 0.9, 2.0 * down + 0.3), down, across)
        for axes in grid.flat[len(steps) :]:
            axes.set_visible(False)
        for axes, step in zip(grid.flat, steps, strict=False):
            image = map_of(axes, rows, step, higher_is_better, cmap, limits)
        figure.colorbar(image, ax=grid, shrink=0.8, pad=0.01).set_label(f"mean {words(metric)}")
        figure.supxlabel("head", fontsize=9)
        figure.supylabel(layer_label(rows["layer"]), fontsize=9)
    return whole(figure)


def layer_onsets(
    onsets: pd.DataFrame,
    heads: pd.DataFrame,
    metric: str,
    *,
    ax: Axes | None = None,
    limits: Limits | None = None,
) -> Figure:
    """A dot per head with an onset, at its step and layer; the first of each layer is filled, and how many are said.

    One panel for heads that look at things, one for those that tell the named thing, where ``onset_word`` is there.
    ``limits`` of the steps.
    """
    own, rows = onsets.loc[onsets["metric"] == metric, :], select(heads, metric)
    kinds = [THINGS] + [WORDS] * ("onset_word" in own)
    layers = column(own, "layer")
    with style():
        height = 0.32 * len(np.unique(layers)) + 1.6
        figure, grid = panels(ax, (6.4, height * len(kinds)), len(kinds), sharex=True)
        for axes, kind in zip(grid[:, 0], kinds, strict=True):
            _dots(axes, layers, column(own, kind.onset))
            axes.set(ylabel=layer_label(rows["layer"]))
            axes.set_title(f"{words(metric)}: where and when heads come to {kind.said}")
            _stages(axes, rows, names=False)
        _step_axis(grid[-1, 0], rows)
        if limits is not None:
            grid[-1, 0].set_xlim(limits)
    return whole(figure)


def _dots(axes: Axes, layers: Float[np.ndarray, " head"], first: Float[np.ndarray, " head"]) -> None:
    place = axes.get_yaxis_transform()
    for layer in np.unique(layers):
        mine = first[layers == layer]
        there = np.sort(mine[np.isfinite(mine)])
        spread = np.linspace(-0.25, 0.25, len(there)) if len(there) > 1 else np.zeros(len(there))
        axes.scatter(there, layer + spread, s=16, facecolors="none", edgecolors=LEADERS[0])
        axes.scatter(there[:1], (layer + spread)[:1], s=42, color=LEADERS[0])
        axes.text(1.01, layer, f"{len(there)} of {len(mine)}", transform=place, va="center", fontsize=8)
    axes.set_yticks(np.unique(layers))
    axes.set_ylim(layers.max() + 0.6, -0.6)


def _loss(axes: Axes, steps: pd.DataFrame) -> None:
    axes.fill_between(steps["step"], steps["loss_low"], steps["loss_high"], color=MEAN, alpha=0.25, linewidth=0)
    axes.plot(steps["step"], steps["loss"], color=MEAN, marker="o", markersize=3)


def map_of(axes: Axes, rows: pd.DataFrame, step: int, higher_is_better: bool, cmap: str | None, limits: Limits | None):
    low, high = limits or (np.nanmin(column(rows, "mean")), np.nanmax(column(rows, "mean")))
    means = square(rows.loc[rows["step"] == step, :], "mean")
    image = axes.imshow(
        means,
        cmap=cmap or scale(higher_is_better),
        vmin=float(low),
        vmax=float(high),
        aspect="auto",
        interpolation="nearest",
    )
    signed = means if higher_is_better else -means
    name = ""
    if np.isfinite(signed).any():
        best = np.unravel_index(np.nanargmax(signed), means.shape)
        name = f": {Head(*map(int, best))} {means[best]:.2f}"
    axes.set_title(f"step {step}{name}", fontsize=8)
    axes.tick_params(length=0, labelsize=7)
    axes.spines[:].set_visible(False)
    return image


def _stages(axes: Axes, rows: pd.DataFrame, names: bool) -> None:
    """A line where what is trained changes, at the last step of the stage before."""
    stages = rows.drop_duplicates("step").sort_values("step")[["step", "stage"]].to_numpy().tolist()
    for (before, old), (_, new) in pairwise(stages):
        if old != new:
            axes.axvline(before, color="#8a929c", linewidth=0.9, zorder=0)
            if names:
                place = axes.get_xaxis_transform()
                axes.text(before, 0.99, f"{old} ", transform=place, ha="right", va="top", fontsize=7, color="#5b6675")
                axes.text(before, 0.99, f" {new}", transform=place, ha="left", va="top", fontsize=7, color="#5b6675")


def _step_axis(axes: Axes, rows: pd.DataFrame) -> None:
    """Linear; where the steps span more than a factor of 20, the checkpoints stand side by side, steps between them
    linear: checkpoints are dense where much happens, at the start of each stage, which no logarithm shows."""
    steps = np.array(sorted(rows["step"].unique()), dtype=float)
    axes.set_xlabel("training step")
    positive = steps[steps > 0]
    if len(steps) < 4 or positive[-1] / positive[0] <= 20:
        return
    ends = [steps[0] - 0.5 * (steps[1] - steps[0]), *steps, steps[-1] + 0.5 * (steps[-1] - steps[-2])]
    places = [-0.5, *range(len(steps)), len(steps) - 0.5]
    axes.set_xscale("function", functions=(lambda x: np.interp(x, ends, places), lambda y: np.interp(y, places, ends)))
    axes.set_xlim(ends[0], ends[-1])
    axes.set_xticks(steps, [f"{step:g}" for step in steps], rotation=45 if len(steps) > 12 else 0)
    axes.set_xlabel("training step (checkpoints side by side)")
