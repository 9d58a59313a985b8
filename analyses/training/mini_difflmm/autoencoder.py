"""The autoencoder between pictures and latents, and what it makes of every scene, computed once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.loop import fast_bf16, train
from training.mini_difflmm.pictures import Pictures
from training.parts import Log
from training.pictures import PIXELS

AUTOENCODER = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "sample_size": PIXELS, "act_fn": "silu",
    "block_out_channels": [16, 32, 64], "layers_per_block": 1, "norm_num_groups": 8, "mid_block_add_attention": False,
    "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3,
}  # fmt: skip
LATENT = PIXELS // 4  # rows and columns
AUTOENCODER_STEPS, AUTOENCODER_SIZE = 1500, 32
KL = 1e-3  # of the autoencoder's loss, per number of the latent


def autoencoder(pictures: Path, work: Path, log: Log, device: str, steps: int = AUTOENCODER_STEPS) -> None:
    """The autoencoder, from pictures alone: absolute error and a little of the Kullback-Leibler divergence."""
    from diffusers import AutoencoderKL

    data = Pictures(pictures)
    torch.manual_seed(4)
    model = AutoencoderKL(**AUTOENCODER).to(device)

    def batches(step: int) -> dict[str, torch.Tensor]:
        visits = range(step * AUTOENCODER_SIZE, (step + 1) * AUTOENCODER_SIZE)
        noise = torch.randn(len(visits), 4, LATENT, LATENT, generator=torch.Generator().manual_seed(step))
        return {"pixels": torch.stack([data.pixels(visit) for visit in visits]), "noise": noise}

    def loss_of(batch):
        latent = model.encode(batch["pixels"]).latent_dist
        mean, logvar = latent.mean.float(), latent.logvar.float()
        made = model.decode(mean + (logvar / 2).exp() * batch["noise"]).sample.float()
        error = (made - batch["pixels"]).abs().mean()
        divergence = (mean.square() + logvar.exp() - 1 - logvar).mean() / 2
        return error + KL * divergence, {"error": round(error.item(), 4), "divergence": round(divergence.item(), 2)}

    train("autoencoder", model, batches, loss_of, steps, 2e-3, 0.0, work, log, device)


def load_autoencoder(work: Path) -> Any:
    """The trained autoencoder in eval mode; its ``scaling_factor`` is 1 / deviation of its latents, where known."""
    from diffusers import AutoencoderKL

    measured = work / "scaling.json"
    scaling = json.loads(measured.read_text()) if measured.exists() else {}
    model = AutoencoderKL(**AUTOENCODER, **scaling)
    model.load_state_dict(torch.load(work / "autoencoder.pt", weights_only=True)["model"])
    return model.eval()


@torch.no_grad()
def posteriors(pictures: Path, work: Path, log: Log, device: str, vae: Any = None, size: int = 100) -> None:
    """WORK/posteriors.npy (Float16[scene 8 row col], mean and log variance of each latent), WORK/scaling.json.

    The autoencoder (``vae``, or the trained one of WORK) is frozen from here on: its part is computed once for the
    U-Net and all LLaVA stages.
    """
    data, model = Pictures(pictures), vae or load_autoencoder(work).to(device)
    amount, side = len(data), LATENT
    moments = np.lib.format.open_memmap(work / "partial.npy", "w+", np.float16, (amount, 8, side, side))
    for first in range(0, amount, size):
        pixels = torch.stack([data.pixels(k) for k in range(first, min(first + size, amount))]).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=fast_bf16(device)):
            moments[first : first + size] = model.encode(pixels).latent_dist.parameters.float().cpu().numpy()
        if first % 4000 == 0:
            log(part="posteriors", done=first)
    moments.flush()
    means = torch.from_numpy(moments[:2000, :4].astype(np.float32))
    (work / "scaling.json").write_text(json.dumps({"scaling_factor": round(1 / means.std().item(), 5)}))
    log(part="posteriors", deviation=means.std((0, 2, 3)).tolist())
    os.replace(work / "partial.npy", work / "posteriors.npy")


class Posteriors:
    """What the frozen autoencoder makes of each scene, found again by the scene's seed."""

    def __init__(self, work: Path, data: Pictures) -> None:
        self.moments = np.load(work / "posteriors.npy", mmap_mode="r")
        self.of_seed = seeds_of(data)

    def __call__(self, pixel_values: torch.Tensor, seeds: list[int]) -> Any:
        """Stands in for ``DiffusionEncoder.posterior``."""
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        found = self.moments[[self.of_seed[seed] for seed in seeds]]
        return DiagonalGaussianDistribution(torch.from_numpy(found.astype(np.float32)).to(pixel_values.device))


def seeds_of(data: Pictures) -> dict[int, int]:
    """The number of the scene that has each seed."""
    return {data.seed(k): number for k, number in enumerate(data.numbers)}
