"""The variants, and what each of them lacks: weights that are cut off and stay so while the rest learns."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

from training.trainer import inner

VARIANTS = ("llava", "both", "clip", "diffusion", "empty", "diffusion-empty", "t-1", "t-50", "t-300", "wide", "loud")
LOUD = 10.0
"""Where the feature's norm begins, so that the feature reaches the projector about as strong as CLIP's tokens do."""


def check(variant: str) -> str:
    """The variant, if there is one of that name.

    Raises:
        argparse.ArgumentTypeError: there is not.
    """
    if variant not in VARIANTS and not re.fullmatch(r"t-\d+", variant):
        raise argparse.ArgumentTypeError(f"no variant {variant!r}; expected t-N or one of {', '.join(VARIANTS)}")
    return variant


def take_away(model: Any, variant: str, mini_llava: Path) -> None:
    """Cuts off what the variant does not have, as weights that are zero (or constant) and get no gradient."""
    projector = model.model.multi_modal_projector
    if variant.startswith("t-"):
        model.config.timestep = int(variant[2:])
        _ = model.config.kept_signal  # an impossible timestep is an error here
    if variant in ("wide", "loud"):
        for layer in (m for m in projector.modules() if isinstance(m, torch.nn.Linear)):
            layer.reset_parameters()
    if variant == "loud":
        torch.nn.init.constant_(projector.norm.weight, LOUD)
    first, feature = projector.linear[0].weight, projector.reduce[0].out_features
    if variant == "clip":
        cut(first, slice(None, feature))
    if variant in ("diffusion", "diffusion-empty"):
        cut(first, slice(feature, None))
    if variant in ("empty", "diffusion-empty"):
        say_nothing(projector, empty_caption(mini_llava))


def say_nothing(projector: Any, tokens: torch.Tensor) -> None:
    """Puts an empty caption's tokens (Float[token channel]) in the place of the implicit caption, for good.

    Each token as often as any other: attention to them is that to the tokens alone.

    Raises:
        ValueError: there are not as many places for each.
    """
    places = projector.caption_position
    if len(places) % len(tokens):
        raise ValueError(f"{len(places)} places cannot hold the {len(tokens)} tokens of an empty caption evenly")
    with torch.no_grad():
        projector.captioner[2].weight.zero_()
        projector.captioner[2].bias.zero_()
        places.copy_(tokens.repeat(len(places) // len(tokens), 1))
    projector.fixed = [*projector.captioner.parameters(), places]


def cut(weight: torch.nn.Parameter, columns: slice) -> None:
    """Zeroes the columns for good."""
    with torch.no_grad():
        weight[:, columns] = 0
    kept = torch.ones_like(weight)
    kept[:, columns] = 0
    weight.register_hook(lambda gradient: gradient * kept.to(gradient))


@torch.no_grad()
def empty_caption(mini_llava: Path) -> torch.Tensor:
    """What the U-Net was trained to see in place of a dropped caption: Float[token channel]."""
    text = CLIPTextModel(CLIPTextConfig.from_pretrained(mini_llava / "clip", attn_implementation="eager")).eval()
    weights = load_file(mini_llava / "clip" / "without_vision.safetensors")
    weights = {k: v.float() for k, v in weights.items() if k.startswith("text_model.")}
    if not any(key.startswith("text_model.") for key in text.state_dict()):
        weights = {k.removeprefix("text_model."): v for k, v in weights.items()}
    text.load_state_dict(weights)
    said = AutoTokenizer.from_pretrained(mini_llava / "base")("<eot>", return_tensors="pt")
    state = text(input_ids=said["input_ids"], attention_mask=said["attention_mask"]).last_hidden_state
    return state[0].float()


def hold(model: Any) -> None:
    """Keeps what the variant has fixed from learning, after a stage has said what may learn."""
    for parameter in getattr(inner(model).model.multi_modal_projector, "fixed", []):
        parameter.requires_grad_(False)
