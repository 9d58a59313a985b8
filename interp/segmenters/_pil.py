"""SAM 2's processor without torchvision: transformers has its image processor for torchvision only.

The same steps with Pillow: resize to the square (bilinear, antialiased), rescale, normalise. Pixels may differ from
torchvision's by one level of 255, as those of transformers' other pairs of backends.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import PILImageResampling
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


class Sam2ImageProcessorPil(PilBackend):
    """``pixel_values`` and ``original_sizes``, as ``Sam2ImageProcessor`` gives them."""

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 1024, "width": 1024}  # noqa: RUF012
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True

    def preprocess(self, images: Any, segmentation_maps: Any = None, **kwargs: Any) -> BatchFeature:
        """The images' pixels in the square, and their sizes before."""
        if segmentation_maps is not None:
            raise ValueError("segmentation maps need torchvision; here are images alone")
        pictures: Any = images if isinstance(images, list | tuple) else [images]
        made = super().preprocess(pictures, **kwargs)
        made["original_sizes"] = [
            [*self.process_image(picture, do_convert_rgb=True).shape[-2:]] for picture in pictures
        ]
        if isinstance(made["pixel_values"], Tensor):
            made["original_sizes"] = torch.tensor(made["original_sizes"])
        return made

    def post_process_masks(
        self, masks: Any, original_sizes: Any, mask_threshold: float = 0.0, binarize: bool = True, *_: Any, **__: Any
    ) -> list[Tensor]:
        """Each image's mask logits at its size (bilinear), as booleans."""
        sizes = original_sizes.tolist() if isinstance(original_sizes, Tensor) else original_sizes
        resize = torch.nn.functional.interpolate
        large = [
            resize(mask, tuple(size), mode="bilinear", align_corners=False)
            for mask, size in zip(masks, sizes, strict=True)
        ]
        return [mask > mask_threshold if binarize else mask for mask in large]


def sam2_processor(checkpoint: str) -> Any:
    """``Sam2Processor``, with transformers' own image processor if torchvision is there."""
    from transformers import Sam2Processor

    if find_spec("torchvision") is not None:
        return Sam2Processor.from_pretrained(checkpoint)
    return Sam2Processor(Sam2ImageProcessorPil.from_pretrained(checkpoint))
