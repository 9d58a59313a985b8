"""An image with its phrases' masks, and the answer below it with the phrases in the masks' colours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from interp.plots.style import panels, style, whole
from interp.types import Phrase, Segmentation

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#a5aa00", "#8c564b", "#e7298a")
"""Told apart by colour-blind readers in this order; used again from the eleventh phrase on."""

Pieces = list[tuple[str, int | None]]


def overlay(image: UInt8[np.ndarray, "height width 3"], made: Segmentation, *, ax: Axes | None = None) -> Figure:
    """The masks over the image, each with its point, and the answer with every phrase in its mask's colour.

    Phrases without a mask stay black.

    Raises:
        ValueError: the segmentation is of an image of another size.
    """
    if len(made.masks) and made.image_size != image.shape[:2]:
        raise ValueError(f"masks of {made.image_size} (height, width) for an image of {image.shape[:2]}")
    height, width = image.shape[:2]
    with style():
        wide = 6.4
        tall = min(9.0, wide * height / width)
        figure, ((picture,), (words,)) = panels(ax, (wide, tall + 1.3), 2, layout=None, height_ratios=[tall, 1.2])
        if ax is None:
            FigureCanvasAgg(figure)
        figure.subplots_adjust(left=0.02, right=0.98, top=0.985, bottom=0.015, hspace=0.03)
        picture.imshow(_tinted(image, made))
        for i, mask in enumerate(made.masks):
            _mark(picture, made, i, mask)
        for axes in (picture, words):
            axes.set_axis_off()
        picture.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        _write(words, pieces(made.answer, _masked(made)))
    return whole(figure)


def colour(phrase: int) -> str:
    """The colour of a phrase's mask and words."""
    return COLOURS[phrase % len(COLOURS)]


def pieces(answer: str, phrases: Sequence[Phrase | None]) -> Pieces:
    """The answer cut where a phrase begins or ends: its pieces in order with the phrase's number, None in between.

    Of phrases that overlap the later one gives way.
    """
    owner = np.full(len(answer), -1)
    for i, phrase in enumerate(phrases):
        if phrase is not None:
            start, end = extent(answer, phrase)
            if (owner[start:end] < 0).all():
                owner[start:end] = i
    cuts = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(answer)]
    return [(answer[a:b], None if owner[a] < 0 else int(owner[a])) for a, b in pairwise(cuts) if a < b]


def extent(answer: str, phrase: Phrase) -> tuple[int, int]:
    """(start, end) of the whole phrase's characters; those of its root where its text is not found around it."""
    start = answer.find(phrase.text, max(0, phrase.end - len(phrase.text)))
    inside = 0 <= start <= phrase.start and phrase.end <= start + len(phrase.text)
    return (start, start + len(phrase.text)) if inside else (phrase.start, phrase.end)


def _masked(made: Segmentation) -> list[Phrase | None]:
    return [phrase if mask.any() else None for phrase, mask in zip(made.phrases, made.masks, strict=True)]


def _tinted(image: np.ndarray, made: Segmentation) -> np.ndarray:
    """The image, half of each masked pixel in its phrase's colour; smaller masks lie in front."""
    from matplotlib.colors import to_rgb

    tinted = image.astype(float) / 255
    for i in np.argsort([-mask.sum() for mask in made.masks], kind="stable"):
        mask = made.masks[i]
        tinted[mask] = 0.5 * image[mask] / 255 + 0.5 * np.array(to_rgb(colour(int(i))))
    return tinted


def _mark(axes: Axes, made: Segmentation, i: int, mask: np.ndarray) -> None:
    if mask.any() and not mask.all() and min(mask.shape) > 1:  # a line of pixels has no contour
        axes.contour(mask, levels=[0.5], colors=[colour(i)], linewidths=1.6)
    if np.isfinite(made.points[i]).all():
        axes.plot(*made.points[i], "o", color=colour(i), markeredgecolor="white", markersize=7, markeredgewidth=1.4)


def _write(axes: Axes, text: Pieces) -> None:
    """The pieces from left to right, wrapped between words; smaller until they fit."""
    for size in (11.0, 9.0, 7.0, 5.5, 4.5):
        for written in list(axes.texts):
            written.remove()
        if _set(axes, text, size):
            return


def _set(axes: Axes, text: Pieces, size: float) -> bool:
    """Whether the text fits at this size; it stands there either way."""
    figure = axes.figure
    renderer = figure.canvas.get_renderer()  # type: ignore[union-attr]
    frame = axes.get_window_extent(renderer)
    line = size * 1.45 * figure.dpi / 72 / frame.height
    x, y = 0.01, 0.98
    for words, phrase in text:
        for word in _words(words):
            kind = {"color": "black"} if phrase is None else {"color": colour(phrase), "fontweight": "bold"}
            drawn = axes.text(x, y, word, transform=axes.transAxes, fontsize=size, va="top", **kind)  # type: ignore[arg-type]
            wide = drawn.get_window_extent(renderer).width / frame.width
            if x + wide > 0.99 and x > 0.01:
                x, y = 0.01, y - line
                drawn.set_position((x, y))
            x += wide + (size * 0.28 * figure.dpi / 72 / frame.width if word.endswith(" ") else 0)
    return bool(y - line >= -0.05)


def _words(text: str) -> list[str]:
    """The words, each with the blank that follows it."""
    words = text.replace("\n", " ").split(" ")
    return [word + " " for word in words[:-1]] + ([words[-1]] if words[-1] else [])
