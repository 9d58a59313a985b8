"""A map of all heads, moving from step to step of a training."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from interp.plots.emergence import map_of
from interp.plots.heads import select
from interp.plots.style import Limits, layer_label, style, words


def animation(
    heads: pd.DataFrame,
    metric: str,
    *,
    higher_is_better: bool = True,
    seconds: float = 0.7,
    cmap: str | None = None,
    limits: Limits | None = None,
) -> bytes:
    """The maps of `interp.plots.emergence.small_multiples` as an animated GIF, ``seconds`` a step and
    three times that for the last."""
    rows = select(heads, metric)
    frames = []
    with style():
        figure = Figure(figsize=(4.6, 3.6), dpi=100, layout="constrained")
        axes, canvas = figure.subplots(), FigureCanvasAgg(figure)
        for step in sorted(int(s) for s in rows["step"].unique()):
            axes.clear()
            image = map_of(axes, rows, step, higher_is_better, cmap, limits)
            axes.set(xlabel="head", ylabel=layer_label(rows["layer"]))
            if not frames:
                figure.colorbar(image, ax=axes, pad=0.02).set_label(f"mean {words(metric)}")
            canvas.draw()
            figure.set_layout_engine("none")  # everything has its place now, and keeps it
            frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    last = [round(1000 * seconds)] * (len(frames) - 1) + [round(3000 * seconds)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=last, loop=0)
    return buffer.getvalue()
