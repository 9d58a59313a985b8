"""SmolVLM: the tiles and the thumbnail of Idefics3. Marafioti et al. 2025, arXiv 2504.05299."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Idefics3Processor

from interp.models import _hf
from interp.models.idefics3 import grid as grid

architecture = "SmolVLMForConditionalGeneration"


def load(checkpoint: str, **from_pretrained: Any) -> tuple[torch.nn.Module, Any]:
    """The model, in eval mode, and Idefics3's processor: of an image it makes what SmolVLM's own makes, which asks for
    num2words and torchvision, as it reads videos too."""
    return _hf.load(_hf.class_named(architecture), checkpoint, Idefics3Processor, **from_pretrained)
