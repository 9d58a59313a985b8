"""Answer text -> noun phrases -> answer tokens, and which targets a phrase names.

A phrase stands for the tokens of its *root* word (arXiv 2410.08209, section 3.2): "dog" in "the brown dog on a mat".
spaCy is imported on first use and its English pipeline is loaded once.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from interp.answer.parser import parsed, root_of
from interp.types import Phrase

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token


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
    (the released code keeps them).

    ``phrases`` names other ones: strings (every occurrence as whole words, whatever its case) or (start, end)
    characters, in the order asked. Their root is the one word from which the parse hangs all others, else the last
    word. A phrase belongs to the tokens whose characters overlap its root word (arXiv 2410.08209, section 3.2).

    With ``truncated`` (the answer ran into its length limit) a phrase whose root touches the end of the text is left
    out with a warning, since nobody knows how that word would have gone on.

    Raises:
        PhraseError: a phrase is not in the answer, or no token overlaps its root.
        ParserMissing: no spaCy pipeline is installed.

    >>> found = find_phrases("A brown dog sits.", [(0, 1), (1, 7), (7, 11), (11, 16), (16, 17)])
    >>> found[0].text, found[0].root, found[0].tokens
    ('A brown dog', 'dog', (2,))
    """
    doc = parsed(answer, parser)
    if phrases is None:
        found = [(c.text, c.root) for c in doc.noun_chunks if c.root.pos_ != "PRON"]
    else:
        asked = [phrases] if isinstance(phrases, str) else phrases
        spans = dict.fromkeys(span for phrase in asked for span in _occurrences(doc, phrase))
        found = [(answer[start:end], root_of(doc, start, end)) for start, end in spans]
    result = []
    for text, root in found:
        if truncated and _is_cut(root, answer):
            warnings.warn(
                f"left out {text!r}: its root {root.text!r} is cut off by the end of the answer", stacklevel=2
            )
        else:
            result.append(_phrase(text, root, offsets))
    return tuple(result)


def token_offsets(tokenizer: Any, token_ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """The text of the tokens, without special tokens, and each token's (start, end) characters in it.

    By decoding ever longer beginnings, so that the offsets are those of *these* ids (tokenising the text again may
    give others) and need nothing of the tokenizer but ``decode``. Tokens that share a character each get the whole
    character; a special token gets an empty span.
    """
    ids = [int(i) for i in token_ids]
    text = _decode(tokenizer, ids)
    offsets, start = [], 0
    for n in range(1, len(ids) + 1):
        begun = _decode(tokenizer, ids[:n])
        settled = max(start, _shared(begun, text))
        # what does not agree with the text is a character whose last bytes are still to come
        offsets.append((start, min(settled + (len(begun) > settled), len(text))))
        start = settled
    return text, offsets


def _occurrences(doc: Doc, phrase: str | tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Where the phrase stands in the answer."""
    answer = doc.text
    if not isinstance(phrase, str):
        start, end = phrase
        if not 0 <= start < end <= len(answer) or not re.search(r"\w", answer[start:end]):
            raise PhraseError(
                f"phrase {phrase} is not a stretch of words: expected (start, end) characters with "
                f"0 <= start < end <= {len(answer)} in {_short(answer)}"
            )
        yield start, end
        return
    spans = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(phrase.strip())}(?!\w)", answer, re.IGNORECASE)]
    if not spans or not re.search(r"\w", phrase):
        has = ", ".join(repr(c.text) for c in doc.noun_chunks) or "none"
        raise PhraseError(f"no phrase {phrase!r} in the answer {_short(answer)}; its noun phrases: {has}")
    yield from spans


def _is_cut(root: Token, answer: str) -> bool:
    # a trailing U+FFFD is a character of which only the first bytes were generated
    return root.idx + len(root) >= len(answer.rstrip("\ufffd"))


def _phrase(text: str, root: Token, offsets: Offsets) -> Phrase:
    start, end = root.idx, root.idx + len(root)
    tokens = tuple(i for i, (a, b) in enumerate(offsets) if a < b and a < end and b > start)
    if not tokens:
        covers = f"{offsets[0][0]}..{offsets[-1][1]}" if len(offsets) else "nothing"
        raise PhraseError(
            f"no answer token overlaps {root.text!r} at characters {start}..{end}: the offsets cover {covers}; "
            "expected the text and offsets of one call of token_offsets"
        )
    return Phrase(text=text, root=root.text, lemma=root.lemma_.lower(), start=start, end=end, tokens=tokens)


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _shared(a: str, b: str) -> int:
    """Length of the longest common beginning."""
    n = min(len(a), len(b))
    return n if a[:n] == b[:n] else next(i for i in range(n) if a[i] != b[i])


def _short(text: str, limit: int = 200) -> str:
    return repr(text if len(text) <= limit else text[:limit] + "...")
