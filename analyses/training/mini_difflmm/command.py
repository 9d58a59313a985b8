"""mini-difflmm's parts in their order."""

from __future__ import annotations

from pathlib import Path

from training.mini_difflmm.aligned import ALIGNED
from training.mini_difflmm.autoencoder import autoencoder, posteriors
from training.mini_difflmm.erasing import ERASER
from training.mini_difflmm.likeness import eraser
from training.mini_difflmm.model import LAST, PROJECTOR_RATE, aligned, export, for_training
from training.mini_difflmm.samples import samples
from training.mini_difflmm.unet import unet
from training.parts import arguments, parsed, run
from training.stages import lora, projector


def main(about: str | None) -> None:
    """Every part that is not done, in order; or the one that is asked for."""
    parser = arguments(about, "mini-difflmm")
    parser.add_argument("--llava", type=Path, default=Path("runs/train-mini-llava"), help="mini-llava's work folder")
    parser.add_argument("--seed", type=int, default=2, help="of projector and captioner; the adapters take the next")
    parser.add_argument("--mini-llava", type=Path, help="what mini-llava ships (default: mini-llava beside --out)")
    a, log = parsed(parser)
    given = (a.llava, a.work, log, a.device)
    start = for_training(a.llava, a.work, a.device)
    parts = {
        "autoencoder": lambda: autoencoder(*given),
        "posteriors": lambda: (a.work / "posteriors.npy").exists() or posteriors(*given),
        "unet": lambda: unet(*given),
        "eraser": lambda: (a.work / ERASER).exists() or eraser(*given),
        "aligned": lambda: (a.work / ALIGNED).exists() or aligned(*given, a.seed),
        "samples": lambda: (a.work / "samples.png").exists() or samples(*given, a.work / "samples.png"),
        "projector": lambda: projector(a.work, log, a.device, start, a.seed, PROJECTOR_RATE),
        "lora": lambda: lora(a.work, log, a.device, start, a.seed + 1, LAST),
        "export": lambda: export(a.llava, a.work, log, a.out, a.mini_llava or a.out.resolve().parent / "mini-llava"),
    }
    run(parser, a.part, parts)
