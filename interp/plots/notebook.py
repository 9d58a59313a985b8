"""Each kind of result as a notebook shows it: its printed line, and a small picture below it."""

from __future__ import annotations

import base64
import html as escaping
import io
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from interp.answer.maps import reduce_heads
from interp.plots import segments
from interp.plots.heads import heat_map, known
from interp.plots.overlay import TOP, z_scores
from interp.plots.style import ATTENTION, labels, panels, style, whole
from interp.types import Capture, PhraseMaps, Sample, Segmentation

WIDE = 520
"""Pixels of the picture's width at most."""
ACROSS = 5
"""Phrases whose maps are shown."""


def html(result: Any) -> str:
    """The result's line and, if its kind has a picture and there is something to draw, that picture."""
    line = f"<code>{escaping.escape(repr(result))}</code>"
    drawn = picture(result)
    if drawn is None:
        return line
    buffer = io.BytesIO()
    with style():
        drawn.savefig(buffer, format="png", dpi=80)
    source = base64.b64encode(buffer.getvalue()).decode()
    alt = escaping.escape(repr(result), quote=True)
    return f'{line}<br><img alt="{alt}" style="max-width: {WIDE}px" src="data:image/png;base64,{source}">'


def picture(result: Any) -> Figure | None:
    """The small picture; None where there is nothing to draw."""
    kinds = {kind.__name__: kind for kind in type(result).__mro__}
    found = next((PICTURES[name] for name in kinds if name in PICTURES), None)
    return None if found is None else found(result)


def _maps(found: Capture | PhraseMaps) -> Figure | None:
    """The mean of all heads for the first phrases, side by side; over no image, since none is kept."""
    shown = [i for i in range(len(found)) if i < ACROSS]
    if not shown:
        return None
    own = found.maps() if isinstance(found, Capture) else found
    means = reduce_heads(own)[shown].float().cpu().numpy()
    rows, cols = means.shape[1:]
    with style():
        figure, (across,) = panels(None, (1.25 * len(shown), 1.25 * rows / cols + 0.35), 1, len(shown))
        names = labels(phrase.text for phrase in own.phrases)
        for axes, values, name in zip(across, means, names, strict=False):
            axes.imshow(z_scores(values), cmap=ATTENTION, vmin=0, vmax=TOP)
            axes.set_axis_off()
            axes.set_title(textwrap.shorten(name, 18, placeholder="..."), fontsize=7, loc="center")
    return whole(figure)


def _plotted(result: Any) -> Figure | None:
    return result.plot()


def _scores(scores: Any) -> Figure | None:
    """Means, or specificity where there is one, over layers and heads."""
    by = scores.chosen_by()
    table = scores.means()
    return heat_map(table, scores.metric, by=by) if known(table, by) else None


def _segmented(made: Segmentation) -> Figure | None:
    if not len(made):
        return None
    return segments.overlay(np.full((*made.image_size, 3), 235, dtype=np.uint8), made)


def _sample(sample: Sample) -> Figure:
    """The image with every target's outline."""
    with style():
        figure, ((axes,),) = panels(None, (3.2, 3.2 * sample.image.shape[0] / sample.image.shape[1] + 0.3))
        axes.imshow(sample.image)
        axes.set_axis_off()
        for target in sample.targets:
            if target.mask.any() and not target.mask.all():
                axes.contour(target.mask, levels=[0.5], linewidths=1.2)
    return whole(figure)


def _steps(series: Any) -> Figure | None:
    """A mark for each checkpoint at its step, stage below stage; damaged ones are crosses."""
    table = series.to_frame()
    if table.empty:
        return None
    stages = list(dict.fromkeys(table["stage"]))
    with style():
        figure, ((axes,),) = panels(None, (5.2, 0.4 * len(stages) + 0.8))
        for damaged, mark in ((False, "o"), (True, "x")):
            own = table[(table["damaged"].astype(str) != "") == damaged]
            axes.plot(own["step"], [stages.index(stage) for stage in own["stage"]], mark, color="#0072b2")
        axes.set_yticks(range(len(stages)), stages)
        axes.set_ylim(len(stages) - 0.5, -0.5)
        axes.set_xlabel("training step")
    return whole(figure)


PICTURES: dict[str, Callable[[Any], Figure | None]] = {
    "Capture": _maps,
    "PhraseMaps": _maps,
    "Segmentation": _segmented,
    "Sample": _sample,
    "HeadScores": _scores,
    "Ranking": _plotted,
    "Emergence": _plotted,
    "Emerged": _plotted,
    "Comparison": _plotted,
    "Cause": _plotted,
    "Effects": _plotted,
    "Series": _steps,
}
"""Kind of result, by its name -> its picture. An `LMM` has none."""
