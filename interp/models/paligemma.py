"""PaliGemma (2): the image squeezed to a square, then a prompt whose tokens all see each other. arXiv 2412.03555."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from interp.models import _hf
from interp.types import PatchGrid

architecture = "PaliGemmaForConditionalGeneration"
END = "\n"
"""Ends the prompt; the processor adds it."""


def template(processor: Any, prompt: str) -> str:
    """The whole text before the answer: image, prompt, line's end."""
    return _hf.template(processor, prompt, "{image}{prompt}" + END)


def prepare(processor: Any, images: Sequence[np.ndarray], texts: Sequence[str], **options: Any) -> dict[str, Tensor]:
    """Inputs of ``model.forward`` and ``model.generate``, left-padded where the lengths differ."""
    with warnings.catch_warnings():  # the processor also makes labels, from tensors in a way that numpy warns of
        warnings.simplefilter("ignore", DeprecationWarning)
        return _hf.prepare(processor, images, [text.removesuffix(END) for text in texts], **options)


def grid(model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Tensor]) -> PatchGrid:
    """All tokens of one image of (height, width) pixels.

    Raises:
        ValueError: the text holds another number of image tokens than the image has patches.
    """
    vision = model.config.vision_config
    side = vision.image_size // vision.patch_size
    positions = _hf.image_positions(inputs["input_ids"], model.config.image_token_id)
    _hf.check_count(positions, side * side, f"{side} x {side} patches", image_size)
    seen = side * vision.patch_size / vision.image_size
    return PatchGrid(positions.reshape(side, side), (0.0, 0.0, image_size[1] * seen, image_size[0] * seen))
