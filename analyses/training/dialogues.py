"""What LLaVA's models are asked and answer, as text and as tokens."""

from __future__ import annotations

import torch

from interp.datasets import scenes
from training.layouts import SHARES, spoken
from training.pictures import GRID, Rendered

IGNORED = -100
ONLY_CAPTIONS = {kind: share for kind, share in SHARES.items() if kind in scenes.KINDS}
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} "
    "{% else %}ASSISTANT: {% for part in message['content'] %}{{ part['text'] }}{% endfor %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tokens(fast, rows: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """(text before the answer, answer) -> right-padded ids, mask and labels; the loss falls on the answers alone."""
    befores = fast([before for before, _ in rows])["input_ids"]
    answers = fast([f" {answer}</s>" for _, answer in rows], add_special_tokens=False)["input_ids"]
    longest = max(len(b) + len(a) for b, a in zip(befores, answers, strict=True))
    ids = torch.full((len(rows), longest), fast.pad_token_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for i, (before, answer) in enumerate(zip(befores, answers, strict=True)):
        ids[i, : len(before) + len(answer)] = torch.tensor(before + answer)
        mask[i, : len(before) + len(answer)] = 1
        labels[i, len(before) : len(before) + len(answer)] = torch.tensor(answer)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class Dialogues:
    """Batches for LLaVA: images, chat prompts, answers."""

    def __init__(self, data: Rendered, fast, captions_only: bool) -> None:
        self.data, self.fast, self.captions_only = data, fast, captions_only

    def __call__(self, visits: list[int]) -> dict[str, torch.Tensor]:
        rows, pixels = [], []
        for visit in visits:
            image, things, rng = self.data[visit]
            prompt, answer = spoken(rng, things, ONLY_CAPTIONS if self.captions_only else SHARES)
            rows.append((f"USER: {'<image>' * GRID**2}\n{prompt} ASSISTANT:", answer))
            pixels.append(image)
        return {"pixel_values": torch.stack(pixels), **tokens(self.fast, rows)}
