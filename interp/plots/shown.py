"""A result's maps over its image, as `Capture.show` and `PhraseMaps.show` draw them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from interp.answer.maps import Heads, head_list, phrase_maps, reduce_heads
from interp.answer.targets import match_targets
from interp.images import read_image
from interp.plots.overlay import Row, gallery
from interp.plots.style import labels
from interp.types import Capture, PhraseMaps, Sample, layer_numbers

EACH = 6
"""Heads that get a column each; of more, their mean alone is shown."""


def maps(
    found: Capture | PhraseMaps,
    image: Any = None,
    heads: Heads = "all",
    *,
    phrases: Any = None,
    normalise: Any = "answer",
    **how: Any,
) -> Figure:
    """A row per phrase: the image, the mean map of the ``heads``, and each head's where they are few.

    Args:
        image: what the maps lie over, in any form; None: an empty one. A `Sample` gives its targets' outlines too.
        phrases: which of them, as `PhraseMaps.place` reads them; None: all, of a sample those that name a target.
        normalise: of a capture, as in `interp.phrase_maps`.
        how: ``ax``, ``cmap`` and ``limits`` of `interp.plots.overlay.gallery`.

    Raises:
        KeyError, ValueError: no such phrase or head, or no phrase at all.
    """
    own = phrase_maps(found, normalise) if isinstance(found, Capture) else found
    several = phrases if isinstance(phrases, list | tuple) else [phrases]
    masks = dict(match_targets(own.phrases, image.targets)) if isinstance(image, Sample) else {}
    every = list(masks) or list(range(len(own)))
    chosen = every if phrases is None else [own.place(phrase) for phrase in several]
    pixels = _empty(own) if image is None else read_image(image.image if isinstance(image, Sample) else image)
    columns = _columns(own, heads)
    drawn = {title: reduce_heads(own, some).float().cpu().numpy() for title, some in columns.items()}
    named = labels(phrase.text for phrase in own.phrases)
    rows = [Row(pixels, named[i], own.grid, {t: m[i] for t, m in drawn.items()}, masks.get(i)) for i in chosen]
    return gallery(rows, **how)


def _columns(own: PhraseMaps, heads: Heads) -> dict[str, Any]:
    """Titles and the heads that they stand for."""
    count = own.maps.shape[1]
    chosen = head_list(heads, layer_numbers(own.layers, count), own.maps.shape[2])
    each: dict[str, Any] = {str(head): [head] for head in chosen} if len(chosen) <= EACH else {}
    mean = f"mean of {'all' if isinstance(heads, str) and heads == 'all' else ''} {len(chosen)} heads"
    return ({} if len(chosen) == 1 else {" ".join(mean.split()): chosen}) | each


def _empty(own: PhraseMaps) -> np.ndarray:
    """A grey image as large as what the maps cover."""
    _, _, x1, y1 = own.grid.box
    return np.full((max(math.ceil(y1), 1), max(math.ceil(x1), 1), 3), 128, dtype=np.uint8)
