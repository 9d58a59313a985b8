"""Pixtral's processor without torchvision, which it needs by name alone."""

from __future__ import annotations

import sys
from typing import Any

from transformers.models import pixtral
from transformers.models.pixtral import image_processing_pil_pixtral
from transformers.utils.import_utils import is_torchvision_available

_TORCHVISION = "transformers.models.pixtral.image_processing_pixtral"


def processor_class() -> Any:
    """transformers' ``PixtralProcessor``; from now on `AutoProcessor` finds it too.

    Its module takes one function, which counts tokens, from the image processor of torchvision's; the one of PIL's has
    the same.
    """
    if is_torchvision_available():
        return pixtral.PixtralProcessor
    sys.modules[_TORCHVISION] = image_processing_pil_pixtral
    try:
        from transformers.models.pixtral.processing_pixtral import PixtralProcessor
    finally:
        del sys.modules[_TORCHVISION]
    pixtral.PixtralProcessor = PixtralProcessor
    return PixtralProcessor
