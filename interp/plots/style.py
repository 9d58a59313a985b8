"""How every figure looks: sizes, fonts, and colours that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BEST = "#d55e00"
MEAN = "#0072b2"
NULL = "#7f7f7f"
CHANCE = "#000000"
OUTLINE = "#00d5ff"
SCORES = "viridis"
ATTENTION = "inferno"

Limits = tuple[float, float]
"""Least and greatest value shown: of the colours where a plot has a scale of them, else of the axis of values."""

_RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "figure.facecolor": "white",
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "svg.hashsalt": "interp",
    "svg.fonttype": "none",  # text stays text, to be found and edited
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "ps.fonttype": 42,
    "text.parse_math": False,  # a "$" of an answer is a dollar
    "text.usetex": False,
}


@contextmanager
def style() -> Iterator[None]:
    """The settings hold inside the ``with``, and the caller's own settings again after it."""
    with mpl.rc_context(_RC):
        yield


def panels(
    ax: Axes | None, size: tuple[float, float], rows: int = 1, cols: int = 1, layout: Any = "constrained", **how: Any
) -> tuple[Any, np.ndarray]:
    """A figure and its panels [row col]: a new figure of ``size`` inches, or the caller's, with the panels in place of
    ``ax``. Several panels then share its place.

    Raises:
        ValueError: several panels for axes that stand in no grid (`Figure.subplots`), and so have no place to share.
    """
    if ax is None:
        figure: Any = Figure(figsize=size, layout=layout)
        return figure, figure.subplots(rows, cols, squeeze=False, **how)
    if rows == cols == 1:
        return ax.figure, np.array([[ax]])
    place = ax.get_subplotspec()
    if place is None:
        raise ValueError(
            f"this plot has {rows} x {cols} panels, and the axes stand in no grid; make them by subplots()"
        )
    inner = ax.figure.add_subfigure(place)
    ax.remove()
    return inner, inner.subplots(rows, cols, squeeze=False, **how)


def whole(figure: Any) -> Figure:
    """The figure that this is, or is a part of."""
    return figure.canvas.figure


def labels(phrases: Iterable[str]) -> list[str]:
    """The phrases as they are shown: without blanks around them, and numbered where one is said again.

    >>> labels([" a frog", "a cup", "a frog"])
    ['a frog', 'a cup', 'a frog (2)']
    """
    said: dict[str, int] = {}
    shown = []
    for text in (" ".join(phrase.split()) for phrase in phrases):
        said[text] = said.get(text, 0) + 1
        shown.append(text if said[text] == 1 else f"{text} ({said[text]})")
    return shown


def words(metric: str) -> str:
    """The metric's name as a label: ``mass_in_mask`` gives ``mass in mask``."""
    return metric.replace("_", " ")


def layer_label(layers: Iterable[int]) -> str:
    """The label of an axis of layers, with how many have no attention heads and so are left blank.

    >>> layer_label([0, 1, 2]), layer_label([3, 7])
    ('layer', 'layer (6 of the first 8 have no attention heads)')
    """
    there = {int(x) for x in layers}
    last = max(there, default=-1) + 1
    return "layer" if len(there) == last else f"layer ({last - len(there)} of the first {last} have no attention heads)"
