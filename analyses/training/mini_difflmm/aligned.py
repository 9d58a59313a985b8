"""Where mini-difflmm's projector begins: its tokens stand for words, of which the language model has read grids.

From the start of stage 1 the diffusion feature must say something: a projector that begins with random weights has
unlearnt it as noise before the language model reads anything from its tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from interp.datasets import scenes
from training.layouts import PLACE_WORDS, places
from training.loop import train
from training.mini_difflmm.likeness import NOUNS, SCENES
from training.mini_difflmm.pictures import Pictures
from training.parts import Log
from training.pictures import GRID
from training.text import FILLERS
from training.tokenizer import load_tokenizer

STEPS, SIZE, RATE, ALIGNED = 600, 48, 2e-3, "aligned.safetensors"


def entries(embed: Tensor, fast: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The language model's vectors of nouns (the last one: of what is no noun), of colours (the last one: none) and of
    the grid's places; each is the mean of its words' pieces."""

    def mean(word: str) -> Tensor:
        return embed[fast(f" {word}", add_special_tokens=False)["input_ids"]].mean(0)

    nouns, colours, others, where = (
        torch.stack([mean(word) for word in words]) for words in (scenes.nouns(), scenes.COLOURS, FILLERS, PLACE_WORDS)
    )
    at = torch.from_numpy(places(GRID)).to(where) @ where
    return torch.cat([nouns, others.mean(0, keepdim=True)]), torch.cat([colours, torch.zeros_like(colours[:1])]), at


def said(data: Pictures, amount: int) -> Int[Tensor, "scene noun"]:
    """The colour that captions give each noun of the first scenes; one more than there are: none. -1: not there.

    What is no noun is there, without a colour.
    """
    nouns, colours = list(scenes.nouns()), list(scenes.COLOURS)
    found = torch.full((amount, len(nouns) + 1), -1)
    found[:, -1] = len(colours)
    for row, things in zip(found, data.things, strict=False):
        for thing in things:
            row[nouns.index(thing.noun)] = colours.index(thing.colour) if thing.colour else len(colours)
    return found


@torch.no_grad()
def inputs(model: Any, data: Pictures, device: str) -> tuple[Tensor, Tensor]:
    """CLIP's tokens (Float[scene patch channel]) and the feature (Float[scene channel row col]) of the first scenes."""
    clip, features, projector = [], [], model.model.multi_modal_projector
    for first in range(0, SCENES, 100):
        visits = range(first, first + 100)
        pixels = torch.stack([data.pixels(visit) for visit in visits]).to(device)
        clip.append(model.model.clip_tokens(pixels))
        context = projector.caption(clip[-1])
        features.append(model.model.diffusion(pixels, context, [data.seed(visit) for visit in visits]))
    return torch.cat(clip), torch.cat(features)


def align(model: Any, pictures: Path, work: Path, log: Log, device: str) -> None:
    """WORK/aligned.safetensors: the model's projector, so that each token is near its word's vector, squared error.

    The word is the noun that CLIP's patch is like (WORK/nouns.npy) with the colour that the caption gives that noun,
    and its place; patches like a noun that the caption lacks do not count. No mask takes part. ``model`` reads CLIP
    through the eraser, and has the posteriors of all scenes.
    """
    data, fast = Pictures(pictures), load_tokenizer(pictures)
    projector = model.to(device).model.multi_modal_projector
    nouns = torch.from_numpy(np.load(work / NOUNS).astype(np.int64))
    colours = said(data, SCENES).gather(1, nouns)
    of_nouns, of_colours, at = entries(model.get_input_embeddings().weight.detach(), fast)
    clip, features = inputs(model, data, device)
    projector.captioner.requires_grad_(False)  # the U-Net's feature is that of its first weights
    projector.caption_position.requires_grad_(False)
    nothing = len(scenes.nouns())

    def batches(step: int) -> dict[str, Tensor]:
        some = torch.randperm(SCENES, generator=torch.Generator().manual_seed(step))[:SIZE]
        pair = {"nouns": nouns[some], "colours": colours[some]}
        return pair | {"clip": clip[some.to(device)], "feature": features[some.to(device)]}

    def loss_of(batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        thing, known = batch["nouns"] < nothing, batch["colours"] >= 0
        wanted = of_nouns[batch["nouns"]] + of_colours[batch["colours"].clamp(0)] + at * thing[..., None]
        error = squared(projector(batch["feature"], batch["clip"]), wanted)
        things, others = error[thing & known].mean(), error[~thing].mean()
        return things + others / 2, {"things": round(things.item(), 3)}

    train("aligned", projector, batches, loss_of, STEPS, RATE, 0.01, work, log, device)
    weights = {f"model.multi_modal_projector.{name}": x.cpu() for name, x in projector.state_dict().items()}
    save_file(weights, work / ALIGNED)


def squared(
    tokens: Float[Tensor, "*patch channel"], wanted: Float[Tensor, "*patch channel"]
) -> Float[Tensor, "*patch"]:
    """Each token's squared error as a share of the variance of what is wanted."""
    spread = (wanted - wanted.flatten(0, -2).mean(0)).square().mean()
    return (tokens - wanted).square().mean(-1) / spread
