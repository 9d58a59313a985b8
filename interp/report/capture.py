"""One capture in a folder: all of it in a file, and its figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from interp.answer.maps import phrase_maps, reduce_heads
from interp.answer.stored import load
from interp.explorer.study import explore
from interp.plots.overlay import Row, atlas, gallery
from interp.plots.style import labels
from interp.report import explorer, html
from interp.report.figures import save
from interp.report.run import Run
from interp.types import Capture

FILE, IMAGE = "capture.safetensors", "image"

DRAWN = 24
"""Phrases that are drawn; the file holds all. An answer that repeats itself has thousands."""


def write(run: Run, capture: Capture, image: np.ndarray, normalise: str) -> None:
    """``capture.safetensors`` (`Capture.load` reads it), the explorer, and the figures of `draw`."""
    capture.save(run.folder / FILE)
    run.put(IMAGE, {"image": image})
    explorer.keep(run, explorer.first_that_fits([lambda: explore(capture, image, limit=explorer.LIMIT)]))
    run.manifest["capture"] = {
        "answer": capture.answer,
        "prompt": capture.prompt,
        "query": capture.query,
        "weighting": capture.weighting,
        "phrases": labels(phrase.text for phrase in capture.phrases),
        "grid": [*capture.grid.shape],
        "normalise": normalise,
    }
    run.save_manifest()
    draw(run)


def draw(run: Run) -> None:
    """Of the first `DRAWN` phrases the gallery, and an atlas of every head each.

    Raises:
        ValueError: the image is not there; capture it again.
    """
    stored = run.get(IMAGE)
    if stored is None:
        raise ValueError(f"{run.folder} has lost its image; run the same `interp capture` again with --force")
    capture, image = load(run.folder / FILE), stored["image"]
    found = phrase_maps(capture, run.manifest["capture"]["normalise"])
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
    for i, name in enumerate(labels(phrase.text for phrase in drawn)):
        save(run, f"phrase_{i}", atlas(maps[i].float().cpu().numpy(), name, found.layers))


def page(run: Run) -> Path:
    """The path of the written report of one capture."""
    phrases = [
        {"text": text, "picture": html.picture(run, f"phrase_{i}")}
        for i, text in enumerate(run.manifest["capture"]["phrases"][:DRAWN])
    ]
    shown = {"gallery": html.picture(run, "gallery"), "phrases": phrases, "explorer": explorer.shown(run)}
    return html.write(run, html.template("capture").render(manifest=run.manifest, **shown))
