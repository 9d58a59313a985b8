"""Segmentations as other tools read them: COCO results, and the files of the released evaluation (after GLaMM)."""

from __future__ import annotations

from typing import Any

import numpy as np

from interp.datasets._coco_masks import pycocotools
from interp.types import Segmentation


def coco_results(made: Segmentation, image_id: int | str, category_id: int = 1) -> list[dict[str, Any]]:
    """COCO results, one entry a phrase with a mask: ``image_id, category_id, segmentation, bbox, area, score``.

    The segmentation is compressed run lengths, the box (x, y, width, height). A phrase without a confidence has score
    1: COCO's tools need a number. ``phrase`` and ``point`` (x, y), which those tools pass over, say what it is.
    """
    tools, entries = pycocotools(), []
    for i in np.flatnonzero(made.masks.any((1, 2))):
        rle = _rle(made.masks[i])
        score = float(made.confidence[i])
        entries.append(
            {
                "image_id": image_id,
                "category_id": category_id,
                "segmentation": rle,
                "bbox": [float(value) for value in tools.toBbox(rle)],
                "area": int(made.masks[i].sum()),
                "score": score if np.isfinite(score) else 1.0,
                "phrase": made.phrases[i].text,
                "point": [int(value) for value in made.points[i]] if np.isfinite(made.points[i]).all() else None,
            }
        )
    return entries


def gcg(made: Segmentation, image_id: str) -> dict[str, Any]:
    """What the released evaluation of grounded conversations reads from ``{image_id}.json``.

    ``image_id, caption, phrases, pred_masks`` (compressed run lengths) and ``points``; phrases without a prompt, and so
    without a mask, are left out. A phrase that had one and got an empty mask stays, as in the released code.
    """
    stay = np.flatnonzero(np.isfinite(made.points).all(1) & _prompted(made))
    return {
        "image_id": image_id,
        "caption": made.answer.strip(),
        "phrases": [made.phrases[i].text for i in stay],
        "pred_masks": [_rle(made.masks[i]) for i in stay],
        "points": [[int(x), int(y)] for x, y in made.points[stay]],
    }


def _prompted(made: Segmentation) -> np.ndarray:
    return np.ones(len(made.phrases), bool) if made.boxes is None else np.asarray(np.isfinite(made.boxes).all(-1))


def _rle(mask: np.ndarray) -> dict[str, Any]:
    rle = pycocotools().encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}
