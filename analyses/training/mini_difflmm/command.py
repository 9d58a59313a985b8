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
from training.shipped import difflmm_parts
from training.stages import again, lora, projector


def main(about: str | None) -> None:
    """Every part that is not done, in order; or the one that is asked for."""
    parser = again(arguments(about, "mini-difflmm"), LAST)
    parser.add_argument("--llava", type=Path, default=Path("runs/train-mini-llava"), help="mini-llava's work folder")
    parser.add_argument("--mini-llava", type=Path, help="what mini-llava ships (default: mini-llava beside --out)")
    a, log = parsed(parser)
    given = (a.llava, a.work, log, a.device)
    start = for_training(a.llava, a.work, a.device)
    beside = a.mini_llava or a.out.resolve().parent / "mini-llava"
    latents = {"posteriors": lambda: (a.work / "posteriors.npy").exists() or posteriors(*given)}
    trained = {"autoencoder": lambda: autoencoder(*given), **latents, "unet": lambda: unet(*given)}
    trained["samples"] = lambda: (a.work / "samples.png").exists() or samples(*given, a.work / "samples.png")
    taken = {"shipped": lambda: (a.work / "unet.pt").exists() or difflmm_parts(a.shipped, a.work, log), **latents}
    stages = {
        "eraser": lambda: (a.work / ERASER).exists() or eraser(*given),
        "aligned": lambda: (a.work / ALIGNED).exists() or aligned(*given, a.seed),
        "projector": lambda: projector(a.work, log, a.device, start, a.seed, PROJECTOR_RATE),
        "lora": lambda: lora(a.work, log, a.device, start, a.seed + 1, a.until),
        "export": lambda: export(a.llava, a.work, log, a.out, beside, a.until),
    }
    run(parser, a.part, {**(taken if a.shipped else trained), **stages})
