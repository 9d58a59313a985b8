"""A variant's model with its batches, trained through LLaVA's two stages."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from interp.models.difflmm import DiffLMMForConditionalGeneration
from training import dialogues
from training.loop import compile_layers
from training.mini_difflmm.autoencoder import Posteriors, posteriors
from training.mini_difflmm.pictures import Dialogues, Pictures
from training.mini_difflmm.unet import plain_attention
from training.parts import Log
from training.pictures import Rendered, render_scenes
from training.stages import ROUNDS, Round, freeze_all_but_projector, stage, with_adapters
from training.variants.eyes import hold, take_away

ELSEWHERE = 7919
"""Scenes between the first ones of one seed and of the next."""


class Shifted:
    """Batches whose scenes, captions and questions begin elsewhere for each seed but the first (2)."""

    def __init__(self, data: Any, seed: int) -> None:
        self.data, self.shift = data, (seed - 2) % 1000 * ELSEWHERE

    def __call__(self, visits: list[int]) -> dict[str, Any]:
        return {**self.data([visit + self.shift for visit in visits]), "use_cache": False}


def untrained(variant: str, a: argparse.Namespace, how: Round, seed: int) -> tuple[Any, Any]:
    """The variant's model with a fresh projector, and the round's batches."""
    base = base_of(variant, a)
    model, fast = fresh(variant, base, seed), AutoTokenizer.from_pretrained(base)
    if variant == "llava":
        data = dialogues.Dialogues(
            Rendered(pictures(a), things=how.things, plain=how.plain), fast, how.shares, how.answers
        )
    else:
        seen = Pictures(pictures(a), things=how.things, plain=how.plain)
        data = Dialogues(seen, fast, how.shares, how.answers)
        if not (pictures(a) / "posteriors.npy").exists():
            log, vae = Log(a.out / "log.jsonl"), model.model.diffusion.vae.to(a.device)
            posteriors(pictures(a), pictures(a), log, a.device, vae)
        model.model.diffusion.posterior = Posteriors(pictures(a), seen)
        plain_attention(model.model.diffusion.unet, a.device)
        take_away(model, variant, a.mini_llava)
    if a.compile:
        compile_layers(model.model.language_model.layers)
    return model, Shifted(data, seed)


def base_of(variant: str, a: argparse.Namespace) -> Path:
    """The folder of the shipped model whose frozen parts the variant has."""
    return (a.mini_llava if variant == "llava" else a.mini_difflmm) / "base"


def fresh(variant: str, base: Path, seed: int) -> Any:
    """The shipped model with a projector that has learnt nothing.

    Raises:
        KeyError: the parts in the folder do not make the model again.
    """
    kind = LlavaForConditionalGeneration if variant == "llava" else DiffLMMForConditionalGeneration
    shipped = kind.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    torch.manual_seed(seed)
    model = kind(shipped.config)
    parts = {k: v for k, v in shipped.state_dict().items() if "multi_modal_projector" not in k}
    lost = model.load_state_dict(parts, strict=False)
    if lost.unexpected_keys or any("multi_modal_projector" not in key for key in lost.missing_keys):
        raise KeyError(f"the parts of {base} do not make the model again: {lost}")
    model.tie_weights()
    model.generation_config = shipped.generation_config
    return model


def pictures(a: argparse.Namespace) -> Path:
    """The folder of the rendered training scenes, which are rendered when they are not there."""
    folder = a.out / "scenes"
    if not (folder / "scenes.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        render_scenes(folder, Log(a.out / "log.jsonl"))
    return folder


def train(variant: str, seed: int, a: argparse.Namespace) -> Path:
    """The folder of the trained model, which appears when it is whole."""
    folder = f"{variant}-{seed}-{'-'.join(map(str, a.steps))}"
    out, work = a.out / folder, a.out / "work" / folder
    if (out / "config.json").exists():
        return out
    work.mkdir(parents=True, exist_ok=True)
    log, newest = Log(work / "log.jsonl"), None
    for name, steps in zip(ROUNDS, a.steps, strict=False):
        model, data = untrained(variant, a, ROUNDS[name], seed)
        if newest:
            model = with_adapters(model, newest, seed)
        else:
            freeze_all_but_projector(model)
        hold(model)
        stage(name, model, data, work, log, a.device, seed, (steps,))
        newest = work / name / f"checkpoint-{steps}"
    save(variant, model, newest, out, a)
    return out


def save(variant: str, model: Any, newest: Path, out: Path, a: argparse.Namespace) -> None:
    """The stage's newest weights, merged, with the processor."""
    model.get_base_model().load_state_dict(load_file(newest / "projector.safetensors"), strict=False)
    set_peft_model_state_dict(model, load_file(newest / "adapter_model.safetensors"))
    merged = model.merge_and_unload().float().cpu()
    partial = out.with_name(f".{out.name}.partial")
    AutoProcessor.from_pretrained(base_of(variant, a)).save_pretrained(partial)
    merged.save_pretrained(partial)
    partial.rename(out)
