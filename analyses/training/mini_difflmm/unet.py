"""The U-Net that takes noise off latents, told by captions."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp.models.difflmm.configuration import SCHEDULER
from training.clip import captioned, load_clip
from training.loop import begun, train
from training.mini_difflmm.autoencoder import LATENT, load_autoencoder
from training.mini_difflmm.pictures import Pictures
from training.parts import Log
from training.tokenizer import load_tokenizer

UNET = {
    "in_channels": 4, "out_channels": 4, "sample_size": LATENT, "act_fn": "silu",
    "block_out_channels": [48, 64, 96, 96], "layers_per_block": 1, "norm_num_groups": 8,
    "cross_attention_dim": 128, "attention_head_dim": 2, "mid_block_type": "UNetMidBlock2D",
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
"""diffusers calls it ``attention_head_dim``, but it is the number of heads (as in Stable Diffusion 1.5)."""
UNET_STEPS, UNET_SIZE = 4000, 64
AGAIN_STEPS, AGAIN_SIZE = 850, 32  # where there are weights to begin from
DROPPED = 0.1  # share of captions that the U-Net does not see, for guidance


def plain_attention(unet: Any, device: str) -> Any:
    """The U-Net; on a CPU with attention written out, about 3 x faster there than torch's own for so few cells."""
    from diffusers.models.attention_processor import AttnProcessor

    if device == "cpu":
        unet.set_attn_processor(AttnProcessor())
    return unet


@cache
def clip_text(pictures: Path) -> tuple[Any, Any]:
    """mini-CLIP's text model, frozen, and the tokenizer."""
    fast = load_tokenizer(pictures)
    return load_clip(pictures, fast).text_model.eval().requires_grad_(False), fast


class Batches:
    """Noised latents of ``size`` scenes at each step, with the noise and the captions; one in ten is empty."""

    def __init__(self, pictures: Path, work: Path, fast: Any, size: int) -> None:
        from diffusers import DDPMScheduler

        self.data, self.fast, self.size = Pictures(pictures), fast, size
        self.moments = np.load(work / "posteriors.npy", mmap_mode="r")
        self.scaling = load_autoencoder(work).config.scaling_factor
        self.scheduler = DDPMScheduler(**SCHEDULER)

    def __call__(self, step: int) -> dict[str, torch.Tensor]:
        size, number = self.size, len(self.data)
        visits, random = range(step * size, (step + 1) * size), torch.Generator().manual_seed(step)
        batch = captioned(self.data, self.fast, visits)
        without(batch, torch.rand(size, generator=random) < DROPPED, self.fast)
        found = torch.from_numpy(self.moments[[visit % number for visit in visits]].astype(np.float32))
        mean, deviation = found[:, :4], (found[:, 4:] / 2).exp()
        latent = self.scaling * (mean + deviation * torch.randn(mean.shape, generator=random))
        noise = torch.randn(mean.shape, generator=random)
        at = torch.randint(0, SCHEDULER["num_train_timesteps"], (size,), generator=random)
        del batch["pixel_values"]
        return {**batch, "noised": self.scheduler.add_noise(latent, noise, at), "noise": noise, "at": at}


def unet(pictures: Path, work: Path, log: Log, device: str) -> None:
    """The U-Net, from scenes and captions: which noise was added to a latent (Ho et al. 2020; Rombach et al. 2022).

    It begins from the weights in WORK/unet_start.pt, where there are some; they may lack blocks.
    """
    from diffusers import UNet2DConditionModel

    text, fast = clip_text(pictures)
    text.to(device)
    torch.manual_seed(5)
    model = plain_attention(UNet2DConditionModel(**UNET), device).to(device)
    again = begun(model, work / "unet_start.pt")
    steps, size = (AGAIN_STEPS, AGAIN_SIZE) if again else (UNET_STEPS, UNET_SIZE)
    batches = Batches(pictures, work, fast, size)

    def loss_of(batch):
        mask = batch["attention_mask"]
        with torch.no_grad():
            context = text(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
        said = model(batch["noised"], batch["at"], context, encoder_attention_mask=mask).sample.float()
        error = (said - batch["noise"]).square().mean((1, 2, 3))
        early = error[batch["at"] < 200]
        return error.mean(), {"below_200": round(early.mean().item(), 4)} if len(early) else {}

    train("unet", model, batches, loss_of, steps, 1.5e-3, 0.01, work, log, device)


def without(batch: dict[str, torch.Tensor], dropped: torch.Tensor, fast: Any) -> None:
    """Puts an empty caption in the place of those dropped."""
    empty = fast("<eot>")["input_ids"]
    batch["input_ids"][dropped] = fast.pad_token_id
    batch["attention_mask"][dropped] = 0
    batch["input_ids"][dropped, : len(empty)] = torch.tensor(empty)
    batch["attention_mask"][dropped, : len(empty)] = 1


def load_unet(work: Path, device: str) -> Any:
    """The whole trained U-Net, in eval mode."""
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(**UNET)
    model.load_state_dict(torch.load(work / "unet.pt", weights_only=True)["model"])
    return plain_attention(model, device).to(device).eval()
