"""Scenes with label maps, and the prompts and targets of a step."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from interp.datasets import scenes
from training.parts import Log
from training.pictures import PATCH, PIXELS, drawn, normalised

SCENES = 8000
SIDE = scenes.SIZE  # of the label maps: points are drawn and boxes measured in the scene's own pixels
CELLS = PIXELS // PATCH * 4  # side of the decoder's masks
BATCH, PROMPTS = 12, 8


def labelled(index: int) -> tuple[np.ndarray, np.ndarray]:
    """UInt8[PIXELS PIXELS 3], resized as the processor does, and UInt8[SIDE SIDE] with 1, 2, ... for the objects."""
    rng = scenes.generator("train", 2_000_000 + index)
    scene = scenes.compose(rng, scenes.choose(rng, "train", counts=(1, 5)))
    small = Image.fromarray(scene.image).resize((PIXELS, PIXELS), Image.Resampling.BILINEAR)
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for k, mask in enumerate(scene.masks):
        labels[mask] = k + 1
    return np.asarray(small), labels


def render(work: Path, log: Log) -> None:
    """WORK/images.npy and WORK/labels.npy, of the training split."""
    images = np.lib.format.open_memmap(work / "partial_images.npy", "w+", np.uint8, (SCENES, PIXELS, PIXELS, 3))
    labels = np.lib.format.open_memmap(work / "partial_labels.npy", "w+", np.uint8, (SCENES, SIDE, SIDE))
    for i, (image, label) in drawn(labelled, SCENES, log, 2000, part="scenes"):
        images[i], labels[i] = image, label
    images.flush()
    labels.flush()
    os.replace(work / "partial_images.npy", work / "images.npy")
    os.replace(work / "partial_labels.npy", work / "labels.npy")


def turned(image: np.ndarray, labels: np.ndarray, how: int) -> tuple[np.ndarray, np.ndarray]:
    """One of the eight ways to turn and mirror a square."""
    turn = lambda a: np.rot90(a[:, ::-1] if how & 4 else a, how & 3)  # noqa: E731
    return turn(image), turn(labels)


def box_of(inside: np.ndarray, rng: np.random.Generator) -> list[float]:
    """The object's box, each side moved by a tenth of its length (standard deviation), at most 4 pixels."""
    y, x = np.divmod(inside, SIDE)
    box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], float)
    length = np.array([box[2] - box[0], box[3] - box[1]] * 2)
    return list((box + (rng.normal(0, 0.1, 4) * length).clip(-4, 4)).clip(0, SIDE))


def batch_of(images: np.ndarray, labels: np.ndarray, step: int) -> dict[str, torch.Tensor]:
    """Pixels [image 3 side side], points [image prompt 3 2], boxes [image prompt 4], targets: covered shares 0..1.

    Points and boxes are in the model's pixels, as the processor would have them.
    """
    rng = np.random.default_rng([step, 11])
    made = {"pixels": [], "points": [], "boxes": [], "targets": []}
    cell, scale = SIDE // CELLS, PIXELS / SIDE
    for which in rng.integers(len(images), size=BATCH):
        image, label = turned(images[which], labels[which], int(rng.integers(8)))
        present = np.flatnonzero(np.bincount(label.ravel(), minlength=2)[1:]) + 1
        chosen = np.concatenate([rng.permutation(present) for _ in range(PROMPTS)])[:PROMPTS]
        insides = [np.flatnonzero(label.ravel() == k) for k in chosen]
        points = [np.stack(np.divmod(rng.choice(inside, 3), SIDE)[::-1], 1) for inside in insides]
        made["pixels"].append(image)
        made["points"].append(np.stack(points) * scale)
        made["boxes"].append(np.array([box_of(inside, rng) for inside in insides]) * scale)
        shares = (label == chosen[:, None, None]).reshape(PROMPTS, CELLS, cell, CELLS, cell).mean((2, 4))
        made["targets"].append(shares)
    batch = {key: torch.from_numpy(np.stack(value)).float() for key, value in made.items()}
    batch["pixels"] = normalised(np.stack(made["pixels"]))
    return batch
