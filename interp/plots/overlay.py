"""Maps over images: a gallery with one row a phrase, and an atlas with one cell a head.

Colour is the same everywhere: each map's z-score over its patches (how many standard deviations a patch lies above the
map's mean), from 0 to 4 and clipped there. Maps of different size and heads of different strength so compare.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from interp.answer.pixels import to_pixels
from interp.plots.style import ATTENTION, OUTLINE, Limits, labels, layer_label, panels, style, whole
from interp.types import View, layer_numbers

TOP = 4.0


@dataclass(frozen=True)
class Row:
    """One row of a gallery: an image, a phrase, the mask it should find (if known), and maps by column title.

    ``notes`` go below the maps of the same name, e.g. a score.
    """

    image: UInt8[np.ndarray, "height width 3"]
    phrase: str
    grid: View
    maps: dict[str, Float[np.ndarray, "row col"]]
    mask: Bool[np.ndarray, "height width"] | None = None
    notes: dict[str, str] = field(default_factory=dict)


def gallery(
    rows: Sequence[Row], *, ax: Axes | None = None, cmap: str = ATTENTION, limits: Limits = (0.0, TOP)
) -> Figure:
    """Rows are phrases; columns are the image with the mask's outline, then every map over the image in grey.

    A cross marks the middle of each map's highest patch. All rows show the same maps, in the order of the first row's.
    ``limits`` of the colours, in standard deviations.

    Raises:
        ValueError: no rows, or rows with different maps.
    """
    titles = list(rows[0].maps) if rows else []
    if not titles or any(list(row.maps) != titles for row in rows):
        given = sorted({", ".join(row.maps) for row in rows})
        raise ValueError(f"a gallery needs at least one row, and the same maps in each; got {given or 'no rows'}")
    first = "image" if all(row.mask is None for row in rows) else "image and mask"
    size = (1.6 * (1 + len(titles)) + 0.3, 1.8 * len(rows) + 0.9)
    with style():
        # Constrained layout takes longer than all the drawing; here every panel has one size, so the places are known.
        figure, grid = panels(ax, size, len(rows), 1 + len(titles), layout=None)
        for axes, row, label in zip(grid, rows, labels(row.phrase for row in rows), strict=True):
            _image(axes[0], row, label)
            for axis, title in zip(axes[1:], titles, strict=True):
                _map(axis, row, title, cmap, limits)
        for axis, title in zip(grid[0], [first, *titles], strict=True):
            axis.set_title(title, loc="center", fontsize=9)
        scale = ScalarMappable(Normalize(*limits), cmap)
        if ax is None:
            lines = max(row_axes[0].get_ylabel().count("\n") for row_axes in grid) + 1
            _placed(figure, size, 0.12 + 0.15 * lines)
        place: dict[str, Any] = {"ax": grid} if ax is not None else {"cax": _below(figure, size)}
        how = {} if ax is None else {"location": "bottom", "shrink": 0.4, "pad": 0.01, "aspect": 30}
        bar = figure.colorbar(scale, orientation="horizontal", **place, **how)
        bar.set_label(f"z-score over patches, {limits[0]:g} to {limits[1]:g} (cross: highest patch)")
    return whole(figure)


def _placed(figure: Figure, size: tuple[float, float], left: float) -> None:
    """Puts the panels where there is room for names at the left and above, notes below them, and the scale at the end;
    all in inches."""
    width, height = size
    figure.subplots_adjust(
        left=left / width, right=1 - 0.08 / width, top=1 - 0.28 / height, bottom=0.85 / height, wspace=0.05, hspace=0.16
    )


def _below(figure: Figure, size: tuple[float, float]) -> Axes:
    """The axes of the colour scale."""
    height = size[1]
    return figure.add_axes((0.32, 0.45 / height, 0.4, 0.1 / height))


def atlas(
    maps: Float[np.ndarray, "layer head row col"],
    phrase: str,
    numbers: tuple[int, ...] = (),
    *,
    ax: Axes | None = None,
    cmap: str = ATTENTION,
    limits: Limits = (0.0, TOP),
) -> Figure:
    """Every head's map of one phrase: layers downwards, heads to the right, z-score over patches within ``limits``.
    ``numbers`` of the layers, if they are not 0, 1, ..."""
    layers, heads, height, width = maps.shape
    named = layer_numbers(numbers, layers)
    scored = np.stack([z_scores(m) for m in maps.reshape(-1, height, width)]).reshape(maps.shape)
    framed = np.pad(scored, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    mosaic = framed.transpose(0, 2, 1, 3).reshape(layers * (height + 1), heads * (width + 1))[:-1, :-1]
    with style():
        cell = 0.8 if heads <= 16 else 0.45
        figure, ((axes,),) = panels(ax, (cell * heads + 1.4, cell * layers * height / width + 0.8))
        image = axes.imshow(mosaic, cmap=cmap, vmin=limits[0], vmax=limits[1], interpolation="nearest")
        axes.set_xticks(np.arange(heads) * (width + 1) + (width - 1) / 2, [str(h) for h in range(heads)])
        axes.set_yticks(np.arange(layers) * (height + 1) + (height - 1) / 2, [str(n) for n in named])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set(xlabel="head", ylabel=layer_label(named))
        axes.set_title(f"every head's map of “{phrase.strip()}”")
        figure.colorbar(image, ax=axes, pad=0.01).set_label(f"z-score over patches, {limits[0]:g} to {limits[1]:g}")
    return whole(figure)


def z_scores(values: Float[np.ndarray, "row col"]) -> Float[np.ndarray, "row col"]:
    """The map less its mean, over its standard deviation; NaN where the map is constant."""
    spread = values.std()
    return (values - values.mean()) / (spread if spread > 0 else np.nan)


def _image(axes: Axes, row: Row, label: str) -> None:
    axes.imshow(row.image)
    _bare(axes)
    _outline(axes, row.mask)
    axes.set_ylabel("\n".join(textwrap.wrap(label, 18)), fontsize=9)


def _map(axes: Axes, row: Row, title: str, cmap: str, limits: Limits) -> None:
    height, width = row.image.shape[:2]
    scored = torch.from_numpy(z_scores(row.maps[title]).astype(np.float32))
    pixels = to_pixels(scored[None], row.grid, (height, width))[0].numpy()
    grey = row.image.astype(float).mean(2) / 255
    axes.imshow(np.repeat(grey[..., None] * 0.75, 3, 2))
    strength = np.nan_to_num(np.clip((pixels - limits[0]) / (limits[1] - limits[0]), 0, 1))
    axes.imshow(pixels, cmap=cmap, vmin=limits[0], vmax=limits[1], alpha=np.clip(strength * 1.6, 0, 0.9))
    _outline(axes, row.mask)
    axes.set_autoscale_on(False)  # a cross in the padding must not widen the picture
    for x, y in _highest(row.maps[title], row.grid):
        axes.plot(x, y, "x", color="white", markersize=7, markeredgewidth=2.5)
        axes.plot(x, y, "x", color="black", markersize=6, markeredgewidth=1.2)
    axes.set_xlabel(row.notes.get(title, ""), fontsize=7.5)
    _bare(axes)


def _highest(values: Float[np.ndarray, "row col"], grid: View) -> list[tuple[float, float]]:
    """The middle of the highest patch as (x, y) in the pixels' indices; of all that share the maximum; none if NaN."""
    x0, y0, x1, y1 = grid.box
    rows, cols = values.shape
    if not np.isfinite(values).any() or np.nanmin(values) == np.nanmax(values):
        return []
    at = np.argwhere(values == np.nanmax(values))
    return [
        (float(x0 + (col + 0.5) * (x1 - x0) / cols - 0.5), float(y0 + (row + 0.5) * (y1 - y0) / rows - 0.5))
        for row, col in at
    ]


def _outline(axes: Axes, mask: Bool[np.ndarray, "height width"] | None) -> None:
    if mask is not None and mask.any() and not mask.all():
        axes.contour(mask, levels=[0.5], colors=[OUTLINE], linewidths=1.2)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
