"""Names of things as data sets write them, and nouns in the singular: `traffic_light` names "two traffic lights"."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from interp.plurals import engine

_ARTICLES = ("a", "an", "the")
_QUALIFIERS = ("merged", "other", "stuff")
"""Last words of COCO's stuff and panoptic categories ("tree-merged") that name no thing."""


def spaced(name: str) -> str:
    """The name with blanks between its words, as a sentence would have it.

    Underscores and a capital after a small letter part words ("traffic_light", "TrafficLight"); a remark in brackets
    ("bow_(weapon)"), WordNet's ".n.01" and COCO's "-merged", "-other" and "-stuff" are left out.
    """
    text = re.sub(r"\.[nvasr]\.\d+$", "", name.strip())
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).replace("_", " ")
    bare = re.sub(r"\([^()]*\)", " ", text)
    text = " ".join((bare if re.search(r"\w", bare) else text).split())
    shorter = re.sub(rf"([-, ]+({'|'.join(_QUALIFIERS)}))+$", "", text)
    return shorter if re.search(r"\w", shorter) else text


def plain(text: str) -> str:
    """In lower case and without accents, whatever way they are encoded in."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in apart if not unicodedata.combining(c))


@lru_cache(maxsize=65536)
def words_of(text: str) -> tuple[str, ...]:
    """The name's words, `spaced` and `plain`, without a leading article."""
    words = tuple(re.findall(r"\w+", plain(spaced(text))))
    return words[1:] if len(words) > 1 and words[0] in _ARTICLES else words


@lru_cache(maxsize=65536)
def singulars(noun: str) -> frozenset[str]:
    """The noun in lower case, and whatever it may be a plural of.

    Irregular ones by the library inflect, modern and classical ("people": person, "cacti": cactus); regular ones by
    rule too, since a library may not know a rare word ("okapis").
    """
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
    if noun.isalpha():
        forms |= {found for own in (engine(), engine(classical=True)) if (found := own.singular_noun(noun))}  # type: ignore[arg-type]
    return frozenset(forms)
