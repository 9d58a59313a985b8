"""The prompt of LLaVA's own code (``llava_v1``), and how its tokens come out the same where text and image are one."""

from __future__ import annotations

import warnings
from typing import Any

CHAT_TEMPLATE = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
    "{% for message in messages %}{{ ' ' + message['role'].upper() + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)
"""``llava_v1`` of the released code."""


def chat_template(tokenizer: Any) -> str:
    """``llava_v1`` with which this tokenizer gives the tokens of the original code."""
    return CHAT_TEMPLATE.replace("<image>\n", f"<image>{gap(tokenizer)}\n")


def gap(tokenizer: Any) -> str:
    """What stands between image and line break in the template, so that the tokens are those of the released code.

    That code tokenises what follows the image by itself, and a SentencePiece tokenizer begins each text with a space of
    its own, which it leaves out behind another token: without it the prompt is a token short.
    """
    image, behind = tokenizer.convert_tokens_to_ids("<image>"), tokenizer("\nA", add_special_tokens=False)["input_ids"]
    wanted = [*tokenizer("USER: ")["input_ids"], image, *behind]
    fitting = (gap for gap in ("", " ") if tokenizer(f"USER: <image>{gap}\nA")["input_ids"] == wanted)
    found = next(fitting, None)
    if found is None:
        warnings.warn("around the image this tokenizer gives other tokens than the released code", stacklevel=2)
    return found or ""
