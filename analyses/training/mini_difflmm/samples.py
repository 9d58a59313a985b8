"""Pictures that the trained diffusion model draws for captions, on one sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from interp.datasets import scenes
from interp.models.difflmm.configuration import SCHEDULER
from training.mini_difflmm.autoencoder import LATENT, load_autoencoder
from training.mini_difflmm.pictures import Pictures
from training.mini_difflmm.unet import clip_text, load_unet
from training.parts import Log

SAMPLED, DDIM_STEPS, GUIDANCE = 12, 30, 4.0


@torch.no_grad()
def samples(
    pictures: Path, work: Path, log: Log, device: str, out: Path, amount: int = SAMPLED, steps: int = DDIM_STEPS
) -> None:
    """OUT: a sheet of pictures that the diffusion model makes of captions from the test split (DDIM with guidance)."""
    decoder = load_autoencoder(work).to(device)
    rng, captions = np.random.default_rng(6), []
    for _ in range(amount):
        captions.append(scenes.caption(rng, scenes.choose(rng, "test", counts=(1, 3))))
    latent = denoised(pictures, work, device, captions, steps)
    made = decoder.decode(latent / decoder.config.scaling_factor).sample.clamp(-1, 1)
    images = ((made + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    sheet(images, captions).save(out)
    data = Pictures(pictures)
    seen = torch.stack([data.pixels(k) for k in range(amount)]).to(device)
    again = decoder.decode(decoder.encode(seen).latent_dist.mean).sample
    log(part="samples", sheet=out.name, reconstruction_error=round((again - seen).abs().mean().item(), 4))


def denoised(pictures: Path, work: Path, device: str, captions: list[str], steps: int) -> Any:
    """Float[caption 4 row col]: latents drawn from noise, with the captions' pull made ``GUIDANCE`` times stronger."""
    from diffusers import DDIMScheduler

    model, (text, fast), amount = load_unet(work, device), clip_text(pictures), len(captions)
    text.to(device)
    said = fast([c + "<eot>" for c in captions] + ["<eot>"] * amount, return_tensors="pt", padding=True,
                padding_side="right").to(device)  # fmt: skip
    context = text(input_ids=said["input_ids"], attention_mask=said["attention_mask"]).last_hidden_state
    scheduler = DDIMScheduler(**SCHEDULER, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    scheduler.set_timesteps(steps)
    latent = torch.randn(amount, 4, LATENT, LATENT, generator=torch.Generator().manual_seed(6)).to(device)
    for at in scheduler.timesteps:
        noise = model(torch.cat([latent, latent]), at, context, encoder_attention_mask=said["attention_mask"]).sample
        told, untold = noise.chunk(2)
        latent = scheduler.step(untold + GUIDANCE * (told - untold), at, latent).prev_sample
    return latent


def sheet(images: np.ndarray, captions: list[str], across: int = 4, side: int = 192) -> Image.Image:
    """The pictures in rows, each above its caption."""
    line, height = 30, side + 56
    made = Image.new("RGB", (across * (side + 8), -(-len(images) // across) * height), "white")
    draw = ImageDraw.Draw(made)
    for k, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = k % across * (side + 8), k // across * height
        made.paste(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC), (x, y))
        words, lines = caption.split(), [""]
        for word in words:
            lines[-1:] = [f"{lines[-1]} {word}"] if len(lines[-1]) + len(word) < line else [lines[-1], word]
        draw.multiline_text((x + 2, y + side + 2), "\n".join(part.strip() for part in lines[:4]), fill="black")
    return made
