"""Trains mini-difflmm: a small latent diffusion model on scenes, then LLaVA's two stages as mini-llava had them.

    python analyses/train_mini_difflmm.py --llava runs/train --work runs/train-difflmm --out data/mini-difflmm

``--llava`` is the work folder of ``train_mini_llava.py``: its tokenizer, scenes, CLIP and language model are taken as
they are, and stages, order of scenes, seeds and steps are its own, so that the visual encoder is all that differs.
No loss ever sees a mask, box or position. Every part is seeded, logs to WORK/log.jsonl and is skipped if it is done
already; what was interrupted goes on from where it was saved. Parts: autoencoder, posteriors, unet, samples,
projector, lora, export (run one alone with --part).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import train_mini_llava as llava
from _training import Log, arguments, parsed, run, train
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from interp.datasets import scenes
from interp.models import _shared
from interp.models.difflmm import DiffLMMConfig, DiffLMMForConditionalGeneration, DiffLMMProcessor
from interp.models.difflmm.configuration import SCHEDULER
from interp.models.difflmm.processing import seed_of

AUTOENCODER = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "sample_size": llava.PIXELS, "act_fn": "silu",
    "block_out_channels": [16, 32, 64], "layers_per_block": 1, "norm_num_groups": 8, "mid_block_add_attention": False,
    "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3,
}  # fmt: skip
UNET = {
    "in_channels": 4, "out_channels": 4, "sample_size": llava.PIXELS // 4, "act_fn": "silu",
    "block_out_channels": [48, 64, 96, 96], "layers_per_block": 1, "norm_num_groups": 8,
    "cross_attention_dim": 128, "attention_head_dim": 2, "mid_block_type": "UNetMidBlock2D",
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
"""diffusers calls it ``attention_head_dim``, but it is the number of heads (as in Stable Diffusion 1.5)."""
AUTOENCODER_STEPS, AUTOENCODER_SIZE = 1500, 32
UNET_STEPS, UNET_SIZE = 4000, 64
KL = 1e-3  # of the autoencoder's loss, per number of the latent
DROPPED = 0.1  # share of captions that the U-Net does not see, for guidance
SAMPLED, DDIM_STEPS, GUIDANCE = 12, 30, 4.0
FEATURE = 64  # channels that the U-Net's feature is projected to
POSITION = 0.02  # deviation of new position embeddings, as of all other new weights


class Pictures(llava.Rendered):
    """The rendered scenes, with pixels as DiffLMM's processor gives them."""

    def __getitem__(self, visit: int) -> tuple[torch.Tensor, list[str], np.random.Generator]:
        """Float[3 side side] -1..1, the nouns, and the visit's random stream."""
        _, nouns, rng = super().__getitem__(visit)
        return self.pixels(visit), nouns, rng

    def pixels(self, visit: int) -> torch.Tensor:
        """Float[3 side side] -1..1."""
        return torch.from_numpy(self.image(visit).astype(np.float32) / 127.5 - 1).permute(2, 0, 1)

    def seed(self, visit: int) -> int:
        """The seed of the image's random draws, as the processor gives it."""
        return seed_of(np.ascontiguousarray(self.image(visit).transpose(2, 0, 1)))


class Dialogues(llava.Dialogues):
    """mini-llava's batches with DiffLMM's pixels and seeds."""

    def __call__(self, visits: list[int]) -> dict[str, torch.Tensor]:
        return {**super().__call__(visits), "seeds": torch.tensor([self.data.seed(visit) for visit in visits])}


def plain_attention(unet: Any, device: str) -> Any:
    """The U-Net; on a CPU with attention written out, about 3 x faster there than torch's own for so few cells."""
    from diffusers.models.attention_processor import AttnProcessor

    if device == "cpu":
        unet.set_attn_processor(AttnProcessor())
    return unet


def autoencoder(pictures: Path, work: Path, log: Log, device: str, steps=AUTOENCODER_STEPS) -> None:
    """The autoencoder, from pictures alone: absolute error and a little of the Kullback-Leibler divergence."""
    from diffusers import AutoencoderKL

    data = Pictures(pictures)
    torch.manual_seed(4)
    model = AutoencoderKL(**AUTOENCODER).to(device)

    def batches(step: int) -> dict[str, torch.Tensor]:
        visits = range(step * AUTOENCODER_SIZE, (step + 1) * AUTOENCODER_SIZE)
        noise = torch.randn(len(visits), 4, *[UNET["sample_size"]] * 2, generator=torch.Generator().manual_seed(step))
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
    amount, side = len(data.nouns), UNET["sample_size"]
    moments = np.lib.format.open_memmap(work / "partial.npy", "w+", np.float16, (amount, 8, side, side))
    for first in range(0, amount, size):
        pixels = torch.stack([data.pixels(k) for k in range(first, min(first + size, amount))]).to(device)
        with torch.autocast(device, torch.bfloat16):
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


@cache
def clip_text(pictures: Path) -> tuple[Any, Any]:
    """mini-CLIP's text model, frozen, and the tokenizer."""
    fast = llava.load_tokenizer(pictures)
    model = llava.clip_model(len(fast), fast.convert_tokens_to_ids("<eot>"))
    model.load_state_dict(torch.load(pictures / "clip.pt", weights_only=True)["model"])
    return model.text_model.eval().requires_grad_(False), fast


def unet(pictures: Path, work: Path, log: Log, device: str, steps=UNET_STEPS, size=UNET_SIZE) -> None:
    """The U-Net, from scenes and captions: which noise was added to a latent (Ho et al. 2020; Rombach et al. 2022)."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    data, (text, fast) = Pictures(pictures), clip_text(pictures)
    text.to(device)
    moments, scaling = np.load(work / "posteriors.npy", mmap_mode="r"), load_autoencoder(work).config.scaling_factor
    scheduler = DDPMScheduler(**SCHEDULER)
    torch.manual_seed(5)
    model = plain_attention(UNet2DConditionModel(**UNET), device).to(device)

    def batches(step: int) -> dict[str, torch.Tensor]:
        visits, random = range(step * size, (step + 1) * size), torch.Generator().manual_seed(step)
        batch = llava.captioned(data, fast, visits)
        without(batch, torch.rand(size, generator=random) < DROPPED, fast)
        found = torch.from_numpy(moments[[visit % len(data.nouns) for visit in visits]].astype(np.float32))
        mean, deviation = found[:, :4], (found[:, 4:] / 2).exp()
        latent = scaling * (mean + deviation * torch.randn(mean.shape, generator=random))
        noise = torch.randn(mean.shape, generator=random)
        at = torch.randint(0, SCHEDULER["num_train_timesteps"], (size,), generator=random)
        del batch["pixel_values"]
        return {**batch, "noised": scheduler.add_noise(latent, noise, at), "noise": noise, "at": at}

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


@torch.no_grad()
def samples(pictures: Path, work: Path, log: Log, device: str, out: Path, amount=SAMPLED, steps=DDIM_STEPS) -> None:
    """OUT: a sheet of pictures that the diffusion model makes of captions from the test split (DDIM with guidance)."""
    from diffusers import DDIMScheduler

    model, decoder, (text, fast) = load_unet(work, device), load_autoencoder(work).to(device), clip_text(pictures)
    text.to(device)
    rng, captions = np.random.default_rng(6), []
    for _ in range(amount):
        captions.append(scenes.caption(rng, scenes.choose(rng, "test", counts=(1, 3))))
    said = fast([c + "<eot>" for c in captions] + ["<eot>"] * amount, return_tensors="pt", padding=True,
                padding_side="right").to(device)  # fmt: skip
    context = text(input_ids=said["input_ids"], attention_mask=said["attention_mask"]).last_hidden_state
    scheduler = DDIMScheduler(**SCHEDULER, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    scheduler.set_timesteps(steps)
    latent = torch.randn(amount, 4, *[UNET["sample_size"]] * 2, generator=torch.Generator().manual_seed(6)).to(device)
    for at in scheduler.timesteps:
        noise = model(torch.cat([latent, latent]), at, context, encoder_attention_mask=said["attention_mask"]).sample
        told, untold = noise.chunk(2)
        latent = scheduler.step(untold + GUIDANCE * (told - untold), at, latent).prev_sample
    made = decoder.decode(latent / decoder.config.scaling_factor).sample.clamp(-1, 1)
    images = ((made + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    sheet(images, captions).save(out)
    data = Pictures(pictures)
    seen = torch.stack([data.pixels(k) for k in range(amount)]).to(device)
    again = decoder.decode(decoder.encode(seen).latent_dist.mean).sample
    log(part="samples", sheet=out.name, reconstruction_error=round((again - seen).abs().mean().item(), 4))


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


def configuration(clip_part: Any, language: Any, fast: Any, work: Path) -> DiffLMMConfig:
    """mini-difflmm's."""
    return DiffLMMConfig(
        vision_config=clip_part.config.vision_config, text_config=language.config, image_size=llava.PIXELS,
        vae_config={**AUTOENCODER, **json.loads((work / "scaling.json").read_text())}, unet_config=UNET,
        image_token_id=fast.convert_tokens_to_ids("<image>"), vision_feature_layer=-2, projector_feature_size=FEATURE,
        position_initializer_range=POSITION, attn_implementation="eager", tie_word_embeddings=True,
    )  # fmt: skip


def assemble(pictures: Path, work: Path, seed: int) -> DiffLMMForConditionalGeneration:
    """DiffLMM from mini-llava's CLIP and language model and the trained diffusion model, with a fresh projector."""
    base, clip_part = llava.assemble(pictures, seed)
    parts = base.model.state_dict()
    config = configuration(clip_part, base.model.language_model, llava.load_tokenizer(pictures), work)
    torch.manual_seed(seed)
    model = DiffLMMForConditionalGeneration(config)
    load = {k: v for k, v in parts.items() if k.startswith(("vision_tower.", "language_model."))}
    for part, weights in (
        ("vae", load_autoencoder(work).state_dict()),
        ("unet", torch.load(work / "unet.pt", weights_only=True)["model"]),
    ):
        load |= {f"diffusion.{part}.{k}": v for k, v in weights.items()}
    own = {k for k in model.model.state_dict() if "multi_modal_projector" not in k}
    if lost := sorted(own - load.keys()):
        raise KeyError(f"no trained weights for {lost}")
    model.model.load_state_dict({k: load[k] for k in own}, strict=False)
    model.tie_weights()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 3
    return model


def for_training(pictures: Path, work: Path, device: str) -> Callable[[llava.Round, int], tuple[Any, Dialogues]]:
    """What gives the model, with the autoencoder's part computed once, and a round's batches."""

    def start(how: llava.Round, seed: int) -> tuple[Any, Dialogues]:
        model, data = assemble(pictures, work, seed), Pictures(pictures, things=how.things)
        model.model.diffusion.posterior = Posteriors(work, data)
        plain_attention(model.model.diffusion.unet, device)
        return model, Dialogues(data, llava.load_tokenizer(pictures), how.captions_only)

    return start


def export(pictures: Path, work: Path, log: Log, out: Path, mini_llava: Path) -> None:
    """OUT/base with what mini-llava's base lacks, OUT/checkpoint-N with N counted over both stages.

    ``base/shared.json`` says which weights lie in mini-llava's base, and the first projector in ``checkpoint-0``.
    """
    base, theirs = out / "base", mini_llava / "base" / "model.safetensors"
    if not theirs.is_file():
        raise FileNotFoundError(f"no {theirs}; export mini-llava there first, or name its folder with --mini-llava")
    llava.export_checkpoints(work, out)
    model, first = assemble(pictures, work, 2).to(torch.bfloat16), out / "checkpoint-0" / "projector.safetensors"
    model.load_state_dict(load_file(first), strict=False)
    weights = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}  # tied
    model.config.save_pretrained(base)
    model.generation_config.save_pretrained(base)
    _shared.save(weights, base, (theirs, first))
    own = {k for k in load_file(base / _shared.OWN) if not k.startswith("model.diffusion.")}
    if own:
        raise ValueError(f"{theirs} lacks {len(own)} weights such as {min(own)}; export the mini-llava of {pictures}")
    processor = DiffLMMProcessor.from_config(model.config, llava.load_tokenizer(pictures))
    processor.chat_template = llava.TEMPLATE
    processor.save_pretrained(base)
    (out / "training.jsonl").write_text((work / "log.jsonl").read_text())
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    log(part="export", megabytes=round(size / 1e6, 2), checkpoints=len(list(out.glob("checkpoint-*"))))


def main() -> None:
    """Every part that is not done, in order; or the one that is asked for."""
    parser = arguments(__doc__, "mini-difflmm")
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
        "projector": lambda: llava.projector(a.work, log, a.device, start),
        "lora": lambda: llava.lora(a.work, log, a.device, start),
        "export": lambda: export(a.llava, a.work, log, a.out, a.mini_llava or a.out.resolve().parent / "mini-llava"),
    }
    run(parser, a.part, parts)


if __name__ == "__main__":
    main()
