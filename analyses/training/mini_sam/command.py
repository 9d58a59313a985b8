"""mini-sam's parts in their order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from training.loop import train
from training.mini_sam.evaluation import evaluate
from training.mini_sam.losses import loss_of
from training.mini_sam.model import export, sam, start_from_clip
from training.mini_sam.scenes import batch_of, render
from training.parts import Log, arguments, parsed, run

STEPS, RATE = 10_000, 1e-3


def fit(llava: Path, work: Path, log: Log, device: str, steps: int) -> None:
    """Trains the model; WORK/train.pt is there to go on from."""
    torch.manual_seed(0)
    model = sam()
    images, labels = (np.load(work / f"{name}.npy", mmap_mode="r") for name in ("images", "labels"))

    clip = torch.load(llava / "clip.pt", weights_only=True)["model"]
    start_from_clip(model.vision_encoder, clip, images[:64])
    model.to(device)
    model.set_attn_implementation("eager")  # for so few patches twice as fast on a CPU as torch's own

    def batches(step: int) -> dict[str, torch.Tensor]:
        return {"step": torch.tensor(step), **batch_of(images, labels, step)}

    def loss(batch):
        return loss_of(model, batch, int(batch.pop("step")))

    train("train", model, batches, loss, steps, RATE, 0.05, work, log, device, warm=200)


def main(about: str | None) -> None:
    """Every part that is not done, in order; or the one that is asked for."""
    parser = arguments(about, "mini-sam")
    parser.add_argument("--llava", type=Path, default=Path("runs/train-mini-llava"), help="mini-llava's work folder")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of training (default: {STEPS})")
    a, log = parsed(parser)
    parts = {
        "scenes": lambda: (a.work / "labels.npy").exists() or render(a.work, log),
        "train": lambda: fit(a.llava, a.work, log, a.device, a.steps),
        "export": lambda: export(a.work, log, a.out),
        "evaluate": lambda: evaluate(log, a.out),
    }
    run(parser, a.part, parts)
