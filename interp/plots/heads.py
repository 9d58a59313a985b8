"""Layer x head heat map of one metric."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from interp.plots.style import BEST, SCORES, layer_label, style, words

_ROOM_FOR_NUMBERS = 16


def heat_map(
    heads: pd.DataFrame,
    metric: str,
    *,
    by: str = "mean",
    higher_is_better: bool | None = None,
    level: float = 0.05,
    unit: str = "",
    title: str = "",
    label: str = "",
    dot: str = "better than masks of other images",
) -> Figure:
    """One cell per head with its mean; bright is better; a dot where corrected p < ``level``; a frame on the best head.

    ``heads`` is the tidy frame of a ranking: ``metric layer head mean``, and for the dots ``p_corrected``, for the
    marks on the colour bar ``null`` and ``chance``. ``by="specificity"`` shows how well each head tells the named thing
    from the others in its place. ``higher_is_better``: None takes it from the frame's column of that name. ``unit`` is
    said on the colour bar, e.g. ``0..1``. With more than 16 heads a layer only the ten best cells carry their number.
    ``title``, ``label`` (of the colour bar) and ``dot`` (what a dot means) are the words for a frame of something else
    than a metric.

    Raises:
        ValueError: the frame has no row of this metric, or no head with a defined mean.
    """
    rows = select(heads, metric, by)
    if by == "specificity":
        higher_is_better, unit, dot = True, "", "tells the named thing from the others of its image"
        title, label = title or f"{words(metric)}, best specificity", label or "specificity (0: does not know the word)"
        rows = rows.assign(mean=rows["specificity"], p_corrected=rows["p_specific"], null=np.nan, chance=np.nan)
    higher_is_better = direction(rows) if higher_is_better is None else higher_is_better
    means = square(rows, "mean")
    signed = means if higher_is_better else -means
    best = np.unravel_index(np.nanargmax(signed), means.shape)
    with style():
        figure = Figure(figsize=_size(means.shape), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(means, cmap=SCORES if higher_is_better else f"{SCORES}_r", aspect="auto")
        axes.set(xlabel="head", ylabel=layer_label(rows["layer"]))
        said = f"{title}:" if title else f"{words(metric)}: best is"
        axes.set_title(f"{said} L{best[0]} H{best[1]} with {means[best]:.3g}")
        _ticks(axes, means.shape)
        _write(axes, means, signed, image)
        marked = _mark(axes, rows, level)
        axes.add_patch(Rectangle((best[1] - 0.5, best[0] - 0.5), 1, 1, fill=False, edgecolor=BEST, linewidth=2.2))
        bar = figure.colorbar(image, ax=axes, pad=0.02)
        better = "higher" if higher_is_better else "lower"
        bar.set_label(label or f"{f'{unit}, ' if unit else ''}{better} is better")
        _references(bar.ax, rows)
        if marked is not None:
            figure.supxlabel(
                f"dot: {dot}, corrected p < {level:g} ({marked} of {len(rows)} heads)",
                fontsize=8,
            )
    return figure


def direction(rows: pd.DataFrame) -> bool:
    """Whether a higher mean is better, as the frame says; True where it does not."""
    return bool(rows["higher_is_better"].iloc[0]) if "higher_is_better" in rows else True


def select(heads: pd.DataFrame, metric: str, column: str = "mean") -> pd.DataFrame:
    """The rows of one metric.

    Raises:
        ValueError: there are none, with the metrics there are; or all values of the column are NaN.
    """
    rows = heads.loc[heads["metric"] == metric, :]
    if rows.empty:
        there = ", ".join(sorted(map(str, heads["metric"].unique()))) or "none"
        raise ValueError(f"the frame has no row of metric {metric!r}; it has: {there}")
    if not known(rows, column):
        raise ValueError(f"{metric!r} is undefined (NaN) for all {len(rows)} heads: there is nothing to draw")
    return rows


def known(rows: pd.DataFrame, column: str) -> bool:
    """Whether the column is there and has a finite number."""
    return column in rows and bool(np.isfinite(rows[column].to_numpy(dtype=float)).any())


def square(rows: pd.DataFrame, column: str) -> Float[np.ndarray, "layer head"]:
    """The column as an array over layers and heads; NaN for a head that has no row."""
    layer, head = rows["layer"].to_numpy(), rows["head"].to_numpy()
    array = np.full((layer.max() + 1, head.max() + 1), np.nan)
    array[layer, head] = rows[column].to_numpy(dtype=float)
    return array


def _size(shape: tuple[int, int]) -> tuple[float, float]:
    layers, heads = shape
    cell = 0.55 if heads <= _ROOM_FOR_NUMBERS else 0.3
    return max(5.4, heads * cell + 2.0), max(3.4, layers * cell * 0.8 + 1.4)


def _ticks(axes: Axes, shape: tuple[int, int]) -> None:
    step = 1 if shape[1] <= _ROOM_FOR_NUMBERS else 2
    axes.set_xticks(range(0, shape[1], step))
    axes.set_yticks(range(0, shape[0], 1 if shape[0] <= _ROOM_FOR_NUMBERS else 2))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _write(axes: Axes, means: np.ndarray, signed: np.ndarray, image) -> None:
    rank = np.argsort(np.argsort(-np.nan_to_num(signed, nan=-np.inf), axis=None)).reshape(means.shape)
    small = means.shape[1] > _ROOM_FOR_NUMBERS
    for (layer, head), value in np.ndenumerate(means):
        if not np.isfinite(value) or (small and rank[layer, head] >= 10):
            continue
        red, green, blue, _ = image.cmap(image.norm(value))
        light = 0.3 * red + 0.59 * green + 0.11 * blue > 0.55
        text = f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.1f}"
        axes.text(
            head, layer, text, ha="center", va="center", fontsize=6 if small else 8, color="black" if light else "white"
        )


def _mark(axes: Axes, rows: pd.DataFrame, level: float) -> int | None:
    """How many heads are marked; None where the frame has no corrected p."""
    if not known(rows, "p_corrected"):
        return None
    sure = rows[rows["p_corrected"] < level]
    axes.scatter(sure["head"] + 0.36, sure["layer"] - 0.34, s=11, color="white", edgecolors="black", linewidths=0.6)
    return len(sure)


def _references(bar: Axes, rows: pd.DataFrame) -> None:
    """Marks the null and chance on the colour bar, as far as they lie on it."""
    low, high = bar.get_ylim()
    for name, dash in (("null", "-"), ("chance", ":")):
        value = float(np.nanmean(rows[name].to_numpy(dtype=float))) if known(rows, name) else np.nan
        if low <= value <= high:
            line = bar.axhline(value, color="white", linestyle=dash, linewidth=1.8, label=f"mean {name} {value:.3f}")
            line.set_path_effects([Stroke(linewidth=3, foreground="black"), Normal()])
    if bar.get_lines():
        bar.legend(loc="lower left", bbox_to_anchor=(-0.6, 1.0), fontsize=7, borderpad=0, handlelength=1.4)
