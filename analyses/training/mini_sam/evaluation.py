"""How well the exported model finds objects from one point or their box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp.datasets import scenes
from training.parts import Log


@torch.no_grad()
def evaluate(log: Log, out: Path, samples: int = 300) -> None:
    """Logs median and mean IoU 0..1 from one random point inside each object's visible mask, on test scenes."""
    from transformers import SamModel, SamProcessor

    model, processor = SamModel.from_pretrained(out, dtype=torch.float32), SamProcessor.from_pretrained(out)
    rng, rows = np.random.default_rng(3), {"by_score": [], "last": [], "oracle": [], "box": []}
    for sample in scenes.load(samples=samples):
        masks = np.stack([target.mask for target in sample.targets])
        for name, values in overlaps(model, processor, sample.image, masks, rng).items():
            rows[name] += list(values)
    for name, values in rows.items():
        log(part="evaluate", mask=name, objects=len(values), median=round(float(np.median(values)), 4),
            mean=round(float(np.mean(values)), 4))  # fmt: skip


def overlaps(
    model: Any, processor: Any, image: np.ndarray, masks: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """IoU 0..1 with each object of the masks that a point gives (best by score, last of three, best) and its box."""
    insides = [np.argwhere(mask) for mask in masks]
    points = [[inside[rng.integers(len(inside))][::-1].tolist()] for inside in insides]
    boxes = [[*i.min(0)[::-1].tolist(), *(i.max(0)[::-1] + 1).tolist()] for i in insides]
    inputs = processor(image, input_points=[points], input_boxes=[boxes], return_tensors="pt")
    embedded = model.get_image_embeddings(inputs["pixel_values"])

    def iou_of(several: bool, prompt: str) -> tuple[np.ndarray, Any]:
        got = model(image_embeddings=embedded, multimask_output=several, **{prompt: inputs[prompt].float()})
        sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
        found = processor.post_process_masks(got.pred_masks, *sizes)[0].numpy()
        return (found & masks[:, None]).sum((2, 3)) / (found | masks[:, None]).sum((2, 3)), got.iou_scores[0]

    iou, scores = iou_of(True, "input_points")
    by_score = iou[np.arange(len(iou)), scores.argmax(1).numpy()]
    return {
        "by_score": by_score,
        "last": iou[:, -1],
        "oracle": iou.max(1),
        "box": iou_of(False, "input_boxes")[0][:, 0],
    }
