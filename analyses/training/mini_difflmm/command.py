"""mini-difflmm's parts in their order."""

from __future__ import annotations

from pathlib import Path

from training.mini_difflmm.autoencoder import autoencoder, posteriors
from training.mini_difflmm.model import LAST, export, for_training
from training.mini_difflmm.samples import samples
from training.mini_difflmm.unet import unet
from training.parts import arguments, parsed, run
from training.stages import lora, projector


def main(about: str | None) -> None:
    """Every part that is not done, in order; or the one that is asked for."""
    parser = arguments(about, "mini-difflmm")
    parser.add_argument("--llava", type=Path, default=Path("runs/train-mini-llava"), help="mini-llava's work folder")
    parser.add_argument("--mini-llava", type=Path, help="what mini-llava ships (default: mini-llava beside --out)")
    a, log = parsed(parser)
    given = (a.llava, a.work, log, a.device)
    start = for_training(a.llava, a.work, a.device)
    parts = {
        "autoencoder": lambda: autoencoder(*given),
        "posteriors": lambda: (a.work / "posteriors.npy").exists() or posteriors(*given),
        "unet": lambda: unet(*given),
        "samples": lambda: (a.work / "samples.png").exists() or samples(*given, a.work / "samples.png"),
        "projector": lambda: projector(a.work, log, a.device, start),
        "lora": lambda: lora(a.work, log, a.device, start, until=LAST),
        "export": lambda: export(a.llava, a.work, log, a.out, a.mini_llava or a.out.resolve().parent / "mini-llava"),
    }
    run(parser, a.part, parts)
