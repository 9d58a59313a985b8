"""The language model's training, from text alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp.datasets import scenes
from training.dialogues import dialogue, tokens
from training.loop import train
from training.parts import Log
from training.tokenizer import load_tokenizer

SHORT = 16  # words of a short list, at most
SHORT_STEPS, LONG_STEPS = 1500, 600  # what is said once is not said again; then to count
MIXED_STEPS = 1600  # of the second round: lists of all lengths
FILLERS = ("wall", "sky", "stone", "grass", "sand", "coin", "wood", "cloth")


def llama(entries: int):
    """An untrained LlamaForCausalLM: 6 layers x 8 heads (4 key-value heads) x 32, width 192."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=entries, hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=4, head_dim=32, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=3, attn_implementation="eager",
    )  # fmt: skip
    return LlamaForCausalLM(config)


def load_llama(work: Path, fast: Any) -> Any:
    """The trained LlamaForCausalLM of WORK, whose tokenizer is ``fast``."""
    model = llama(len(fast))
    model.load_state_dict(torch.load(work / "text.pt", weights_only=True)["model"])
    return model


def listed(rng: np.random.Generator, chosen, slots: int) -> list[str]:
    """``slots`` words that name the things over and over, among fillers.

    In long lists up to half of them name a wrong thing, drawn anew for each, so that only who counts can tell what is
    there. Short ones are right.
    """
    words = [noun for noun in chosen for _ in range(rng.integers(max(1, slots // 16), max(1, slots // 5) + 1))]
    wrong = rng.random(slots) < (slots > SHORT) * rng.random() * np.where(np.arange(slots) < len(words), 0.5, 0.12)
    words += [FILLERS[k] for k in rng.integers(len(FILLERS), size=slots - len(words))]
    others = rng.integers(len(scenes.nouns()), size=slots)
    words = [scenes.nouns()[others[k]] if wrong[k] else word for k, word in enumerate(words)]
    return [words[k] for k in rng.permutation(slots)] if rng.random() < 0.5 else words


def lengths(step: int) -> dict[int, float]:
    """How probable a list of each length is."""
    if step < SHORT_STEPS:
        return {8: 0.5, SHORT: 0.5}
    if step < SHORT_STEPS + LONG_STEPS:
        return {36: 0.4, 72: 0.3, 144: 0.3}
    return {8: 0.25, SHORT: 0.25, 36: 0.2, 72: 0.15, 144: 0.15}


class Lists:
    """Batches of ``size`` lists, each with a prompt and an answer that it tells."""

    def __init__(self, fast: Any, size: int) -> None:
        self.fast, self.size = fast, size
        words = (*scenes.nouns(), *FILLERS)
        pieces_of = {word: fast(f" {word}", add_special_tokens=False)["input_ids"] for word in words}
        longest = max(map(len, pieces_of.values()))
        self.padded = {word: ids + [-1] * (longest - len(ids)) for word, ids in pieces_of.items()}

    def __call__(self, step: int) -> dict[str, torch.Tensor]:
        """``pieces`` (Int[list entry piece], -1: none), ``noise`` (Float[list entry channel]) and the text's tokens."""
        rng, rows, lists = np.random.default_rng([step, 11]), [], []
        slots = int(rng.choice(list(lengths(step)), p=list(lengths(step).values())))
        for _ in range(self.size):
            chosen = scenes.choose(rng, "train", counts=(1, 5))
            prompt, answer = dialogue(rng, chosen)
            rows.append((f"USER: {'<image>' * slots}\n{prompt} ASSISTANT:", answer))
            lists.append(listed(rng, chosen, slots))
        pieces = torch.tensor([[self.padded[word] for word in words] for words in lists])
        noise = torch.randn(self.size, slots, 192, generator=torch.Generator().manual_seed(step))
        noise *= torch.from_numpy(rng.uniform(0, slots > SHORT, (self.size, 1, 1)).astype(np.float32))
        return {"pieces": pieces, "noise": noise, **tokens(self.fast, rows)}


def loss_of(model: Any, place: int, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, int]]:
    """The answers' cross-entropy, with the list's entries where the text has ``place``; their number to log."""
    embed, pieces = model.get_input_embeddings(), batch["pieces"]
    there = (pieces >= 0)[..., None]
    entries = (embed(pieces.clamp(0)) * there).sum(2) / there.sum(2).clamp(1)
    entries = entries + batch["noise"] * entries.detach().square().mean().sqrt()
    embedded = embed(batch["input_ids"])
    at = (batch["input_ids"] == place)[..., None].expand_as(embedded)
    embedded = embedded.masked_scatter(at, entries.to(embedded.dtype))
    out = model(inputs_embeds=embedded, attention_mask=batch["attention_mask"], labels=batch["labels"])
    return out.loss, {"entries": pieces.shape[1]}


def text(work: Path, log: Log, device: str, size: int = 48) -> None:
    """The language model, from text alone: lists of things, then captions, questions and answers about them.

    The answer can only be had by looking back at the list, and by counting: some entries are wrong. An entry is one
    vector, the mean of its word's pieces, with noise: whoever reads soft words can be taught to read patches. Two
    rounds, each with warm-up and cosine: short lists before long ones; all lengths mixed.
    """
    fast = load_tokenizer(work)
    place, batches = fast.convert_tokens_to_ids("<image>"), Lists(fast, size)
    torch.manual_seed(1)
    model = llama(len(fast)).to(device)
    loss, first = lambda batch: loss_of(model, place, batch), SHORT_STEPS + LONG_STEPS
    train("text_first", model, batches, loss, first, 2e-3, 0.05, work, log, device)
    train("text", model, lambda k: batches(first + k), loss, MIXED_STEPS, 2e-3, 0.05, work, log, device)
