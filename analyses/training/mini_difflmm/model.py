"""DiffLMM put together from mini-llava's parts and the diffusion model, for training and to ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.utils import SAFE_WEIGHTS_NAME

from interp.models.difflmm import DiffLMMConfig, DiffLMMForConditionalGeneration, DiffLMMProcessor, save_beside
from training import mini_llava
from training.dialogues import TEMPLATE
from training.export import checkpoints_of, export_checkpoints, export_log, halved
from training.loop import compile_layers
from training.mini_difflmm.aligned import ALIGNED, align
from training.mini_difflmm.autoencoder import AUTOENCODER, Posteriors, load_autoencoder
from training.mini_difflmm.erasing import erase, folded, load_eraser
from training.mini_difflmm.pictures import Dialogues, Pictures
from training.mini_difflmm.unet import UNET, plain_attention
from training.parts import Log
from training.pictures import PIXELS
from training.stages import Round, Start
from training.tokenizer import load_tokenizer

FEATURE = 64  # channels that the U-Net's feature is projected to
LAST = "lora_last"  # the last round: mini-llava's go on
PROJECTOR_RATE = 1e-3  # of stage 1: at three times as much, what an aligned projector tells of colours is lost
POSITION = 0.02  # deviation of new position embeddings, as of all other new weights


def configuration(clip_part: Any, language: Any, fast: Any, work: Path) -> DiffLMMConfig:
    """mini-difflmm's."""
    return DiffLMMConfig(
        vision_config=clip_part.config.vision_config, text_config=language.config, image_size=PIXELS,
        vae_config={**AUTOENCODER, **json.loads((work / "scaling.json").read_text())}, unet_config=UNET,
        image_token_id=fast.convert_tokens_to_ids("<image>"), vision_feature_layer=-2, projector_feature_size=FEATURE,
        position_initializer_range=POSITION, same_scale=True,
        attn_implementation="eager", tie_word_embeddings=True,
    )  # fmt: skip


def assemble(pictures: Path, work: Path, seed: int) -> DiffLMMForConditionalGeneration:
    """DiffLMM from mini-llava's CLIP and language model and the trained diffusion model, with a fresh projector."""
    base, clip_part = mini_llava.assemble(pictures, seed)
    parts = base.model.state_dict()
    config = configuration(clip_part, base.model.language_model, load_tokenizer(pictures), work)
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


def eyes(pictures: Path, work: Path, data: Pictures, device: str, seed: int) -> DiffLMMForConditionalGeneration:
    """The model, which reads CLIP through the eraser, with the autoencoder's part of ``data`` computed once."""
    model = assemble(pictures, work, seed)
    erase(model.model.multi_modal_projector, load_eraser(work))
    model.model.diffusion.posterior = Posteriors(work, data)
    plain_attention(model.model.diffusion.unet, device)
    return model


def aligned(pictures: Path, work: Path, log: Log, device: str, seed: int = 2) -> None:
    """WORK/aligned.safetensors: where the projector begins (`align`)."""
    align(eyes(pictures, work, Pictures(pictures), device, seed), pictures, work, log, device)


def for_training(pictures: Path, work: Path, device: str) -> Start:
    """What gives the model, with an aligned projector, and a round's batches."""

    def start(how: Round, seed: int) -> tuple[Any, Dialogues]:
        data = Pictures(pictures, things=how.things, plain=how.plain)
        model = eyes(pictures, work, data, device, seed)
        model.load_state_dict(load_file(work / ALIGNED), strict=False)
        compile_layers(model.model.language_model.layers)
        return model, Dialogues(data, load_tokenizer(pictures), how.shares, how.answers)

    return start


def export(pictures: Path, work: Path, log: Log, out: Path, mini_llava: Path, until: str | None = LAST) -> None:
    """OUT/base with what mini-llava's base lacks, OUT/checkpoint-N with N counted over both stages.

    ``base/shared.json`` says which weights lie in mini-llava's base, and the first projector in ``checkpoint-0``.
    """
    base, theirs = out / "base", mini_llava / "base" / "model.safetensors"
    if not theirs.is_file():
        raise FileNotFoundError(f"no {theirs}; export mini-llava there first, or name its folder with --mini-llava")
    maps = load_eraser(work)
    export_checkpoints(work, out, until, lambda weights: halved(folded(weights, maps)))
    model, first = assemble(pictures, work, 2).to(torch.bfloat16), out / "checkpoint-0" / "projector.safetensors"
    model.load_state_dict(load_file(first), strict=False)
    weights = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}  # tied
    model.config.save_pretrained(base)
    model.generation_config.save_pretrained(base)
    save_beside(weights, base, (theirs, first))
    own = {k for k in load_file(base / SAFE_WEIGHTS_NAME) if not k.startswith("model.diffusion.")}
    if own:
        raise ValueError(f"{theirs} lacks {len(own)} weights such as {min(own)}; export the mini-llava of {pictures}")
    processor = DiffLMMProcessor.from_config(model.config, load_tokenizer(pictures))
    processor.chat_template = TEMPLATE
    processor.save_pretrained(base)
    export_log(work, log, out, checkpoints=checkpoints_of(out))
