"""One text in two spellings: what a tokenizer makes of an answer, and the answer as it was given."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

Spans = Sequence[tuple[int, int]]


def moved(offsets: Spans, decoded: str, given: str) -> list[tuple[int, int]]:
    """Each token's (start, end) characters in the text as it was ``given``, from those in what they ``decoded`` to.

    Blanks, accents (NFC or NFD), case and forms that a tokenizer changes are looked through. What decoding loses
    (special and unknown tokens) belongs to the tokens that stand there.
    """
    if decoded == given:
        return list(offsets)
    if decoded.strip() == given.strip():
        shift = (len(given) - len(given.lstrip())) - (len(decoded) - len(decoded.lstrip()))
        return [(_inside(a + shift, given), _inside(b + shift, given)) for a, b in offsets]
    starts, ends, lost = _places(decoded, given)
    return [(starts[a], ends[b]) if a < b else lost.get(a, (starts[a], starts[a])) for a, b in offsets]


def found_at(phrase: str, text: str) -> Iterator[tuple[int, int]]:
    """Where the phrase stands in the text as whole words, whatever its case and the encoding of its accents."""
    wanted = [key for *_, key in _clusters(phrase.strip())]
    there = list(_clusters(text))
    keys = [key for *_, key in there]
    at = 0
    while wanted and at + len(wanted) <= len(keys):
        end = at + len(wanted)
        if keys[at:end] == wanted and _parted(keys, at) and _parted(keys, end):
            yield there[at][0], there[end - 1][1]
            at = end
        else:
            at += 1


def says_something(text: str) -> bool:
    """Whether it holds a letter, a digit or a symbol such as an emoji: not blanks and punctuation alone."""
    return any(c.isalnum() or unicodedata.category(c)[0] == "S" for c in text)


def _parted(keys: list[str], at: int) -> bool:
    """Whether no word runs across this place."""
    return at in (0, len(keys)) or not (_in_word(keys[at - 1]) and _in_word(keys[at]))


def _in_word(key: str) -> bool:
    return key[0].isalnum() or key[0] == "_"


def _clusters(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, what it is) of each character with the marks that belong to it."""
    start = 0
    for i in range(1, len(text) + 1):
        if i == len(text) or not unicodedata.combining(text[i]):
            yield start, i, unicodedata.normalize("NFKC", text[start:i]).casefold() or text[start:i]
            start = i


def _places(decoded: str, given: str) -> tuple[list[int], list[int], dict[int, tuple[int, int]]]:
    """For each place in ``decoded``: where a token that begins, or ends, there does so in ``given``; and what of
    ``given`` is lost at a place."""
    ours, theirs = list(_clusters(decoded)), list(_clusters(given))
    matcher = SequenceMatcher(None, [key for *_, key in ours], [key for *_, key in theirs], autojunk=False)
    starts, ends = [len(given)] * (len(decoded) + 1), [0] * (len(decoded) + 1)
    lost = {}

    def stretch(a: tuple[int, int], b: tuple[int, int]) -> None:
        for place in range(*a):
            starts[place], ends[place + 1] = b

    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        if kind == "equal":
            for mine, other in zip(ours[i1:i2], theirs[j1:j2], strict=True):
                stretch(mine[:2], other[:2])
            continue
        begin = _begin(theirs, j1, given)
        gap = (begin, theirs[j2 - 1][1] if j1 < j2 else begin)
        if i1 < i2:
            stretch((ours[i1][0], ours[i2 - 1][1]), gap)
        else:
            lost[_begin(ours, i1, decoded)] = gap
    return starts, ends, lost


def _begin(clusters: list[tuple[int, int, str]], i: int, text: str) -> int:
    return clusters[i][0] if i < len(clusters) else len(text)


def _inside(place: int, text: str) -> int:
    return min(max(place, 0), len(text))
