"""One segmentation in a folder: overlay, table, COCO results, the released evaluation's file, and the report."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from interp.plots.segments import colour, overlay, pieces
from interp.plots.style import labels
from interp.report import explorer, html
from interp.report.figures import save
from interp.report.run import Run
from interp.segmentation.exports import coco_results, gcg
from interp.types import Phrase, Segmentation, Skip
from interp.work.files import write_bytes

LONGEST = 230
"""Bytes of a file's name: 255, less what its temporary name has beside it."""


def write(run: Run, made: Segmentation, image: np.ndarray, image_id: str) -> None:
    """``phrases.parquet``, ``coco.json``, ``gcg/IMAGE_ID.json``, ``masks.npz`` and the overlay.

    Raises:
        ValueError: an image id that is no plain file name.
    """
    number = int(image_id) if re.fullmatch(r"\d+", image_id) else image_id
    run.write_table("phrases", made.to_frame())
    _json(run.folder / "coco.json", coco_results(made, number))
    _json(inside(run.folder / "gcg", f"{image_id}.json"), gcg(made, image_id))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, masks=made.masks, points=made.points, confidence=made.confidence)
    write_bytes(run.folder / "masks.npz", buffer.getvalue())
    spans = [[p.text, p.root, p.lemma, p.start, p.end, list(p.tokens)] for p in made.phrases]
    run.put("image", {"image": image, "phrases": np.array(json.dumps(spans))})
    run.manifest["segmentation"] = {
        "answer": made.answer,
        "prompt": made.prompt,
        "details": made.details,
        "phrases": [_row(made, i) for i in range(len(made.phrases))],
        "pieces": pieces(made.answer, made.phrases),
    }
    run.save_manifest()
    draw(run)


def draw(run: Run) -> None:
    """The overlay of all masks.

    Raises:
        ValueError: the image is not there; segment it again.
    """
    save(run, "overlay", overlay(*segmented(run)))


def segmented(run: Run) -> tuple[np.ndarray, Segmentation]:
    """The image and its segmentation, as they were written.

    Raises:
        ValueError: the image is not there.
    """
    stored, about = run.get("image"), run.manifest["segmentation"]
    if stored is None:
        raise ValueError(f"{run.folder} has lost its image; run the same `interp segment` again with --force")
    with np.load(run.folder / "masks.npz") as arrays:
        masks, points, confidence = (arrays[name] for name in ("masks", "points", "confidence"))
    phrases = tuple(
        Phrase(text, root, lemma, start, end, tuple(tokens))
        for text, root, lemma, start, end, tokens in json.loads(str(stored["phrases"]))
    )
    skipped = tuple(Skip(skip["sample_id"], skip["reason"]) for skip in run.manifest["skipped"])
    words = (about["prompt"], about["answer"], phrases)
    made = Segmentation(
        run.manifest["arguments"].get("image_id") or "", *words, points, masks, confidence,
        skipped=skipped, details=about["details"],
    )  # fmt: skip
    return stored["image"], made


def inside(folder: Path, name: str) -> Path:
    """The path of a plain file name in the folder.

    Raises:
        ValueError: the name would leave the folder, or is too long for a file's.
    """
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a plain file name; an image id must not hold a path")
    if len(name.encode()) > LONGEST:
        raise ValueError(
            f"{name[:40]}... has {len(name.encode())} bytes; a file's name may have {LONGEST}: give a shorter "
            "--image-id"
        )
    return folder / name


def page(run: Run) -> Path:
    """The path of the written report."""
    about = run.manifest["segmentation"]
    text = html.template("segmentation").render(
        manifest=run.manifest,
        about=about,
        explorer=explorer.shown(run),
        overlay=html.picture(run, "overlay"),
        pieces=[(words, None if i is None else colour(i)) for words, i in about["pieces"]],
        phrases=[{**row, "colour": colour(i)} for i, row in enumerate(about["phrases"])],
    )
    return html.write(run, text)


def _row(made: Segmentation, i: int) -> dict[str, Any]:
    point = [int(value) for value in made.points[i]] if np.isfinite(made.points[i]).all() else None
    confidence = float(made.confidence[i])
    return {
        "text": labels(phrase.text for phrase in made.phrases)[i],
        "root": made.phrases[i].root,
        "point": "–" if point is None else f"{point[0]}, {point[1]}",
        "area": f"{100 * made.masks[i].mean():.1f} %",
        "confidence": html.number(confidence if math.isfinite(confidence) else None),
    }


def _json(path: Path, content: Any) -> None:
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())
