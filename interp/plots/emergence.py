"""How grounding emerges: curves over training, a map of all heads at each step (still and moving), onsets by layer."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from interp.plots._curves import LEADERS, THINGS, WORDS, column, field_of, leaders_of
from interp.plots.heads import known, select, square
from interp.plots.style import MEAN, SCORES, layer_label, style, words

LOSS = "caption loss\n[nats a token]"


def growth(heads: pd.DataFrame, onsets: pd.DataFrame, metric: str, steps: pd.DataFrame | None = None) -> Figure:
    """The leading heads over the faint field of all, with 95 % intervals and a ring at each onset: how they come to
    look at things (score beside its null), below it at the word's thing (specificity), below it the caption loss.

    ``heads``: ``metric step layer head mean low high null`` and ``specificity specificity_low specificity_high``;
    ``onsets``: ``metric layer head onset onset_word final``; ``steps``: with ``step loss loss_low loss_high``. Panels
    are left out where a frame lacks their columns. The leaders are the five heads that are best at the last step, by
    specificity if there is any, those with an onset first. A grey line parts the stages of training.

    Raises:
        ValueError: the frame has no row of this metric.
    """
    rows = select(heads, metric)
    with_loss = steps is not None and known(steps, "loss")
    with_words = known(rows, "specificity")
    with style():
        ratios = [3] + [3] * with_words + [1] * with_loss
        figure = Figure(figsize=(7.2, 1.2 + 0.95 * sum(ratios)), layout="constrained")
        panels = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
        own = onsets.loc[onsets["metric"] == metric, :]
        for axes, kind in zip(panels, [THINGS] + [WORDS] * with_words, strict=False):
            field_of(axes, rows, kind)
            leaders_of(axes, rows, own, kind)
            count = int(np.isfinite(column(own, kind.onset)).sum())
            axes.set_title(f"{words(metric)}: {count} of {len(own)} heads come to {kind.said}")
            axes.set_ylabel("specificity" if kind is WORDS else words(metric))
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        if with_loss and steps is not None:
            _loss(panels[-1], steps)
            panels[-1].set_ylabel(LOSS)
        for axes in panels:
            _stages(axes, rows, names=axes is panels[0])
        _step_axis(panels[-1], rows)
    return figure


def side_by_side(series: Mapping[str, tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]], metric: str) -> Figure:
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
        figure = Figure(figsize=(4.6 * len(tables) + 1.2, 5.2), layout="constrained")
        panels = figure.subplots(2, len(tables), squeeze=False, sharex=True, sharey="row", height_ratios=[3, 1])
        for (top, bottom), (name, (rows, own, steps)) in zip(panels.T, tables.items(), strict=True):
            kind = WORDS if known(rows, "specificity") else THINGS
            field_of(top, rows, kind)
            leaders_of(top, rows, own, kind)
            _loss(bottom, steps)
            top.set_title(f"{name}: {int(np.isfinite(column(own, kind.onset)).sum())} of {len(own)} heads")
            top.legend(loc="upper left", fontsize=7, ncols=2, frameon=True, framealpha=1, edgecolor="none")
            for axes in (top, bottom):
                _stages(axes, rows, names=axes is top)
            _step_axis(bottom, every)
        panels[0, 0].set_ylabel(f"{words(metric)}, {kind.value}")
        panels[0, 0].set_ylim(top=1.25 * panels[0, 0].get_ylim()[1])  # room for the legends; the scale is shared
        panels[1, 0].set_ylabel(LOSS)
    return figure


def small_multiples(heads: pd.DataFrame, metric: str, *, higher_is_better: bool = True) -> Figure:
    """A layer x head map of the means at each step, on one scale; the best head of each step is named above it."""
    rows = select(heads, metric)
    steps = sorted(int(s) for s in rows["step"].unique())
    across = min(len(steps), 5)
    down = -(-len(steps) // across)
    with style():
        figure = Figure(figsize=(2.2 * across + 0.9, 2.0 * down + 0.3), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat[len(steps) :]:
            axes.set_visible(False)
        for axes, step in zip(grid.flat, steps, strict=False):
            image = _map(axes, rows, step, higher_is_better)
        figure.colorbar(image, ax=grid, shrink=0.8, pad=0.01).set_label(f"mean {words(metric)}")
        figure.supxlabel("head", fontsize=9)
        figure.supylabel(layer_label(rows["layer"]), fontsize=9)
    return figure


def animation(heads: pd.DataFrame, metric: str, *, higher_is_better: bool = True, seconds: float = 0.7) -> bytes:
    """The same maps as an animated GIF, ``seconds`` a step and three times that for the last."""
    rows = select(heads, metric)
    frames = []
    for step in sorted(int(s) for s in rows["step"].unique()):
        with style():
            figure = Figure(figsize=(4.6, 3.6), dpi=100, layout="constrained")
            axes = figure.subplots()
            image = _map(axes, rows, step, higher_is_better)
            axes.set(xlabel="head", ylabel=layer_label(rows["layer"]))
            figure.colorbar(image, ax=axes, pad=0.02).set_label(f"mean {words(metric)}")
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    last = [round(1000 * seconds)] * (len(frames) - 1) + [round(3000 * seconds)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=last, loop=0)
    return buffer.getvalue()


def layer_onsets(onsets: pd.DataFrame, heads: pd.DataFrame, metric: str) -> Figure:
    """A dot per head with an onset, at its step and layer; the first of each layer is filled, and how many are said.

    One panel for heads that look at things, one for those that tell the named thing, where ``onset_word`` is there.
    """
    own, rows = onsets.loc[onsets["metric"] == metric, :], select(heads, metric)
    kinds = [THINGS] + [WORDS] * ("onset_word" in own)
    layers = column(own, "layer")
    with style():
        height = 0.32 * len(np.unique(layers)) + 1.6
        figure = Figure(figsize=(6.4, height * len(kinds)), layout="constrained")
        panels = figure.subplots(len(kinds), 1, sharex=True, squeeze=False)[:, 0]
        for axes, kind in zip(panels, kinds, strict=True):
            _dots(axes, layers, column(own, kind.onset))
            axes.set(
                ylabel=layer_label(rows["layer"]), title=f"{words(metric)}: where and when heads come to {kind.said}"
            )
            _stages(axes, rows, names=False)
        _step_axis(panels[-1], rows)
    return figure


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


def _map(axes: Axes, rows: pd.DataFrame, step: int, higher_is_better: bool):
    low, high = np.nanmin(column(rows, "mean")), np.nanmax(column(rows, "mean"))
    means = square(rows.loc[rows["step"] == step, :], "mean")
    image = axes.imshow(
        means,
        cmap=SCORES if higher_is_better else f"{SCORES}_r",
        vmin=float(low),
        vmax=float(high),
        aspect="auto",
        interpolation="nearest",
    )
    signed = means if higher_is_better else -means
    name = ""
    if np.isfinite(signed).any():
        best = np.unravel_index(np.nanargmax(signed), means.shape)
        name = f": L{best[0]} H{best[1]} {means[best]:.2f}"
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
