"""What the segmenters of transformers share: strict loading, one embedding an image, all prompts in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from interp.models._config import check_images, check_source
from interp.models._described import check_folder
from interp.models._hf import BrokenCheckpoint, listed
from interp.types import Prompts, Proposals

PHRASES_AT_ONCE = 16
"""Masks of so many phrases are enlarged to the image's size at a time."""


@dataclass(frozen=True)
class Embedded:
    """What a model keeps of one image: ``features`` are arguments of its ``forward``, sizes are (height, width)."""

    features: dict[str, Any]
    original: tuple[int, int]
    resized: tuple[int, int]
    """Of the image as the model sees it, without padding."""


class SamLike:
    """A segmenter of SAM's family: SAM itself; the others say where they differ."""

    name = "sam"
    choice = "last"
    keeps_aspect = True  # the longest side is resized and the rest padded; else the image is squeezed into the square
    coordinates = torch.float64  # in which the processor computes points and boxes

    def __init__(self, model: Any, processor: Any):
        self.model = model
        self.processor = processor

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.device

    def embed(self, image: UInt8[np.ndarray, "height width 3"]) -> Embedded:
        """The image's features, computed once."""
        inputs = self.processor(images=image, return_tensors="pt")
        with torch.inference_mode():
            features = self.features(inputs["pixel_values"].to(self.device, self.model.dtype))
        return Embedded(features, image.shape[:2], self.resized(inputs))  # type: ignore[arg-type]

    def features(self, pixels: Tensor) -> dict[str, Any]:
        """What ``forward`` takes in place of ``pixel_values``."""
        return {"image_embeddings": self.model.get_image_embeddings(pixels)}

    def resized(self, inputs: Any) -> tuple[int, int]:
        """(height, width) of the image as the model sees it."""
        height, width = (int(side) for side in inputs["reshaped_input_sizes"][0])
        return height, width

    def propose(self, embedded: Embedded, prompts: Prompts, several: bool = True) -> Proposals:
        """Masks and predicted IoU of every phrase; empty and NaN for those without a prompt.

        Phrases with as many points (and a box or not) go through the decoder together: as a rule all of them.
        """
        count = 3 if several else 1
        masks = np.zeros((len(prompts.points), count, *embedded.original), bool)
        scores = np.full((len(prompts.points), count), np.nan)
        for which in alike(prompts):
            with torch.inference_mode():
                out = self.model(**self._arguments(embedded, prompts, which), multimask_output=several)
            scores[which] = out.iou_scores.flatten(0, 1).float().cpu().numpy()
            found = out.pred_masks.flatten(0, 1).float()
            for start in range(0, len(which), PHRASES_AT_ONCE):
                some = slice(start, start + PHRASES_AT_ONCE)
                masks[which[some]] = self.enlarged(found[some], embedded).cpu().numpy()
        return Proposals(masks, scores)

    def enlarged(self, logits: Tensor, embedded: Embedded) -> Tensor:
        """The masks at the image's size."""
        (masks,) = self.processor.post_process_masks(logits[None], [embedded.original], [embedded.resized])
        return masks

    def _arguments(self, embedded: Embedded, prompts: Prompts, which: Sequence[int]) -> dict[str, Any]:
        """Arguments of ``forward`` for phrases that are prompted alike.

        Without mask logits they are many prompts of one image; mask logits are given per image, so there the image is
        repeated (not its computation).
        """
        made: dict[str, Any] = {}
        points = prompts.points[which]
        points = points[:, np.isfinite(points[0, :, 0])]
        if points.shape[1]:
            made["input_points"] = self._scaled(points, embedded)[None]
        if prompts.boxes is not None and np.isfinite(prompts.boxes[which[0], 0]):
            corners = prompts.boxes[which].reshape(-1, 2, 2)
            made["input_boxes"] = self._scaled(corners, embedded).reshape(1, -1, 4)
        features = embedded.features
        if prompts.logits is not None:
            made = {key: value.transpose(0, 1) for key, value in made.items()}
            made["input_masks"] = self.mask_input(prompts.logits[which])[:, None].to(self.device, self.model.dtype)
            features = {key: repeated(value, len(which)) for key, value in features.items()}
        return {**features, **made}

    def _scaled(self, points: Float[np.ndarray, "phrase point 2"], embedded: Embedded) -> Tensor:
        """Points in the pixels that the model sees, scaled as its processor does."""
        (height, width), (high, wide) = embedded.original, embedded.resized
        scaled = torch.tensor(points, dtype=self.coordinates)
        scaled[..., 0] *= wide / width
        scaled[..., 1] *= high / height
        return scaled.to(self.device)

    def mask_input(self, logits: Float[Tensor, "phrase height width"]) -> Float[Tensor, "phrase side side"]:
        """Mask logits at the size that the prompt encoder takes, bicubic, padded with 0 as the image is padded."""
        side, (height, width) = self.mask_side, logits.shape[1:]
        size = (side, side)
        if self.keeps_aspect:
            longest = max(height, width)
            size = (max(1, int(height / longest * side)), max(1, int(width / longest * side)))
        small = torch.nn.functional.interpolate(logits[None].float(), size, mode="bicubic", align_corners=False)[0]
        return torch.nn.functional.pad(small, (0, side - size[1], 0, side - size[0]))

    @property
    def mask_side(self) -> int:
        """Pixels along a side of the mask input: four times the grid, 256 for the released models."""
        config = self.model.config.prompt_encoder_config
        return 4 * (config.image_size // config.patch_size)


class Sam2Like(SamLike):
    """A segmenter of SAM 2's family: features at three sizes, the image squeezed into the square."""

    name = "sam2"
    keeps_aspect = False
    coordinates = torch.float32

    def resized(self, inputs: Any) -> tuple[int, int]:
        """The square that points and boxes are scaled to."""
        return self.processor.target_size, self.processor.target_size

    def enlarged(self, logits: Tensor, embedded: Embedded) -> Tensor:
        """The masks at the image's size."""
        (masks,) = self.processor.post_process_masks(logits[None], [embedded.original])
        return masks


def alike(prompts: Prompts) -> list[list[int]]:
    """The phrases that have a prompt, grouped by the number of their points and whether they have a box.

    Mask logits alone are a prompt where neither points nor boxes are given at all.
    """
    points = np.isfinite(prompts.points).all(-1).sum(1)
    boxes = np.zeros(len(points), bool)
    if prompts.boxes is not None:
        boxes[:] = np.isfinite(prompts.boxes).all(-1)
    alone = prompts.logits is not None and prompts.boxes is None and prompts.points.shape[1] == 0
    groups: dict[tuple[int, bool], list[int]] = {}
    for i, key in enumerate(zip(points.tolist(), boxes.tolist(), strict=True)):
        if any(key) or alone:
            groups.setdefault(key, []).append(i)
    return list(groups.values())


def repeated(features: Any, times: int) -> Any:
    """Features of one image as a batch of so many, without copying."""
    if isinstance(features, Tensor):
        return features.expand(times, *features.shape[1:])
    return [repeated(feature, times) for feature in features]


def load(model_class: Any, checkpoint: str, device: str | None, **options: Any) -> Any:
    """The model in eval mode on its device (default: the GPU if there is one).

    In float32 unless ``dtype`` says otherwise: in half precision a point is placed to a 256th of the image only.

    Raises:
        BrokenCheckpoint: with the names of the weights that the checkpoint lacks.
        FileNotFoundError, interp.models._config.BrokenConfig: neither a folder nor a hub id, or a folder with files
            that cannot be read.
    """
    check_source(checkpoint, "a segmenter")
    if Path(checkpoint).is_dir():
        check_folder(Path(checkpoint))
        check_images(Path(checkpoint))
    given = {"dtype": torch.float32, **options}
    try:
        model, info = model_class.from_pretrained(checkpoint, output_loading_info=True, **given)
    except OSError as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(
            f"the segmenter {checkpoint} cannot be had ({why}); give a folder that holds it, or go online"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise BrokenCheckpoint(
            f"{checkpoint} lacks {len(missing)} of the weights of {model_class.__name__}: {listed(missing)}. "
            "Download or save it again."
        )
    return model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
