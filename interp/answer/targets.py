"""Which of an image's targets a phrase names."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool

from interp.answer.nouns import plain, singulars, spaced, words_of
from interp.answer.parser import parsed, root_of
from interp.types import Phrase, Target


def match_targets(
    phrases: Sequence[Phrase], targets: Sequence[Target], *, parser: str | None = None
) -> list[tuple[int, Bool[np.ndarray, "height width"]]]:
    """(index of the phrase, mask of all that it names), for each phrase that names a target.

    A phrase names the targets whose whole name it ends in, the longest such name ("a big teddy bear" names "teddy
    bear", not "bear"); failing that, all targets with the same noun as its root ("a wet dog" names "brown dog" and
    "dog on a mat"). Nouns are compared by lemma and singular, names as `interp.answer.nouns` spells them. Several
    targets give the union of their masks: "the dog" and "two dogs" both mean every target called "dog". An empty mask
    is skipped with a warning.

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


def nouns_of(targets: Sequence[Target], *, parser: str | None = None) -> frozenset[str]:
    """The head nouns of the targets' names, as they stand and in the singular: "dog" of "two wet dogs".

    >>> sorted(nouns_of([Target("cat", np.ones((1, 1), bool)), Target("wet dog on a mat", np.ones((1, 1), bool))]))
    ['cat', 'dog']
    """
    return frozenset[str]().union(*(_head_forms(target.phrase, parser) for target in targets))


def _named(phrase: Phrase, names: Sequence[str], parser: str | None) -> list[int]:
    said = words_of(phrase.text[: phrase.text.rfind(phrase.root) + len(phrase.root)])
    whole = [_length_in_full(said, words_of(name)) for name in names]
    longest = max(whole, default=0)
    if longest:
        return [k for k, length in enumerate(whole) if length == longest]
    forms = singulars(plain(phrase.root)) | {plain(phrase.lemma)}
    return [k for k, name in enumerate(names) if forms & _head_forms(name, parser)]


def _length_in_full(said: tuple[str, ...], name: tuple[str, ...]) -> int:
    """Words of what is said that are the name, if it ends in it, else 0; the last word may be plural in either, and
    words may be written as one ("pottedplant")."""
    forms = _joined(name)
    return next((k for k in range(len(said), 0, -1) if forms & _joined(said[-k:])), 0)


@lru_cache(maxsize=65536)
def _joined(words: tuple[str, ...]) -> frozenset[str]:
    return frozenset("".join(words[:-1]) + last for last in singulars(words[-1])) if words else frozenset()


@lru_cache(maxsize=4096)
def _head_forms(phrase: str, parser: str | None) -> frozenset[str]:
    """Lemma and singulars of the name's head noun: "hydrant" for "a fire hydrant in the street"."""
    name = spaced(phrase)
    doc = parsed(name, parser)
    chunk = next(iter(doc.noun_chunks), None)
    root = chunk.root if chunk is not None else root_of(doc, 0, len(name))
    if root is None:
        return frozenset()
    return singulars(plain(root.text)) | {plain(root.lemma_)}
