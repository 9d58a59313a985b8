"""What LLaVA's models are asked and answer, as text and as tokens."""

from __future__ import annotations

import torch

from training.layouts import spoken
from training.pictures import GRID, Rendered

IGNORED = -100
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} "
    "{% else %}ASSISTANT: {% for part in message['content'] %}{{ part['text'] }}{% endfor %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tokens(fast, pictures: list[tuple[int, list[tuple[str, str]]]]) -> dict[str, torch.Tensor]:
    """(image tokens, [(prompt, answer), ...]) -> ids, positions, mask and labels; the loss falls on the answers alone.

    The dialogues of one picture stand behind each other and share the picture's tokens: each sees the picture and
    itself, and its positions go on from the picture's, so that it reads as if it were alone (``attention_mask`` is
    Float[picture 1 token token], added to the scores). A picture has more tokens than an answer: they are read once.
    """
    rows = [_row(fast, entries, dialogues) for entries, dialogues in pictures]
    longest = max(len(row[0]) for row in rows)
    ids, part, labels = (torch.full((len(rows), longest), value) for value in (fast.pad_token_id, -1, IGNORED))
    positions = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        for into, values in zip((ids, part, positions, labels), row, strict=True):
            into[i, : len(values)] = torch.tensor(values)
    at = torch.arange(longest)
    sees = (at[:, None] >= at) & ((part[:, None] == 0) | (part[:, None] == part[..., None]))
    mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)[:, None]
    return {"input_ids": ids, "position_ids": positions, "attention_mask": mask, "labels": labels}


def _row(fast, entries: int, dialogues: list[tuple[str, str]]) -> tuple[list[int], ...]:
    """Ids, the part each token is of (0: the picture, 1 ...: a dialogue), positions and labels of one picture."""
    place = fast.convert_tokens_to_ids("<image>")
    befores = fast([f"USER: {'<image>' * entries}\n{prompt} ASSISTANT:" for prompt, _ in dialogues])["input_ids"]
    answers = fast([f" {answer}</s>" for _, answer in dialogues], add_special_tokens=False)["input_ids"]
    shared = befores[0].index(place) + entries
    ids = befores[0][:shared]
    part, positions, labels = [0] * shared, list(range(shared)), [IGNORED] * shared
    for k, (before, answer) in enumerate(zip(befores, answers, strict=True), 1):
        own = before[shared:] + answer
        ids, part = ids + own, part + [k] * len(own)
        positions = positions + list(range(shared, shared + len(own)))
        labels = labels + [IGNORED] * len(before[shared:]) + answer
    return ids, part, positions, labels


class Dialogues:
    """Batches for LLaVA: images, chat prompts, answers; ``answers`` dialogues a picture, as ``shares`` have them."""

    def __init__(self, data: Rendered, fast, shares: dict[str, float], answers: int = 1) -> None:
        self.data, self.fast, self.shares, self.answers = data, fast, shares, answers

    def __call__(self, visits: list[int]) -> dict[str, torch.Tensor]:
        rows, pixels = [], []
        for visit in visits:
            image, things, rng = self.data[visit]
            rows.append((GRID**2, [spoken(rng, things, self.shares) for _ in range(self.answers)]))
            pixels.append(image)
        return {"pixel_values": torch.stack(pixels), **tokens(self.fast, rows)}
