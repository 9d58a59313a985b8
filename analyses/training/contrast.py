"""CLIP's training: whole captions with images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from interp.datasets import scenes
from training.clip import FEATURES, captioned, clip_model
from training.loop import compile_layers, train
from training.parts import Log
from training.pictures import CLOSE, GRID, PATCH, PIXELS, Rendered
from training.tokenizer import load_tokenizer

CLOSE_STEPS, PART_STEPS, WHOLE_STEPS, KEPT = 300, 900, 120, 48  # close-ups; scenes, KEPT of 144 patches; whole scenes


def placed(close_ups: torch.Tensor, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Close-ups at random places of an empty picture, and the numbers of the patches that each one fills."""
    amount, side = len(close_ups), CLOSE // PATCH
    corner = torch.randint(0, GRID - side + 1, (amount, 2), generator=random)
    pixels = torch.zeros(amount, 3, PIXELS, PIXELS)
    for picture, close_up, (y, x) in zip(pixels, close_ups, (corner * PATCH).tolist(), strict=True):
        picture[:, y : y + CLOSE, x : x + CLOSE] = close_up
    rows, columns = corner[:, :1] + torch.arange(side), corner[:, 1:] + torch.arange(side)
    return pixels, (rows[:, :, None] * GRID + columns[:, None]).flatten(1)


@contextmanager
def only(patches: torch.Tensor | None, embeddings: torch.nn.Module) -> Iterator[None]:
    """Inside, CLIP's vision layers see its class token and these patches (Int[images kept]) alone; None: all."""

    def keep(_module, _arguments, hidden):
        if patches is None:
            return hidden
        rows = torch.arange(len(hidden), device=hidden.device)[:, None]
        return torch.cat([hidden[:, :1], hidden[rows, patches + 1]], 1)

    handle = embeddings.register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()


def agreement(model: Any, pixel_values, input_ids, attention_mask, patches=None) -> list[torch.Tensor]:
    """Two of Float[images captions], cosines times scale: of the class token with the whole caption; and the mean over
    the caption's tokens of their best patch, at the layer that LLaVA reads. From all patches or from some (``patches``,
    Int[images kept])."""
    direction = lambda x: torch.nn.functional.normalize(x.float(), dim=-1)  # noqa: E731
    with only(patches, model.vision_model.embeddings):
        seen = model.vision_model(pixel_values=pixel_values, output_hidden_states=True)
    read = model.text_model(input_ids=input_ids, attention_mask=attention_mask)
    whole = direction(model.visual_projection(seen.pooler_output)) @ direction(model.text_projection(read[1])).T
    parts = direction(model.visual_projection(model.vision_model.post_layernorm(seen.hidden_states[FEATURES][:, 1:])))
    tokens = direction(model.text_projection(read[0]))
    best = torch.einsum("ipc,tkc->itpk", parts, tokens).amax(2)
    there = attention_mask / attention_mask.sum(1, keepdim=True)
    return [scores * model.logit_scale.exp() for scores in (whole, torch.einsum("itk,tk->it", best, there))]


class Batches:
    """What CLIP sees at each step: close-ups, scenes with a third of their patches, or whole ones, ``size`` at once."""

    def __init__(self, work: Path, fast: Any, size: int) -> None:
        self.work, self.fast, self.size, self.nouns = work, fast, size, len(scenes.nouns())

    @cached_property
    def close(self) -> Rendered:
        return Rendered(self.work, "close_ups")

    @cached_property
    def whole(self) -> Rendered:
        return Rendered(self.work)

    def __call__(self, step: int) -> dict[str, torch.Tensor]:
        """Pictures, captions, and which patches are looked at."""
        random = torch.Generator().manual_seed(step)
        close = step < CLOSE_STEPS
        data, amount = (self.close, self.nouns) if close else (self.whole, self.size)
        batch = captioned(data, self.fast, range(step * amount, (step + 1) * amount))
        if close:
            batch["pixel_values"], batch["patches"] = placed(batch["pixel_values"], random)
        elif step < CLOSE_STEPS + PART_STEPS:
            batch["patches"] = torch.rand(amount, GRID**2, generator=random).argsort(1)[:, :KEPT]
        return batch


def loss_of(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
    """The contrast of images with captions, both ways round; and how often the right caption is the nearest."""
    both = agreement(model, **batch)
    own = torch.arange(len(both[0]), device=both[0].device)
    loss = sum(torch.nn.functional.cross_entropy(x, own) for scores in both for x in (scores, scores.T)) / 4
    found = [round((scores.argmax(1) == own).float().mean().item(), 3) for scores in both]
    return loss, {"found": found[0], "found_by_tokens": found[1]}


def clip(work: Path, log: Log, device: str, size: int = 96) -> None:
    """The contrastive model, from pictures and whole captions alone: close-ups first, scenes then.

    Captions name things, free or by colour, size and place, and are contrasted with whole images, by the class token
    and by each token's best patch (FILIP, arXiv 2111.07783, captions to images): what is where is for CLIP to find out.
    Close-ups have 36 patches instead of 144, and every noun as often as every
    other in each batch. Two thirds of a scene's patches are left out in the middle part, which cuts their cost (FLIP,
    arXiv 2212.00794). Weights in WORK/clip_start.pt, where there are some, are where it begins.
    """
    fast = load_tokenizer(work)
    torch.manual_seed(0)
    model = clip_model(len(fast), fast.convert_tokens_to_ids("<eot>")).to(device)
    if (work / "clip_start.pt").exists():
        model.load_state_dict(torch.load(work / "clip_start.pt", weights_only=True), strict=False)
    compile_layers((*model.vision_model.encoder.layers, *model.text_model.encoder.layers))
    batches, steps = Batches(work, fast, size), CLOSE_STEPS + PART_STEPS + WHOLE_STEPS
    train("clip_state", model, batches, lambda batch: loss_of(model, batch), steps, 1e-3, 0.1, work, log, device)
    torch.save({"model": model.state_dict()}, work / "clip.pt")
