"""Which of an image's targets a phrase names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool

from interp.answer.parser import parsed, root_of
from interp.types import Phrase, Target


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

    >>> dog = Phrase("a wet dog", "dog", "dog", 6, 9, (2,))
    >>> left, right = np.array([[True, False]]), np.array([[False, True]])
    >>> match_targets([dog], [Target("brown dog", left), Target("cat", right)])  # by its noun: the first target
    [(0, array([[ True, False]]))]
    >>> match_targets([dog], [Target("dog", left), Target("dog", right)])[0][1].tolist()  # both dogs
    [[True, True]]
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
    doc = parsed(phrase, parser)
    chunk = next(iter(doc.noun_chunks), None)
    words = [t for t in doc if re.search(r"\w", t.text)]
    if not words:
        return frozenset()
    root = chunk.root if chunk is not None else root_of(doc, 0, len(phrase))
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
