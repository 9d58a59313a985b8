"""LLaVA-1.5 and what is built like it: one grid of patches, one token each (``LlavaForConditionalGeneration``).

Chat template and processing as in the released weights (llava-hf); Liu et al. 2023, arXiv 2310.03744. Pixtral 12B is
one too, with a grid of any shape (`interp.models.mistral3`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from interp.models import _hf, mistral3
from interp.types import PatchGrid

TEMPLATE = "USER: {image}\n{prompt} ASSISTANT:"


def load(checkpoint: str, **from_pretrained: Any) -> tuple[torch.nn.Module, Any]:
    """The model, in eval mode, and its processor."""
    return _hf.load(LlavaForConditionalGeneration, checkpoint, **from_pretrained)


def decoder(model: Any) -> torch.nn.Module:
    """The language model."""
    return model.model.language_model


def template(processor: Any, prompt: str) -> str:
    """The whole text before the answer: the processor's chat template, or else LLaVA-1.5's."""
    return _hf.template(processor, prompt, TEMPLATE)


def prepare(processor: Any, images: Sequence[np.ndarray], texts: Sequence[str], **options: Any) -> dict[str, Tensor]:
    """Inputs of ``model.forward`` and ``model.generate``, left-padded where the lengths differ."""
    return _hf.prepare(processor, images, texts, **options)


def grid(model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Tensor]) -> PatchGrid:
    """Patch grid of one image of (height, width) pixels, from its own inputs without padding.

    Raises:
        ValueError: the text holds another number of image tokens than the processor makes patches.
    """
    if model.config.vision_config.model_type == "pixtral":
        return mistral3.grid(model, processor, image_size, inputs)
    patch = model.config.vision_config.patch_size
    height, width = processed_size(processor.image_processor, image_size)
    rows, cols = height // patch, width // patch
    positions = _hf.image_positions(inputs["input_ids"], model.config.image_token_id)
    summary = len(positions) - rows * cols  # a class token comes first where the model keeps it
    if summary not in (0, 1):
        raise ValueError(
            f"the text holds {len(positions)} image tokens, but an image of {height} x {width} pixels in patches of "
            f"{patch} gives {rows} x {cols} = {rows * cols}; model and processor do not belong together"
        )
    box = patch_box(processor.image_processor, image_size, patch)
    return PatchGrid(positions[summary:].reshape(rows, cols), box, placeless=positions[:summary])


def processed_size(image_processor: Any, image_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels of what the image processor makes of an image of (height, width) pixels."""
    return _frame(image_processor, image_size)[0]


def patch_box(image_processor: Any, image_size: tuple[int, int], patch: int = 1) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) of the patch grid in the pixels of the original image of (height, width) pixels.

    Follows the steps that the processor really takes: pad to a square, resize, centre crop. Where the processed image
    is no whole number of patches, the rest at its right and bottom is seen by no patch.

    Raises:
        ValueError: a processor whose steps are not known here.
    """
    (height, width), (left, top), (per_x, per_y) = _frame(image_processor, image_size)
    right, bottom = left + width // patch * patch * per_x, top + height // patch * patch * per_y
    return (left, top, right, bottom)


def _frame(
    image_processor: Any, image_size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[float, float], tuple[float, float]]:
    """(height, width) of the processed image; (x, y) of its corner and (x, y) of its pixels' size in the original's."""
    height, width = image_size
    left = top = 0.0
    per_x = per_y = 1.0
    if getattr(image_processor, "do_pad", None):
        if not hasattr(image_processor, "pad_to_square"):
            name = type(image_processor).__name__
            raise ValueError(f"{name} pads in a way that is not known here; expected do_pad=False, or pad_to_square")
        side = max(height, width)
        left, top = -float((side - width) // 2), -float((side - height) // 2)
        height = width = side
    if image_processor.do_resize:
        resized = _resized(image_processor.size, height, width)
        per_y, per_x = height / resized[0], width / resized[1]
        height, width = resized
    if getattr(image_processor, "do_center_crop", False):
        crop = image_processor.crop_size
        left += (width - crop["width"]) // 2 * per_x  # floor, also where the image is smaller and gets padded
        top += (height - crop["height"]) // 2 * per_y
        height, width = crop["height"], crop["width"]
    return (height, width), (left, top), (per_x, per_y)


def _resized(size: Any, height: int, width: int) -> tuple[int, int]:
    """(height, width) after the processor's resize: to the given size, or the short side with the shape kept."""
    given = {k: size[k] for k in ("height", "width", "shortest_edge", "longest_edge") if size.get(k)}
    if given.keys() == {"height", "width"}:
        return given["height"], given["width"]
    if given.keys() != {"shortest_edge"}:
        raise ValueError(f"the image processor resizes to {size}; expected height and width, or shortest_edge")
    short = given["shortest_edge"]
    if width <= height:
        return int(short * height / width), short
    return short, int(short * width / height)
