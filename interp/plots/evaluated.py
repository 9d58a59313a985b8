"""What is there beside what was found: true masks and found masks over the same image."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from interp.plots.segments import colour
from interp.plots.style import style

Masks = Sequence[tuple[str, Bool[np.ndarray, "height width"]]]
"""(phrase, mask)."""


def beside(image: UInt8[np.ndarray, "height width 3"], true: Masks, found: Masks, said: str) -> Figure:
    """The image twice: with the true masks, and with those that were found; ``said`` stands below."""
    height, width = image.shape[:2]
    wide = 4.2
    tall = min(6.0, wide * height / width)
    listed = max(len(true), len(found), 1)
    with style():
        figure = Figure(figsize=(2 * wide, tall + 0.9 + 0.17 * min(listed, 8)), layout="constrained")
        for axes, title, masks in zip(figure.subplots(1, 2), ("there", "found"), (true, found), strict=True):
            _panel(axes, image, masks, title)
        figure.supxlabel("\n".join(textwrap.wrap(said, 110, max_lines=4, placeholder=" ...")), fontsize=8)
    return figure


def _label(phrase: str) -> str:
    """Short, and never empty: a legend leaves empty ones out, and warns where none is left."""
    return textwrap.shorten(phrase, 60, placeholder=" ...").lstrip("_") or "(no words)"


def _panel(axes: Axes, image: np.ndarray, masks: Masks, title: str) -> None:
    tinted = image.astype(float) / 255
    for i in sorted(range(len(masks)), key=lambda i: -int(masks[i][1].sum())):  # smaller ones lie in front
        mask = masks[i][1]
        tinted[mask] = 0.5 * image[mask] / 255 + 0.5 * np.array(to_rgb(colour(i)))
    axes.imshow(tinted)
    for i, (phrase, mask) in enumerate(masks):
        if mask.any() and not mask.all():
            axes.contour(mask, levels=[0.5], colors=[colour(i)], linewidths=1.2)
        if i < 8:
            axes.plot([], [], "s", color=colour(i), label=_label(phrase))
    axes.set(xticks=[], yticks=[], title=title)
    axes.spines[:].set_visible(False)
    if masks:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.02), fontsize=7, borderaxespad=0)
