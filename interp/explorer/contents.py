"""All that a page holds, within a limit of bytes: panels, ways, images and colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np

from interp.answer.maps import Heads, head_list
from interp.contracts import Metric
from interp.explorer.panel import Pictures, panel_of
from interp.explorer.shown import Shown, Taken, units_of
from interp.plots.style import ATTENTION, SCORES
from interp.types import layer_numbers

ON_THE_PAGE = 0.75 * 4 / 3
"""Bytes of text for each byte of maps: compression (measured .61 to .83) and base64."""


class TooLarge(ValueError):
    """The page would take more bytes than are allowed.

    What to do: fewer words, heads, images or steps, or a higher limit.
    """


def contents(views: Sequence[Shown], metrics: Mapping[str, Metric], heads: Heads, limit: int) -> dict[str, Any]:
    """What the page is given, ready for JSON. ``left_out`` names the ways that the limit did not let in, last first.

    Raises:
        TooLarge: the views do not fit even in the first way.
    """
    pictures = Pictures()
    panels = [panel_of(view, metrics, heads, pictures) for view in views]
    kinds = list(dict.fromkeys(_kind(way) for panel in panels for way in panel["ways"]))
    sizes = {kind: sum(_size(way) for p in panels for way in p["ways"] if _kind(way) == kind) for kind in kinds}
    fit = [sum(sizes[kind] for kind in kinds[: i + 1]) <= limit for i in range(len(kinds))]
    kept = kinds[: sum(fit)]
    if not kept:
        raise TooLarge(_too_large(panels, sizes[kinds[0]], limit))
    for panel in panels:
        panel["ways"] = [way for way in panel["ways"] if _kind(way) in kept]
    return {
        "panels": panels,
        "images": pictures.sources,
        "metrics": {name: {"higher_is_better": metric.higher_is_better} for name, metric in metrics.items()},
        "colours": {"map": _colours(ATTENTION), "score": _colours(SCORES)},
        "left_out": [f"{query} rows of {weighting}" for query, weighting in kinds[len(kept) :]],
        "bytes": sum(sizes[kind] for kind in kept),
    }


def estimate(taken: Taken, heads: Heads, singly: bool) -> int:
    """Bytes that the captures' maps will take on the page, with every token (``singly``) or the phrases alone."""
    first = taken.captures[0]
    layers = layer_numbers(first.layers, first.attention.shape[1])
    count = len(head_list(heads, layers, first.attention.shape[2]))
    each = 2 * count * first.grid.token_index.size * ON_THE_PAGE
    return round(len(taken.captures) * len(units_of(first, singly)) * each)


def _size(way: Mapping[str, Any]) -> int:
    return sum(unit.size for unit in way["maps"])


def _kind(way: Mapping[str, Any]) -> tuple[str, str]:
    return way["query"], way["weighting"]


def _too_large(panels: Sequence[Mapping[str, Any]], size: int, limit: int) -> str:
    words = sum(len(panel["units"]) for panel in panels)
    each = size / max(1, words)
    return (
        f"{words} words x {len(panels[0]['shown'])} heads on {len(panels)} panel(s) take {size / 1e6:.1f} MB "
        f"on the page ({each / 1e6:.2f} MB a word), more than the {limit / 1e6:.1f} MB allowed: name fewer "
        "words (words=[...]), heads (heads=[(layer, head), ...]) or steps, or allow more (limit=...)"
    )


def _colours(name: str) -> str:
    """256 colours of the map, six hexadecimal digits each."""
    table = (mpl.colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    return table.tobytes().hex()
