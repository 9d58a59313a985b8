"""One capture in a folder: its rows as arrays, and its figures."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np

from interp.answer.maps import phrase_maps, reduce_heads
from interp.plots.overlay import Row, atlas, gallery
from interp.report import html
from interp.report.figures import save
from interp.report.files import write_bytes
from interp.report.run import Run
from interp.types import Capture, layer_numbers

DRAWN = 24
"""Phrases that are drawn; the arrays hold all. An answer that repeats itself has thousands."""


def write(run: Run, capture: Capture, image: np.ndarray, normalise: str) -> None:
    """``capture.npz``, and of the first `DRAWN` phrases the gallery and an atlas of every head each."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        attention=capture.attention.float().cpu().numpy(),
        mean=capture.mean.float().cpu().numpy(),
        kept=capture.kept,
        token_index=capture.grid.token_index,
        box=np.array(capture.grid.box),
        tokens=np.array(capture.tokens),
        answer=np.array(capture.answer),
        phrases=np.array(json.dumps([vars(phrase) for phrase in capture.phrases])),
        weighting=np.array(capture.weighting),
        **_about_layers_and_views(capture),  # type: ignore[arg-type]
    )
    write_bytes(run.folder / "capture.npz", buffer.getvalue())
    found = phrase_maps(capture, normalise)
    maps = found.maps
    reductions = {"mean of all heads": reduce_heads(maps, "all").float().cpu().numpy()}
    if maps.shape[2] >= 2:
        reductions["released code's heads"] = reduce_heads(maps, "released").float().cpu().numpy()
    drawn = capture.phrases[:DRAWN]
    rows = [
        Row(image, phrase.text, capture.grid, {title: m[i] for title, m in reductions.items()})
        for i, phrase in enumerate(drawn)
    ]
    save(run, "gallery", gallery(rows))
    for i, phrase in enumerate(drawn):
        save(run, f"phrase_{i}", atlas(maps[i].float().cpu().numpy(), phrase.text, found.layers))
    run.manifest["capture"] = {
        "answer": capture.answer,
        "prompt": capture.prompt,
        "query": capture.query,
        "weighting": capture.weighting,
        "phrases": [phrase.text for phrase in capture.phrases],
        "grid": [*capture.grid.shape],
        "normalise": normalise,
    }


def _about_layers_and_views(capture: Capture) -> dict[str, np.ndarray]:
    """Layers' numbers; names, tokens and boxes of the image's other views; what no map shows."""
    arrays = {"layers": np.array(layer_numbers(capture.layers, capture.attention.shape[1]))}
    arrays |= {"view": np.array(capture.grid.name), "placeless": capture.grid.placeless}
    if capture.elsewhere is not None:
        arrays["elsewhere"] = capture.elsewhere.float().cpu().numpy()
    for view in capture.grid.others:
        arrays |= {f"token_index of {view.name}": view.token_index, f"box of {view.name}": np.array(view.box)}
    return arrays


def page(run: Run) -> Path:
    """The path of the written report of one capture."""
    phrases = [
        {"text": text, "picture": html.picture(run, f"phrase_{i}")}
        for i, text in enumerate(run.manifest["capture"]["phrases"][:DRAWN])
    ]
    page = html.template("capture").render(manifest=run.manifest, gallery=html.picture(run, "gallery"), phrases=phrases)
    return html.write(run, page)
