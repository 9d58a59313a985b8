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
        if i == len(text) or not _belongs(text[start:i], text[i]):
            yield start, i, unicodedata.normalize("NFKC", text[start:i]).casefold() or text[start:i]
            start = i


def _belongs(character: str, mark: str) -> bool:
    """Whether the two are written as one: an accent, or a letter that composes with what is before it (Hangul)."""
    if unicodedata.combining(mark):
        return True
    return ord(mark) >= 0x300 and len(unicodedata.normalize("NFC", character[-3:] + mark)) < len(
        unicodedata.normalize("NFC", character[-3:]) + mark
    )


def _places(decoded: str, given: str) -> tuple[list[int], list[int], dict[int, tuple[int, int]]]:
    """For each place in ``decoded``: where a token that begins, or ends, there does so in ``given``; and what of
    ``given`` is lost at a place. Blanks are no guide: they lie where the characters beside them do."""
    ours, theirs = ([c for c in _clusters(text) if not c[2].isspace()] for text in (decoded, given))
    starts, ends = [0] * (len(decoded) + 1), [0] * (len(decoded) + 1)
    lost = {}
    place = left = 0  # up to which place of the one, and of the other, all is settled

    def stretch(until: int, span: tuple[int, int]) -> None:
        nonlocal place, left
        for i in range(place, until):
            starts[i], ends[i + 1] = span
        place, left = until, span[1]

    for kind, i1, i2, j1, j2 in _opcodes([key for *_, key in ours], [key for *_, key in theirs]):
        if kind == "insert":
            gap = theirs[j1][0], theirs[j2 - 1][1]
            begin = _begin(ours, i1, decoded)
            lost |= dict.fromkeys(range(place, begin + 1), gap)
            if gap[0] > left:  # the blanks stand before what is lost, else behind it
                stretch(begin, (left, gap[0]))
            left = gap[1]
        elif kind == "equal":
            for mine, other in zip(ours[i1:i2], theirs[j1:j2], strict=True):
                stretch(mine[0], (left, other[0]))
                stretch(mine[1], other[:2])
        else:
            gap = (theirs[j1][0], theirs[j2 - 1][1]) if j1 < j2 else (left, left)
            stretch(ours[i1][0], (left, gap[0]))
            stretch(ours[i2 - 1][1], gap)
    stretch(len(decoded), (left, len(given)))
    starts[len(decoded)] = len(given)
    return starts, ends, lost


def _opcodes(ours: list[str], theirs: list[str]) -> list[tuple[str, int, int, int, int]]:
    """How the one becomes the other; what both begin with is taken as it stands, however often it comes again."""
    same = next((i for i, (x, y) in enumerate(zip(ours, theirs, strict=False)) if x != y), min(len(ours), len(theirs)))
    matcher = SequenceMatcher(None, ours[same:], theirs[same:], autojunk=False)
    rest = [(kind, i1 + same, i2 + same, j1 + same, j2 + same) for kind, i1, i2, j1, j2 in matcher.get_opcodes()]
    return [("equal", 0, same, 0, same), *rest]


def _begin(clusters: list[tuple[int, int, str]], i: int, text: str) -> int:
    return clusters[i][0] if i < len(clusters) else len(text)


def _inside(place: int, text: str) -> int:
    return min(max(place, 0), len(text))
