"""Answer text -> noun phrases -> answer tokens, and which targets a phrase names.

A phrase stands for the tokens of its *root* word (arXiv 2410.08209, section 3.2): "dog" in "the brown dog on a mat".
spaCy is imported on first use and its English pipeline is loaded once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Int

from interp.answer.decoding import beginnings, decoded
from interp.answer.language import Line, lines_of
from interp.answer.parser import parsed, root_of
from interp.answer.spelling import found_at, moved, says_something
from interp.types import Phrase

Offsets = Sequence[tuple[int, int]]
"""Per answer token, the (start, end) of its characters in the answer."""


class PhraseError(ValueError):
    """A phrase that was asked for is not in the answer, or no token overlaps its root word.

    What to do: ask for one of the phrases that the message lists, or leave ``phrases`` out to get all noun phrases.
    """


def find_phrases(
    answer: str,
    offsets: Offsets,
    phrases: Sequence[str | tuple[int, int]] | str | None = None,
    *,
    truncated: bool = False,
    parser: str | None = None,
) -> tuple[Phrase, ...]:
    """The answer's noun phrases, in order of appearance; chunks whose root is a pronoun ("it", "there") are dropped
    (the released code keeps them), and so are those whose root is no word. Markup is no language: see
    `interp.answer.language`; a phrase ends with its line.

    ``phrases`` names other ones: strings (every occurrence as whole words, whatever its case) or (start, end)
    characters, in the order asked. Their root is the one word from which the parse hangs all others, else the last
    word; an emoji is a phrase too. A phrase belongs to the tokens whose characters overlap its root word
    (arXiv 2410.08209, section 3.2).

    With ``truncated`` (the answer ran into its length limit) a phrase whose root touches the end of the text is left
    out with a warning, since nobody knows how that word would have gone on.

    Raises:
        PhraseError: a phrase is not in the answer, or no token overlaps its root.
        ParserMissing: no spaCy pipeline is installed.

    >>> found = find_phrases("A brown dog sits.", [(0, 1), (1, 7), (7, 11), (11, 16), (16, 17)])
    >>> found[0].text, found[0].root, found[0].tokens
    ('A brown dog', 'dog', (2,))
    """
    lines = lines_of(answer)
    if phrases is None:
        found = [phrase for line in lines for phrase in _noun_phrases(line, parser)]
    else:
        asked = [phrases] if isinstance(phrases, str) else phrases
        spans = dict.fromkeys(span for phrase in asked for span in _occurrences(answer, phrase, parser))
        found = [_named(answer, lines, *span, parser) for span in spans]
    result, spans_of = [], np.array(offsets, dtype=np.int64).reshape(-1, 2)
    for one in found:
        if truncated and _is_cut(one.end, answer):
            warnings.warn(
                f"left out {one.text!r}: its root {one.root!r} is cut off by the end of the answer", stacklevel=2
            )
        else:
            result.append(_with_tokens(one, spans_of))
    return tuple(result)


def answer_text(
    tokenizer: Any, token_ids: Sequence[int], given: str | None = None
) -> tuple[str, list[tuple[int, int]]]:
    """The answer's text and each token's (start, end) characters in it.

    A ``given`` answer comes back as it was given, whatever its tokens decode to (blanks, NFC, special tokens): its
    characters are what a user counts. One that was generated comes without leading blanks.
    """
    said, offsets = token_offsets(tokenizer, token_ids)
    text = said.lstrip() if given is None else given
    return text, moved(offsets, said, text)


def token_offsets(tokenizer: Any, token_ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """The text of the tokens, without special tokens, and each token's (start, end) characters in it.

    By decoding ever longer beginnings, so that the offsets are those of *these* ids (tokenising the text again may
    give others) and need nothing of the tokenizer but ``decode``. Tokens that share a character each get the whole
    character; a special token gets an empty span.
    """
    ids = [int(i) for i in token_ids]
    text = decoded(tokenizer, ids)
    offsets, start = [], 0
    for begun in beginnings(tokenizer, ids):
        settled = max(start, _shared(begun, text, start))
        # what does not agree with the text is a character whose last bytes are still to come
        offsets.append((start, min(settled + (len(begun) > settled), len(text))))
        start = settled
    return text, offsets


def _noun_phrases(line: Line, parser: str | None) -> Iterator[Phrase]:
    """The line's noun chunks whose root is a word (or what is left of one) and no pronoun, from their first word on."""
    for chunk in parsed(line.text, parser).noun_chunks:
        root = chunk.root
        if root.pos_ != "PRON" and any(c.isalpha() or c == "\ufffd" for c in root.text):
            first = next((t for t in chunk if any(c.isalnum() for c in t.text)), root)
            start, end = line.place(root.idx, root.idx + len(root))
            text = line.text[first.idx : chunk.end_char].strip()
            yield Phrase(text, root.text, root.lemma_.lower(), start, end, ())


def _named(answer: str, lines: Sequence[Line], start: int, end: int, parser: str | None) -> Phrase:
    """The stretch of the answer as a phrase; parsed in its line, or in the whole answer where it runs over several."""
    text = answer[start:end].strip()
    touched = [(line, found) for line in lines if (found := line.within(start, end)) is not None]
    whole = Line(answer, tuple(range(len(answer))))
    line, within = touched[0] if len(touched) == 1 else (whole, (start, end))
    root = root_of(parsed(line.text, parser), *within)
    if root is None:  # an emoji, or nothing but markup: it is its own root
        first = start + answer[start:end].index(text)
        return Phrase(text, text, text.lower(), first, first + len(text), ())
    return Phrase(text, root.text, root.lemma_.lower(), *line.place(root.idx, root.idx + len(root)), ())


def _occurrences(answer: str, phrase: str | tuple[int, int], parser: str | None) -> Iterator[tuple[int, int]]:
    """Where the phrase stands in the answer."""
    if not isinstance(phrase, str):
        start, end = phrase
        if not 0 <= start < end <= len(answer) or not says_something(answer[start:end]):
            raise PhraseError(
                f"phrase {phrase} is not a stretch of words: expected (start, end) characters with "
                f"0 <= start < end <= {len(answer)} in {_short(answer)}"
            )
        yield start, end
        return
    if not says_something(phrase):
        raise PhraseError(f"phrase {phrase!r} holds no word; expected words of the answer {_short(answer)}")
    spans = list(found_at(phrase, answer))
    if not spans:
        has = ", ".join(repr(p.text) for line in lines_of(answer) for p in _noun_phrases(line, parser)) or "none"
        raise PhraseError(f"no phrase {phrase!r} in the answer {_short(answer)}; its noun phrases: {has}")
    yield from spans


def _is_cut(end: int, answer: str) -> bool:
    # a trailing U+FFFD is a character of which only the first bytes were generated
    return end >= len(answer.rstrip("\ufffd"))


def _with_tokens(phrase: Phrase, offsets: Int[np.ndarray, "token 2"]) -> Phrase:
    start, end = phrase.start, phrase.end
    first, last = offsets.T
    tokens = tuple(np.flatnonzero((first < last) & (first < end) & (last > start)).tolist())
    if not tokens:
        covers = f"{offsets[0][0]}..{offsets[-1][1]}" if len(offsets) else "nothing"
        raise PhraseError(
            f"no answer token overlaps {phrase.root!r} at characters {start}..{end}: the offsets cover {covers}; "
            "expected the text and offsets of one call of token_offsets"
        )
    return replace(phrase, tokens=tokens)


def _shared(a: str, b: str, known: int = 0) -> int:
    """Length of the longest common beginning, of which ``known`` characters were found before."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    first = known if a[:known] == b[:known] else 0
    return next(i for i in range(first, n) if a[i] != b[i])


def _short(text: str, limit: int = 200) -> str:
    return repr(text if len(text) <= limit else text[:limit] + "...")
