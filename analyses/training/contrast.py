"""CLIP's training: whole captions with images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from interp.datasets import scenes
from training.clip import FEATURES, captioned, clip_model
from training.loop import train
from training.parts import Log
from training.pictures import CLOSE, GRID, PATCH, PIXELS, Rendered
from training.tokenizer import load_tokenizer

CLOSE_STEPS, HALVED_STEPS, WHOLE_STEPS = 800, 2200, 300  # close-ups, scenes with half of their patches, scenes


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
    """Two of Float[images captions], cosines times scale: by the class token, and by the mean of the patches at the
    layer that LLaVA reads. From all patches or from some (``patches``, Int[images kept])."""
    direction = lambda x: torch.nn.functional.normalize(x.float(), dim=-1)  # noqa: E731
    with only(patches, model.vision_model.embeddings):
        seen = model.vision_model(pixel_values=pixel_values, output_hidden_states=True)
    mean = model.vision_model.post_layernorm(seen.hidden_states[FEATURES][:, 1:].mean(1))
    read = model.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
    captions = direction(model.text_projection(read)).T * model.logit_scale.exp()
    return [direction(model.visual_projection(pooled)) @ captions for pooled in (seen.pooler_output, mean)]


class Batches:
    """What CLIP sees at each step: close-ups, scenes with half of their patches, or scenes; ``size`` scenes at once."""

    def __init__(self, work: Path, fast: Any, size: int) -> None:
        self.fast, self.size, self.nouns = fast, size, len(scenes.nouns())
        self.close, self.whole = Rendered(work, "close_ups"), Rendered(work)

    def __call__(self, step: int) -> dict[str, torch.Tensor]:
        """Pictures, captions, and which patches are looked at."""
        random = torch.Generator().manual_seed(step)
        close = step < CLOSE_STEPS
        data, amount = (self.close, self.nouns) if close else (self.whole, self.size)
        batch = captioned(data, self.fast, range(step * amount, (step + 1) * amount))
        if close:
            batch["pixel_values"], batch["patches"] = placed(batch["pixel_values"], random)
        elif step < CLOSE_STEPS + HALVED_STEPS:
            batch["patches"] = torch.rand(amount, GRID**2, generator=random).argsort(1)[:, : GRID**2 // 2]
        return batch


def loss_of(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
    """The contrast of images with captions, both ways round; and how often the right caption is the nearest."""
    both = agreement(model, **batch)
    own = torch.arange(len(both[0]), device=both[0].device)
    loss = sum(torch.nn.functional.cross_entropy(x, own) for scores in both for x in (scores, scores.T)) / 4
    found = [round((scores.argmax(1) == own).float().mean().item(), 3) for scores in both]
    return loss, {"found": found[0], "found_by_patches": found[1]}


def clip(work: Path, log: Log, device: str, size: int = 96) -> None:
    """The contrastive model, from pictures and whole captions alone: close-ups first, scenes then.

    Captions name things, free or by colour, size and place, and are contrasted with whole images, by the class token
    and by the mean of the patches: what is where in the picture is for CLIP to find out, and it finds out less than
    with words held against single patches. Close-ups have 36 patches instead of 144, and every noun as often as every
    other in each batch. Half of a scene's patches are left out in the middle part, which halves their cost (FLIP, arXiv
    2212.00794).
    """
    fast = load_tokenizer(work)
    torch.manual_seed(0)
    model = clip_model(len(fast), fast.convert_tokens_to_ids("<eot>")).to(device)
    batches, steps = Batches(work, fast, size), CLOSE_STEPS + HALVED_STEPS + WHOLE_STEPS
    train("clip_state", model, batches, lambda batch: loss_of(model, batch), steps, 1e-3, 0.1, work, log, device)
    torch.save({"model": model.state_dict()}, work / "clip.pt")
