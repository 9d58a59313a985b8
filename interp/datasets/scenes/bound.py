"""Texts in which what is said so far leaves one thing: its colour, size or number, its place, a relation, an order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from interp.datasets.scenes.captions import article, caption
from interp.datasets.scenes.things import Kind, Thing, attributes, in_order, places, related, seen_in_training
from interp.plurals import engine

_LISTS = (
    "There is {list}.",
    "There is {list} in the image.",
    "The image shows {list}.",
    "I can see {list}.",
    "In this picture there is {list}.",
    "This is a scene with {list}.",
    "You can see {list} here.",
    "The scene contains {list}.",
)
SINGLE, TOYS = 0.3, 0.3  # shares of captions: "the red thing is a cup", "a red toy cup"; else "a red cup"
_PLACED = ("{Where} is {a}", "{Where} there is {a}", "{Where} {a}", "{Where} stands {a}")
_ORDERS = (
    ("From left to right", "Going from left to right", "From the left to the right"),
    ("From top to bottom", "Going from top to bottom", "From the top to the bottom"),
    ("From right to left", "Going from right to left", "From the right to the left"),
    ("From bottom to top", "Going from bottom to top", "From the bottom to the top"),
)
_ORDERED = ("{how}: {list}.", "{how} there is {list}.", "{how} you see {list}.", "{how} the image shows {list}.")


@dataclass
class Said:
    """A text and what it names: ``kinds`` has the number of each thing that it names, and what told it from the others
    before its noun came. ``nouns``: the noun of each as it stands there."""

    text: str
    kinds: dict[int, Kind] = field(default_factory=dict)


@lru_cache(maxsize=4096)
def plural(noun: str) -> str:
    """``frogs``, ``foxes``, ``leaves``."""
    return str(engine().plural_noun(noun))  # type: ignore[arg-type]


def joined(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def sentence(text: str) -> str:
    """With a capital letter first."""
    return text[0].upper() + text[1:]


def pick(rng: np.random.Generator, some: Sequence) -> object:
    """One of them."""
    return some[int(rng.integers(len(some)))]


def shuffled(rng: np.random.Generator, some: Sequence[int]) -> list[int]:
    """They in random order."""
    return [some[int(i)] for i in rng.permutation(len(some))]


def named(thing: Thing, words: Sequence[str]) -> str:
    """``a small red cup``, ``two red cups``; without words, ``a cup``."""
    if thing.count > 1:
        return " ".join(["two", *(w for w in words if w != "two"), plural(thing.noun)])
    return article(" ".join([*words, thing.noun]))


def free(rng: np.random.Generator, split: str, things: Sequence[Thing]) -> Said | None:
    """A caption of all things in random order; none if one stands there twice, since "two" would tell it."""
    if any(t.count > 1 for t in things):
        return None
    # the things' own order is random and says depth: the caption draws another
    text = caption(rng, [t.noun for t in things])
    return Said(text, dict.fromkeys(range(len(things)), "free"))


def attribute(rng: np.random.Generator, split: str, things: Sequence[Thing]) -> Said | None:
    """``There is a red cup and two small foxes.``; ``There is a red toy cup ...``; ``The red thing is a cup ...``

    In the first the word just before the noun tells it (``attribute``), in the others one further back.
    """
    words, form = {}, rng.random()
    single = form < SINGLE
    toys = not single and form < SINGLE + TOYS
    for k in range(len(things)):
        true = [w for w in attributes(things, k) if seen_in_training(split, things[k].noun, w)]
        if single:
            true = [w for w in true if w != "two"] if things[k].count == 1 else []
        if true:
            words[k] = [w for w in true if w == "two" or rng.random() < 0.75] or [str(pick(rng, true))]
    if len(words) < min(2, len(things)):
        return None
    order = shuffled(rng, list(words))
    if single:
        parts = _one_by_one([words[k][-1] for k in order], [things[k].noun for k in order])
        text = sentence(joined(parts)) + "."
    else:
        listed = [named(things[k], [*words[k], *["toy"] * toys]) for k in order]
        text = str(pick(rng, _LISTS)).format(list=joined(listed))
        text = text.replace("here is two", "here are two")
    return Said(text, dict.fromkeys(order, "attribute_apart" if single or toys else "attribute"))


def place(rng: np.random.Generator, split: str, things: Sequence[Thing]) -> Said | None:
    """``At the top left is a cup, on the right there is a frog.``; ``the left cup``; ``The left thing is a cup ...``"""
    where = {}
    for k in range(len(things)):
        if true := [w for w in places(things, k) if seen_in_training(split, things[k].noun, w)]:
            where[k] = str(pick(rng, true))
    if len(where) < min(2, len(things)):
        return None
    order, form, one = shuffled(rng, list(where)), rng.random(), str(pick(rng, _PLACED))
    short = {k: where[k].split(" the ")[1] for k in order}
    if form < SINGLE / 2:
        text = joined(_one_by_one([short[k] for k in order], [things[k].noun for k in order]))
    elif form < SINGLE:
        text = str(pick(rng, _LISTS)).format(list=joined([f"the {short[k]} {things[k].noun}" for k in order]))[:-1]
    else:
        parts = [one.format(Where=where[k], a=article(things[k].noun)) for k in order]
        text = joined(parts) if rng.random() < 0.5 else ". ".join(map(sentence, parts))
    return Said(sentence(text) + ".", dict.fromkeys(order, "place"))


def _one_by_one(words: Sequence[str], nouns: Sequence[str]) -> list[str]:
    """``the red thing is a cup``, ``the blue one is a frog``, ..."""
    return [
        f"the {word} {'one' if i else 'thing'} is {article(noun)}"
        for i, (word, noun) in enumerate(zip(words, nouns, strict=True))
    ]


def relation(rng: np.random.Generator, split: str, things: Sequence[Thing]) -> Said | None:
    """``There is a cup. Left of the cup is a frog. Behind the frog is a bear.`` The first one is free."""
    for first in shuffled(rng, range(len(things))):
        said, parts = Said("", {first: "free"}), [f"there is {article(things[first].noun)}"]
        while True:
            rest = [k for k in range(len(things)) if k not in said.kinds]
            next_ones = [
                (known, how, k)
                for known in said.kinds
                for how, k in related(things, known, rest)
                if seen_in_training(split, things[k].noun, f"{how} {things[known].noun}")
            ]
            if not next_ones:
                break
            known, how, k = next_ones[int(rng.integers(len(next_ones)))]
            parts.append(f"{how} the {things[known].noun} is {article(things[k].noun)}")
            said.kinds[k] = "relation"
        if len(parts) > 2 or len(parts) == len(things) == 2:
            text = joined(parts) if rng.random() < 0.5 else ". ".join(map(sentence, parts))
            said.text = sentence(text) + "."
            return said
    return None


def order(rng: np.random.Generator, split: str, things: Sequence[Thing]) -> Said | None:
    """``From left to right: a cup, a frog and a bear.``"""
    known = [(axis, found) for axis in (0, 1) if (found := in_order(things, axis))]
    if not known:
        return None
    axis, found = known[int(rng.integers(len(known)))]
    back = rng.random() < 0.5
    how = str(pick(rng, _ORDERS[axis + 2 * back]))
    found = found[::-1] if back else found
    text = str(pick(rng, _ORDERED)).format(how=how, list=joined([article(things[k].noun) for k in found]))
    return Said(text, dict.fromkeys(found, "order"))


_SAID: dict[Kind, Callable[[np.random.Generator, str, Sequence[Thing]], Said | None]] = {
    "free": free,
    "attribute": attribute,
    "place": place,
    "relation": relation,
    "order": order,
}


def described(rng: np.random.Generator, split: str, things: Sequence[Thing], kind: Kind) -> Said | None:
    """A caption whose phrases are of that kind; None if the scene has not at least two that can be said so."""
    return _SAID[kind](rng, split, things)
