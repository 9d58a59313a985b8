"""The parts of a training that a shipped model holds, for another training of its last two stages."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from training.mini_difflmm.autoencoder import AUTOENCODER
from training.parts import Log


def llava_parts(shipped: Path, work: Path, log: Log) -> None:
    """WORK/tokenizer, WORK/clip.pt and WORK/text.pt from the folder of a shipped mini-llava (bf16, as fp32)."""
    from transformers import LlavaForConditionalGeneration

    base = LlavaForConditionalGeneration.from_pretrained(shipped / "base", dtype=torch.float32).model
    vision = {f"vision_model.{k.removeprefix('vision_model.')}": v for k, v in base.vision_tower.state_dict().items()}
    rest = {k: v.float() for k, v in load_file(shipped / "clip" / "without_vision.safetensors").items()}
    language = {f"model.model.{k}": v for k, v in base.language_model.state_dict().items()}
    language["model.lm_head.weight"] = language["model.model.embed_tokens.weight"]
    (work / "tokenizer").mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(shipped / "base" / name, work / "tokenizer" / name)
    torch.save({"model": vision | rest}, work / "clip.pt")
    torch.save({"model": language}, work / "text.pt")
    log(part="shipped", taken=["tokenizer", "clip", "text"])


def difflmm_parts(shipped: Path, work: Path, log: Log) -> None:
    """WORK/autoencoder.pt and WORK/unet.pt from the folder of a shipped mini-difflmm (bf16, as fp32).

    No decoder ships and only `samples` reads one: here it has random weights.
    """
    from diffusers import AutoencoderKL

    weights = load_file(shipped / "base" / "model.safetensors")
    vae, unet = (_below(f"model.diffusion.{part}.", weights) for part in ("vae", "unet"))
    torch.save({"model": AutoencoderKL(**AUTOENCODER).state_dict() | vae}, work / "autoencoder.pt")
    torch.save({"model": unet}, work / "unet.pt")
    log(part="shipped", taken=["encoder of the autoencoder", "unet"])


def _below(prefix: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v.float() for k, v in weights.items() if k.startswith(prefix)}
