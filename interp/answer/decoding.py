"""What token ids say, and what each of their beginnings says, without decoding every beginning anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

BLOCK, BEFORE = 64, 16
"""Tokens between beginnings that are decoded as a whole, and tokens that are read before a block for what they do to
its first one (blanks, the first bytes of a character)."""


def decoded(tokenizer: Any, ids: list[int]) -> str:
    """The text of the tokens, without special tokens."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def beginnings(tokenizer: Any, ids: list[int]) -> Iterator[str]:
    """The text of the first token, of the first two, and so on, as `decoded` gives it of each.

    A long answer is cut into blocks: within one, a beginning is the text before the block and what the tokens since
    add. A block whose end comes out otherwise than decoded as a whole is decoded token by token.
    """
    place, before = 0, ""
    while place < len(ids):
        end = min(place + BLOCK, len(ids))
        whole = decoded(tokenizer, ids[:end])
        added = _added(tokenizer, ids, place, end, before) if place else None
        if added is None or added[-1] != whole:
            added = [decoded(tokenizer, ids[:n]) for n in range(place + 1, end)] + [whole]
        yield from added
        place, before = end, whole


def _added(tokenizer: Any, ids: list[int], place: int, end: int, before: str) -> list[str] | None:
    """The beginnings that end in the block; None if its tokens change what stands before it."""
    context = max(place - BEFORE, 0)
    known = decoded(tokenizer, ids[context:place])
    texts = [decoded(tokenizer, ids[context:n]) for n in range(place + 1, end + 1)]
    if known.endswith("\ufffd") or not all(text.startswith(known) for text in texts):
        return None
    return [before + text[len(known) :] for text in texts]
