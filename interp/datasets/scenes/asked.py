"""Questions that name one thing by its colour, place or relation, or ask for those; with their answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp.datasets.scenes.bound import pick, sentence
from interp.datasets.scenes.captions import article
from interp.datasets.scenes.things import COLOURS, Thing, attributes, places, related, seen_in_training


def bound_question(rng: np.random.Generator, split: str, things: Sequence[Thing]) -> tuple[str, str] | None:
    """A question about one thing of the scene, and its answer; None if what was drawn cannot be asked of it."""
    one = int(rng.integers(len(things)))
    return _ASKED[int(rng.integers(len(_ASKED)))](rng, split, things, one)


def _colour(rng, split, things: Sequence[Thing], one: int):
    """Which thing is red? What colour is the cup? Is there a red cup?"""
    thing = things[one]
    true = [w for w in attributes(things, one) if w in COLOURS and seen_in_training(split, thing.noun, w)]
    if not true or thing.count > 1:
        return None
    form = rng.integers(4)
    if form == 0:
        return f"Which thing is {true[0]}?", f"The {thing.noun}."
    if form == 1:
        return f"What is the {true[0]} thing?", f"It is {article(thing.noun)}."
    if form == 2:
        return f"What colour is the {thing.noun}?", f"The {thing.noun} is {true[0]}."
    asked = true[0] if rng.random() < 0.5 else str(pick(rng, [c for c in COLOURS if c != true[0]]))
    question = f"Is there {article(f'{asked} {thing.noun}')} in the image?"
    if asked == true[0]:
        return question, f"Yes, the {thing.noun} is {asked}."
    return question, f"No, the {thing.noun} is {true[0]}."


def _place(rng, split, things: Sequence[Thing], one: int):
    """What is at the top left? Where is the cup?"""
    noun = things[one].noun
    true = [w for w in places(things, one) if seen_in_training(split, noun, w)]
    if not true:
        return None
    where = str(pick(rng, true))
    if rng.random() < 0.5:
        return f"Where is the {noun}?", f"The {noun} is {where}."
    return f"What is {where}?", sentence(f"{where} is {article(noun)}.") if rng.random() < 0.5 else f"The {noun}."


def _relation(rng, split, things: Sequence[Thing], one: int):
    """What is left of the cup?"""
    noun, rest = things[one].noun, [k for k in range(len(things)) if k != one]
    true = [(how, k) for how, k in related(things, one, rest)]
    true = [(how, k) for how, k in true if seen_in_training(split, things[k].noun, f"{how} {noun}")]
    if not true:
        return None
    how, k = true[int(rng.integers(len(true)))]
    answer = (
        f"The {things[k].noun}." if rng.random() < 0.5 else f"{sentence(how)} the {noun} is {article(things[k].noun)}."
    )
    return f"What is {how} the {noun}?", answer


_ASKED = (_colour, _place, _relation)
