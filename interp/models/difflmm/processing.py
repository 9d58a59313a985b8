"""Images as DiffLMM takes them: padded to a square with the mean colour, resized, each with the seed of its draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from transformers import BatchFeature, LlavaImageProcessorPil, LlavaProcessor

from interp.models._original.prompt import CHAT_TEMPLATE
from interp.models.difflmm.configuration import DiffLMMConfig
from interp.models.difflmm.encoder import number


class DiffLMMImageProcessorPil(LlavaImageProcessorPil):
    """LLaVA's image processor with padding, which also returns ``seeds``: one number 0..2**63 - 1 for each image.

    A seed stands for the image's content, so that the model's random draws depend on it and on nothing else.
    """

    do_pad = True
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)
    size: ClassVar[dict[str, int]] = {"height": 384, "width": 384}
    do_center_crop = False
    model_input_names: ClassVar[list[str]] = ["pixel_values", "seeds"]

    def _preprocess(self, images: list[np.ndarray], *args: Any, **kwargs: Any) -> BatchFeature:
        tensors = kwargs.pop("return_tensors", None)
        made = super()._preprocess(images, *args, return_tensors=None, **kwargs)
        seeds = [seed_of(image) for image in images]
        return BatchFeature({**made, "seeds": np.array(seeds, dtype=np.int64)}, tensor_type=tensors)


def seed_of(image: np.ndarray) -> int:
    """A seed 0..2**63 - 1 from an image (channel, row, col) as the processor takes it, before it is padded."""
    return number(f"{image.shape} {image.dtype}".encode() + image.tobytes())


class DiffLMMProcessor(LlavaProcessor):
    """Tokenizer and image processor; an image takes as many tokens as the diffusion feature has cells."""

    @classmethod
    def from_config(
        cls,
        config: DiffLMMConfig,
        tokenizer: Any,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> DiffLMMProcessor:
        """The processor of a model of that configuration."""
        square = {"height": config.image_size, "width": config.image_size}
        image_processor = DiffLMMImageProcessorPil(size=square, image_mean=[*image_mean], image_std=[*image_std])
        return cls(
            image_processor=image_processor,
            tokenizer=tokenizer,
            patch_size=config.patch_size,
            vision_feature_select_strategy="full",
            chat_template=CHAT_TEMPLATE,
        )
