"""Idefics3: tiles of the image between markers of their row and column, then a thumbnail of it. arXiv 2408.12637."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from interp.models import _hf
from interp.models._tiles import tiled
from interp.types import PatchGrid

architecture = "Idefics3ForConditionalGeneration"


def grid(model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Tensor]) -> PatchGrid:
    """All tokens of one image of (height, width) pixels: the tiles as one view, and the ``thumbnail``.

    The markers between the tiles say how many there are; what the image processor counts is rounded in another way.

    Raises:
        ValueError: the text holds another number of image tokens than its markers tell of.
    """
    vision, ids = model.config.vision_config, inputs["input_ids"].reshape(-1)
    side = vision.image_size // vision.patch_size // model.config.scale_factor
    positions = _hf.image_positions(ids, model.config.image_token_id)
    between = ids[positions.min(initial=0) : positions.max(initial=0)]
    markers = processor.tokenizer.decode(between[between != model.config.image_token_id])
    told = re.findall(r"<row_(\d+)_col_(\d+)>", markers)  # without the first one's
    rows, cols = map(int, told[-1]) if told else (1, 1)
    squares = rows * cols + (rows * cols > 1)
    _hf.check_count(positions, squares * side * side, f"{squares} squares of {side} x {side}", image_size)
    return tiled(positions, image_size, side, rows, cols)
