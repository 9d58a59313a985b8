"""Figures in a run folder, its headline metric, and the stored gallery: nothing here runs a model."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.text import Text

from interp.plots.overlay import Row
from interp.plots.style import style
from interp.report.run import Run
from interp.types import PatchGrid
from interp.work.files import write_bytes

GALLERY = "gallery"
LEAST = 5.5
"""Points: the smallest text in a figure that was made narrower."""


def gallery_key(batches: str, metric: str, heads: Iterable[Any]) -> str:
    """Where the pictures of these data and these heads are kept: others get pictures of their own."""
    shown = json.dumps([batches, metric, [[*head] for head in heads]])
    return f"{GALLERY}-{hashlib.sha256(shown.encode()).hexdigest()[:40]}"


def save(run: Run, name: str, figure: Figure) -> str:
    """``figures/NAME.png``, written whole or not at all, without the date that would change its bytes; and the same in
    other ways: ``run.drawn`` holds ``formats``, ``dpi`` and, in inches, ``width``."""
    folder = run.folder / "figures"
    write_bytes(folder / f"{name}.png", drawn(figure, "png", 120))
    if width := run.drawn.get("width"):
        fit(figure, width)
    for kind in run.drawn.get("formats", ()):
        write_bytes(folder / f"{name}.{kind}", drawn(figure, kind, run.drawn["dpi"]))
    return f"figures/{name}.png"


def of(run: Run, metrics: Iterable[str], main: str) -> list[str]:
    """Those of the metrics whose figures are drawn: all, or the main one alone where ``run.drawn`` says so."""
    return [name for name in metrics if name == main or run.drawn.get("figures", "all") == "all"]


def drawn(figure: Figure, kind: str, dpi: int) -> bytes:
    """The figure as a file of that kind."""
    buffer = io.BytesIO()
    undated = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with style():  # texts that are made while drawing
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=undated[kind])
    return buffer.getvalue()


def fit(figure: Figure, width: float) -> None:
    """Makes the figure that many inches wide, if it is wider; texts shrink by less, and never below `LEAST` points."""
    wide, high = figure.get_size_inches()
    scale = width / wide
    if scale >= 1:
        return
    figure.set_size_inches(width, high * scale**0.6)
    for text in figure.findobj(Text):
        text.set_fontsize(max(text.get_fontsize() * scale**0.5, min(LEAST, text.get_fontsize())))


def headline(heads: pd.DataFrame, metrics: Mapping[str, Any]) -> str:
    """The metric that the report opens with: the pointing game, or else the first with a p-value, or else the first."""
    if "pointing_game" in metrics:
        return "pointing_game"
    tested = heads.loc[heads["p_corrected"].notna(), "metric"]
    return next((name for name in metrics if name in set(tested)), next(iter(metrics)))


def pack(rows: Iterable[Row]) -> dict[str, np.ndarray]:
    """Plain arrays for the store."""
    arrays: dict[str, np.ndarray] = {}
    words = []
    for i, row in enumerate(rows):
        arrays |= {f"image_{i}": row.image, f"index_{i}": row.grid.token_index, f"box_{i}": np.array(row.grid.box)}
        arrays[f"maps_{i}"] = np.stack(list(row.maps.values()))
        if row.mask is not None:
            arrays[f"mask_{i}"] = row.mask
        words.append({"phrase": row.phrase, "titles": list(row.maps), "notes": row.notes})
    return arrays | {"words": np.frombuffer(json.dumps(words).encode(), dtype=np.uint8)}


def unpack(arrays: Mapping[str, np.ndarray] | None) -> list[Row]:
    """The rows again; none if nothing was stored."""
    if arrays is None:
        return []
    rows = []
    for i, words in enumerate(json.loads(bytes(arrays["words"]).decode())):
        box = tuple(float(x) for x in arrays[f"box_{i}"])
        rows.append(
            Row(
                image=arrays[f"image_{i}"],
                phrase=words["phrase"],
                grid=PatchGrid(arrays[f"index_{i}"], (box[0], box[1], box[2], box[3])),
                maps=dict(zip(words["titles"], arrays[f"maps_{i}"], strict=True)),
                mask=arrays.get(f"mask_{i}"),
                notes=words["notes"],
            )
        )
    return rows
