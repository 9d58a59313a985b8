"""DiffLMM: LLaVA-1.5 whose eyes are a diffusion model joined with CLIP.

Importing this package makes the model known to transformers' Auto classes. Cao, Gui, Wang 2024, arXiv 2410.08209.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor

from interp.models import _hf, llava
from interp.models._shared import save as save_beside
from interp.models.difflmm.configuration import DiffLMMConfig
from interp.models.difflmm.modelling import DiffLMMForConditionalGeneration, DiffLMMModel
from interp.models.difflmm.processing import DiffLMMImageProcessorPil, DiffLMMProcessor
from interp.types import PatchGrid

__all__ = [
    "DiffLMMConfig",
    "DiffLMMForConditionalGeneration",
    "DiffLMMImageProcessorPil",
    "DiffLMMModel",
    "DiffLMMProcessor",
    "save_beside",
]

AutoConfig.register(DiffLMMConfig.model_type, DiffLMMConfig, exist_ok=True)
AutoModel.register(DiffLMMConfig, DiffLMMModel, exist_ok=True)
AutoModelForImageTextToText.register(DiffLMMConfig, DiffLMMForConditionalGeneration, exist_ok=True)
AutoImageProcessor.register(DiffLMMConfig, image_processor_classes={"pil": DiffLMMImageProcessorPil}, exist_ok=True)
AutoProcessor.register(DiffLMMConfig, DiffLMMProcessor, exist_ok=True)


def load(checkpoint: str, **from_pretrained: Any) -> tuple[torch.nn.Module, Any]:
    """The model, in eval mode, and its processor."""
    return _hf.load(DiffLMMForConditionalGeneration, checkpoint, **from_pretrained)


def decoder(model: Any) -> torch.nn.Module:
    """The language model."""
    return model.model.language_model


def template(processor: Any, prompt: str) -> str:
    """The whole text before the answer, from the processor's chat template (``llava_v1``)."""
    return _hf.template(processor, prompt)


def prepare(processor: Any, images: Sequence[np.ndarray], texts: Sequence[str], **options: Any) -> dict[str, Tensor]:
    """Inputs of ``model.forward`` and ``model.generate``, with each image's seed; left-padded where lengths differ."""
    return _hf.prepare(processor, images, texts, **options)


def grid(model: Any, processor: Any, image_size: tuple[int, int], input_ids: Tensor) -> PatchGrid:
    """The diffusion feature's cells for one image of (height, width) pixels, from its unpadded row of ``input_ids``.

    Raises:
        ValueError: the text holds another number of image tokens than the feature has cells.
    """
    side = model.config.grid_side
    positions = _hf.image_positions(input_ids, model.config.image_token_id)
    if len(positions) != side * side:
        raise ValueError(
            f"the text holds {len(positions)} image tokens, but the model's feature has {side} x {side} = "
            f"{side * side} cells; model and processor do not belong together"
        )
    return PatchGrid(positions.reshape(side, side), llava.patch_box(processor.image_processor, image_size))
