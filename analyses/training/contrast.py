"""CLIP's training: captions with images, and their words with patches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from interp.datasets import scenes
from training.clip import FEATURES, captioned, clip_model
from training.loop import begun, compile_layers, train
from training.parts import Log
from training.pictures import CLOSE, GRID, PATCH, PIXELS, Rendered
from training.tokenizer import load_tokenizer

CLOSE_STEPS, HALVED_STEPS, WHOLE_STEPS = 250, 2350, 250  # close-ups, scenes with half of their patches, scenes
FEWEST = 6  # patches that a thing fills, more or less, when it is small


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


class Contrasts(torch.nn.Module):
    """A CLIPModel and what compares its patches with single words; only the CLIPModel is kept."""

    def __init__(self, model: torch.nn.Module, words: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.clip, self.words = model, words
        self.patches = torch.nn.Sequential(torch.nn.LayerNorm(192), torch.nn.Linear(192, 192))
        self.scale = torch.nn.Parameter(torch.tensor(14.0).log())

    def forward(self, pixel_values, input_ids, attention_mask, patches=None):
        """Cosines times scale: Float[images captions], and Float[images words] of each word's ``FEWEST`` best patches.

        ``patches`` (Int[images kept]): those looked at, or all; of half of them, half as many count.
        """
        direction = lambda x: torch.nn.functional.normalize(x.float(), dim=-1)  # noqa: E731
        read = lambda ids, mask: direction(  # noqa: E731
            self.clip.text_projection(self.clip.text_model(input_ids=ids, attention_mask=mask).pooler_output)
        )
        with only(patches, self.clip.vision_model.embeddings):
            seen = self.clip.vision_model(pixel_values=pixel_values, output_hidden_states=True)
        words = {key: ids.to(input_ids.device) for key, ids in self.words.items()}
        captions = direction(self.clip.visual_projection(seen.pooler_output)) @ read(input_ids, attention_mask).T
        single = direction(self.patches(seen.hidden_states[FEATURES][:, 1:]))
        single = single @ read(words["input_ids"], words["attention_mask"]).T
        fewest = FEWEST if single.shape[1] == GRID**2 else FEWEST // 2
        return captions * self.clip.logit_scale.exp(), single.topk(fewest, 1).values.mean(1) * self.scale.exp()


def contrast(scores: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Mean over the right pairs of -log(e^right / (e^right + sum of e^wrong)), the wrong ones from the same row."""
    wrong = scores.masked_fill(right, -1e4).logsumexp(1, keepdim=True)
    return torch.nn.functional.softplus(wrong - scores)[right].mean()


def both_ways(scores: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`contrast` within rows and within columns, their mean."""
    return (contrast(scores, right) + contrast(scores.T, right.T)) / 2


class Batches:
    """What CLIP sees at each step: close-ups, scenes with half of their patches, or scenes; ``size`` scenes at once."""

    def __init__(self, work: Path, fast: Any, size: int) -> None:
        self.work, self.fast, self.size = work, fast, size

    @cached_property
    def close(self) -> Rendered:
        return Rendered(self.work, "close_ups")

    @cached_property
    def whole(self) -> Rendered:
        return Rendered(self.work)

    def __call__(self, step: int) -> dict[str, torch.Tensor]:
        """Pictures, captions, which patches are looked at, and which words are ``right`` (Bool[image word])."""
        random = torch.Generator().manual_seed(step)
        close = step < CLOSE_STEPS
        data, amount = (self.close, len(scenes.nouns())) if close else (self.whole, self.size)
        visits = range(step * amount, (step + 1) * amount)
        batch = captioned(data, self.fast, visits)
        if close:
            batch["pixel_values"], batch["patches"] = placed(batch["pixel_values"], random)
        elif step < CLOSE_STEPS + HALVED_STEPS:
            batch["patches"] = torch.rand(amount, GRID**2, generator=random).argsort(1)[:, : GRID**2 // 2]
        batch["right"] = said_of(data, visits)
        return batch


def said_of(data: Rendered, visits: Iterable[int]) -> torch.Tensor:
    """Bool[visit word]: which of the words are said of each picture."""
    said = [{word for t in data.things[visit % len(data)] for word in (t.noun, t.colour)} for visit in visits]
    return torch.tensor([[word in those for word in words()] for those in said])


def word_tokens(fast: Any) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``attention_mask`` of each word with its article, as CLIP reads them."""
    read = fast([f"a {word}<eot>" for word in words()], return_tensors="pt", padding=True, padding_side="right")
    return {key: read[key] for key in ("input_ids", "attention_mask")}


def words() -> list[str]:
    """What patches are compared with: nouns, and the colours that things are said to have."""
    return [*scenes.nouns(), *scenes.COLOURS]


def loss_of(both: Contrasts, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
    """The sum of three contrasts (captions, nouns, colours), and each of them to log."""
    right, nouns = batch.pop("right"), len(scenes.nouns())
    captions, of_words = both(**batch)
    own = torch.arange(len(captions), device=captions.device)
    parts = {"captions": sum(torch.nn.functional.cross_entropy(x, own) for x in (captions, captions.T)) / 2}
    for name, some in (("nouns", slice(nouns)), ("colours", slice(nouns, None))):
        scores, true = of_words[:, some], right[:, some]
        parts[name] = both_ways(scores, true)
    loss = parts["captions"] + parts["nouns"] + 0.3 * parts["colours"]
    return loss, {name: round(part.item(), 3) for name, part in parts.items()}


def clip(work: Path, log: Log, device: str, size: int = 64) -> None:
    """The contrastive model, from pictures and captions alone: close-ups first, scenes then.

    Captions are contrasted with images, as ever; and their nouns and colours with patches: a word, by its best patches,
    with the words that the caption lacks and with the images whose captions lack it (after FILIP, arXiv 2111.07783,
    whose units are all tokens). Captions tell what is there, never where. Close-ups have 36 patches instead of 144, and
    every noun as often as every other in each batch. Half of a scene's patches are left out in the middle part, which
    halves their cost (FLIP, arXiv 2212.00794). It begins from the weights in WORK/clip_start.pt, where there are some.
    """
    fast = load_tokenizer(work)
    torch.manual_seed(0)
    model = clip_model(len(fast), fast.convert_tokens_to_ids("<eot>"))
    begun(model, work / "clip_start.pt")
    both = Contrasts(model, word_tokens(fast)).to(device)
    compile_layers((*model.vision_model.encoder.layers, *model.text_model.encoder.layers))
    batches, steps = Batches(work, fast, size), CLOSE_STEPS + HALVED_STEPS + WHOLE_STEPS
    train("clip_state", both, batches, lambda batch: loss_of(both, batch), steps, 1e-3, 0.1, work, log, device)
    torch.save({"model": model.state_dict()}, work / "clip.pt")
