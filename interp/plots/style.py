"""How every figure looks: sizes, fonts, and colours that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl

BEST = "#d55e00"
MEAN = "#0072b2"
NULL = "#7f7f7f"
CHANCE = "#000000"
OUTLINE = "#00d5ff"
SCORES = "viridis"
ATTENTION = "inferno"

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
    "text.parse_math": False,  # a "$" of an answer is a dollar
    "text.usetex": False,
}


@contextmanager
def style() -> Iterator[None]:
    """The settings hold inside the ``with``, and the caller's own settings again after it."""
    with mpl.rc_context(_RC):
        yield


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
