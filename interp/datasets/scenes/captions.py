"""Free texts: captions that name a scene's things in random order, and questions. None tells what comes next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp.datasets.scenes.sprites import all_kinds, kinds, nouns

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven")

DESCRIBE = (
    "Describe the image in detail.",
    "Describe the image.",
    "What can you see in this picture?",
    "What is in the image?",
    "Give a short description of the scene.",
    "Tell me what the picture shows.",
)
_CAPTIONS = (
    "There is {list}.",
    "There is {list} in the image.",
    "The image shows {list}.",
    "The picture shows {first} together with {rest}.",
    "I can see {list}.",
    "In this picture there is {first}. There is also {rest}.",
    "{List} can be seen.",
    "{First} and {rest}.",
    "This is a scene with {list}.",
    "A photo of {list}.",
    "You can see {first} here, and also {rest}.",
    "In the scene we find {list}.",
    "{First} appears together with {rest}.",
    "The scene contains {list}.",
)


def article(noun: str) -> str:
    """``a dog``, ``an apple``."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def enumerate_nouns(chosen: Sequence[str]) -> str:
    """``a dog, an apple and a bus``."""
    named = [article(noun) for noun in chosen]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def caption(rng: np.random.Generator, chosen: Sequence[str]) -> str:
    """A caption that names all the nouns, in an order of its own."""
    order = [chosen[int(i)] for i in rng.permutation(len(chosen))]
    templates = [t for t in _CAPTIONS if len(order) > 1 or "{rest}" not in t]
    text = {"list": enumerate_nouns(order), "first": article(order[0]), "rest": enumerate_nouns(order[1:] or order)}
    text |= {key.capitalize(): value[0].upper() + value[1:] for key, value in text.items()}
    return templates[rng.integers(len(templates))].format(**text)


def question(rng: np.random.Generator, chosen: Sequence[str]) -> tuple[str, str]:
    """A question about the scene and its answer: existence, kind, number, the rest."""
    order = [chosen[int(i)] for i in rng.permutation(len(chosen))]
    form = rng.integers(5)
    if form == 0:
        return f"Is there {article(order[0])} in the image?", f"Yes, there is {article(order[0])}."
    if form == 1:
        absent = [noun for noun in nouns() if noun not in chosen]
        noun = absent[rng.integers(len(absent))]
        return f"Is there {article(noun)} in the image?", f"No, there is no {noun}. There is {enumerate_nouns(order)}."
    if form == 2:
        kind = kinds()[order[0]] if rng.random() < 0.8 else all_kinds()[rng.integers(len(all_kinds()))]
        found = [noun for noun in order if kinds()[noun] == kind]
        asked = f"Is there any {kind} in the picture?" if kind != "other" else "What do you see?"
        if kind == "other":
            return asked, f"I see {enumerate_nouns(order)}."
        return asked, f"Yes, {enumerate_nouns(found)}." if found else f"No, but there is {enumerate_nouns(order)}."
    if form == 3:
        count = f"There {'is' if len(order) == 1 else 'are'} {_NUMBERS[len(order)]}"
        return "How many objects are there?", f"{count}: {enumerate_nouns(order)}."
    if len(order) == 1:
        return "Name the objects.", f"{article(order[0]).capitalize()}."
    return f"What else is there besides the {order[0]}?", f"There is also {enumerate_nouns(order[1:])}."
