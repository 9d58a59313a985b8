"""Gemma 3: the whole image squeezed to a square of pooled tokens; with pan-and-scan crops of it too. arXiv 2503.19786.

Pan-and-scan is off unless it is asked for: ``processor_options={"do_pan_and_scan": True}``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from interp.models import _hf
from interp.types import PatchGrid, View

architecture = "Gemma3ForConditionalGeneration"


def grid(model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Tensor]) -> PatchGrid:
    """All tokens of one image of (height, width) pixels: the whole image, then the views ``crop 1``, ``crop 2``, ...
    from left to right or from top to bottom.

    Raises:
        ValueError: the text holds no whole number of squares.
    """
    (height, width), tokens = image_size, model.config.mm_tokens_per_image
    positions = _hf.image_positions(inputs["input_ids"], model.config.image_token_id)
    squares, side = max(len(positions) // tokens, 1), math.isqrt(tokens)
    _hf.check_count(positions, squares * tokens, f"{squares} squares of {side} x {side}", image_size)
    whole, *crops = positions.reshape(squares, side, side)
    along = max(height, width)
    length = math.ceil(along / max(len(crops), 1))
    ends = np.minimum(np.arange(len(crops) + 1) * length, along).astype(float).tolist()
    wide = width >= height
    boxes = [(a, 0.0, b, float(height)) if wide else (0.0, a, float(width), b) for a, b in pairwise(ends)]
    others = tuple(View(crop, box, f"crop {i + 1}") for i, (crop, box) in enumerate(zip(crops, boxes, strict=True)))
    return PatchGrid(whole, (0.0, 0.0, float(width), float(height)), others=others)
