"""The language model's training, from text alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp.datasets import scenes
from training.dialogues import tokens
from training.layouts import EMPTY, PLACE_WORDS, SHARES, cells, layout, places, spoken
from training.loop import train
from training.parts import Log
from training.tokenizer import load_tokenizer

WIDTH, LAYERS = 192, 6


@dataclass(frozen=True)
class Lesson:
    """One warm-up and cosine of the text stage.

    ``shares``: what is said how often (`spoken`). ``sides``: grids of how many cells a side. ``things``: how large
    things are; ``spread``: how often each has a corner to itself. ``plain``: entries are nouns alone, without colour
    and place. ``batch``: grids, and dialogues about each. ``floor``: the rate at the end, of ``rate``.
    """

    steps: int
    shares: dict[str, float]
    sides: tuple[int, ...]
    rate: float = 1.5e-3
    noise: float = 0.0
    things: tuple[float, float] = (0.12, 0.3)
    spread: float = 0.0
    plain: bool = False
    batch: tuple[int, int] = (8, 2)
    floor: float = 0.2


LESSONS = {
    "text_lists": Lesson(700, {"free": 0.6, "question": 0.4}, (3,), 2e-3, things=(0.3, 0.6), plain=True, batch=(16, 1)),
    "text_nouns": Lesson(900, {"free": 0.4, "question": 0.2, "attribute": 0.4}, (4,), 2e-3),
    "text_attributes": Lesson(1500, {"attribute": 0.75, "free": 0.1, "asked": 0.15}, (4,)),
    "text_places": Lesson(2500, {"place": 0.5, "attribute": 0.25, "free": 0.1, "asked": 0.15}, (4, 6), spread=0.8),
    "text_relations": Lesson(
        1800, {"place": 0.5, "relation": 0.2, "attribute": 0.15, "free": 0.15}, (4, 6), spread=0.8
    ),
    "text": Lesson(1500, SHARES, (6, 8, 12), noise=1.0, things=(0.26, 0.6), batch=(8, 4), floor=0.02),
}
"""Nouns alone before things with colours, those before places, all together last: each is built of what the one before
has taught. From scratch, entries of nouns, colours and places at once teach nothing in a thousand steps."""
FILLERS = ("wall", "sky", "stone", "grass", "sand", "coin", "wood", "cloth")


def llama(entries: int, layers: int = LAYERS):
    """An untrained LlamaForCausalLM: 6 layers x 8 heads (4 key-value heads) x 32, width 192."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=entries, hidden_size=WIDTH, intermediate_size=512, num_hidden_layers=layers, num_attention_heads=8,
        num_key_value_heads=4, head_dim=32, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=3, attn_implementation="eager",
    )  # fmt: skip
    return LlamaForCausalLM(config)


def load_llama(work: Path, fast: Any) -> Any:
    """The trained LlamaForCausalLM of WORK, whose tokenizer is ``fast``."""
    model = llama(len(fast))
    state = torch.load(work / "text.pt", weights_only=True)["model"]
    model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    return model


class Reader(torch.nn.Module):
    """A language model that is given entries of a grid in place of ``<image>``; only the language model is kept."""

    def __init__(self, model: Any, fast: Any) -> None:
        super().__init__()
        self.model, self.place = model, fast.convert_tokens_to_ids("<image>")
        self.words = [fast(f" {word}", add_special_tokens=False)["input_ids"] for word in PLACE_WORDS]

    def forward(self, nouns, colours, at, noise, input_ids, labels, **how):
        """The output for texts in which each ``<image>`` is an entry: the mean of its noun's pieces, its colour's and
        its place's words added, with noise."""
        embed = self.model.get_input_embeddings()
        entries = _mean(embed, nouns) + _mean(embed, colours)
        where = torch.stack([embed(torch.tensor(ids, device=at.device)).mean(0) for ids in self.words])
        entries = entries + at @ where
        entries = entries + noise * entries.detach().square().mean().sqrt()
        embedded = embed(input_ids)
        here = (input_ids == self.place)[..., None].expand_as(embedded)
        embedded = embedded.masked_scatter(here, entries.to(embedded.dtype))
        return self.model(inputs_embeds=embedded, labels=labels, use_cache=False, **how)


def _mean(embed: Any, pieces: torch.Tensor) -> torch.Tensor:
    there = (pieces >= 0)[..., None]
    return (embed(pieces.clamp(0)) * there).sum(2) / there.sum(2).clamp(1)


class Grids:
    """Batches of layouts read as grids of words, each with prompts and answers that it tells, as a lesson has them."""

    def __init__(self, fast: Any, how: Lesson) -> None:
        self.fast, self.how = fast, how
        words = (*scenes.nouns(), *FILLERS, *scenes.COLOURS)
        pieces_of = {word: fast(f" {word}", add_special_tokens=False)["input_ids"] for word in words}
        longest = max(map(len, pieces_of.values()))
        self.padded = {word: ids + [-1] * (longest - len(ids)) for word, ids in pieces_of.items()}
        self.padded[""] = [-1] * longest

    def __call__(self, step: int) -> dict[str, torch.Tensor]:
        """``nouns``, ``colours`` (Int[list entry piece], -1: none), ``at`` (Float[list entry word]), ``noise``
        (Float[list entry channel]) and the text's tokens."""
        rng = np.random.default_rng([step, 11])
        how, (size, answers) = self.how, self.how.batch
        side, rows, some = int(rng.choice(how.sides)), [], []
        for _ in range(size):
            things, boxes = layout(rng, sides=how.things, spread=rng.random() < how.spread)
            rows.append((side**2, [spoken(rng, things, how.shares) for _ in range(answers)]))
            some.append(self.entries(rng, things, boxes, side))
        return self.tensors(some, side, rng, step) | tokens(self.fast, rows)

    def tensors(self, some: list, side: int, rng: np.random.Generator, step: int) -> dict[str, torch.Tensor]:
        """The grids' part of a batch, from what ``entries`` gives for each. What is empty says no place."""
        amount, (nouns, colours, there) = len(some), zip(*some, strict=True)
        noise = torch.randn(amount, side**2, WIDTH, generator=torch.Generator().manual_seed(step))
        noise *= torch.from_numpy(rng.uniform(0, self.how.noise, (amount, 1, 1)).astype(np.float32))
        at = torch.from_numpy(places(side)) * torch.tensor(there)[..., None] * (not self.how.plain)
        return {"nouns": torch.tensor(nouns), "colours": torch.tensor(colours), "at": at, "noise": noise}

    def entries(self, rng: np.random.Generator, things, boxes: np.ndarray, side: int) -> tuple[list, list, list]:
        """Pieces of each cell's noun and colour, and whether a thing is there (1, 0). A thing's cell may be empty, or,
        in noise, hold a wrong noun."""
        flat = cells(boxes, side).ravel()
        first = np.array([np.flatnonzero(flat == k)[:1].sum() for k in range(len(things))])
        lost = rng.random(len(flat)) < 0.15
        lost[first] = False
        wrong = rng.random(len(flat)) < 0.15 * self.how.noise * rng.random()
        others = rng.integers(len(scenes.nouns()), size=len(flat))
        fillers = rng.integers(len(FILLERS), size=len(flat))
        nouns, colours, there = [], [], []
        for cell, k in enumerate(flat):
            empty = k == EMPTY or lost[cell]
            noun = FILLERS[fillers[cell]] if empty else things[k].noun
            nouns.append(self.padded[scenes.nouns()[others[cell]] if wrong[cell] and not empty else noun])
            colours.append(self.padded["" if empty or self.how.plain else things[k].colour])
            there.append(float(not empty))
        return nouns, colours, there


def text(work: Path, log: Log, device: str) -> None:
    """The language model, from text alone: grids of words, then captions, questions and answers about them.

    A grid stands for a picture: each cell is one vector, its noun's pieces, its colour's and its place's. The answer
    can only be had by looking back at the grid, and behind "red" or "at the top left is a" by finding the one cell that
    is meant: whoever reads soft words so can be taught to read patches. In lessons, each with warm-up and cosine.
    """
    fast = load_tokenizer(work)
    torch.manual_seed(1)
    model, first = Reader(llama(len(fast)), fast).to(device), 0
    read = torch.compile(model, dynamic=True)
    loss = lambda batch: (read(**batch).loss, {"entries": batch["nouns"].shape[1]})  # noqa: E731
    for name, how in LESSONS.items():
        grids = Grids(fast, how)
        at = lambda step, some=grids, start=first: some(start + step)  # noqa: E731
        train(name, model, at, loss, how.steps, how.rate, 0.05, work, log, device, floor=how.floor)
        first += how.steps
