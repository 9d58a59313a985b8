"""Synthetic scenes with exact masks: 126 shaded objects over photographs and textures, captions and questions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from interp.datasets.scenes.asked import bound_question
from interp.datasets.scenes.bound import Said, described
from interp.datasets.scenes.captions import DESCRIBE, article, caption, enumerate_nouns, question
from interp.datasets.scenes.draws import HELD_OUT, SPLITS, choose, colours_for, generator, held_out
from interp.datasets.scenes.pictures import SIZE, VISIBLE, Scene, compose, things_in
from interp.datasets.scenes.sprites import folder, kinds, nouns
from interp.datasets.scenes.things import COLOURS, KINDS, Kind, Thing
from interp.types import Sample, Target

__all__ = [
    "COLOURS", "DESCRIBE", "HELD_OUT", "KINDS", "SIZE", "SPLITS", "VISIBLE", "Kind", "Said", "Scene", "Thing",
    "article", "bound_question", "caption", "choose", "colours_for", "compose", "described", "described_samples",
    "enumerate_nouns", "folder", "generator", "held_out", "kinds", "load", "nouns", "question", "sample", "things_in",
    "tinted_scene",
]  # fmt: skip

TWICE = 0.15  # the share of tinted scenes in which one thing stands twice


def sample(split: str, index: int, seed: int = 0, size: int = SIZE) -> Sample:
    """Scene ``index`` of a split: image, "Describe the image in detail.", a reference caption, one target per noun."""
    rng = generator(split, index, seed)
    chosen = choose(rng, split)
    answer = caption(rng.spawn(1)[0], chosen)  # a stream of its own: compose draws as often as rounding has it
    scene = compose(rng, chosen, size)
    targets = tuple(Target(noun, mask) for noun, mask in zip(scene.nouns, scene.masks, strict=True))
    return Sample(f"{split}-{seed}-{index:06d}", scene.image, DESCRIBE[0], answer, targets)


def load(
    root: str | None = None, split: str = "test", samples: int | None = None, seed: int = 0, size: int = SIZE
) -> Iterator[Sample]:
    """The first ``samples`` scenes of a split (500 unless told), made as they are asked for; the same on every machine.

    ``root`` is not used: scenes are made, not read.

    Raises:
        ValueError: no such split.
    """
    generator(split, 0, seed)  # an unknown split fails here, not at the first scene
    return (sample(split, i, seed, size) for i in range(500 if samples is None else samples))


def tinted_scene(
    rng: np.random.Generator,
    split: str,
    size: int = SIZE,
    counts: tuple[int, int] = (2, 5),
    sides: tuple[float, float] = (0.26, 0.6),
) -> tuple[Scene, tuple[Thing, ...]]:
    """A scene whose things have colours of their own, and what words can tell of them; one may stand there twice."""
    chosen = choose(rng, split, counts)
    colours = colours_for(rng, split, chosen, list(COLOURS))
    twice = int(rng.integers(len(chosen))) if rng.random() < TWICE and len(chosen) < 5 else None
    scene = compose(rng, chosen, size, sides, colours, twice)
    return scene, things_in(scene, colours, twice)


def described_samples(split: str, index: int, seed: int = 0, size: int = SIZE) -> Iterator[Sample]:
    """Tinted scene ``index`` of a split, once with each kind of caption that can be said of it: ``free`` and bound.

    Samples of a scene share its ``image_id``. A target's ``kind`` says what tells it before its noun is said; things
    that the caption does not name have none.
    """
    rng = generator(split, index, seed)
    words = rng.spawn(1)[0]
    scene, things = tinted_scene(rng, split, size)
    image_id = f"tinted-{split}-{seed}-{index:06d}"
    for kind in KINDS:
        if said := described(words, split, things, kind):
            targets = tuple(
                Target(noun, mask, kind=said.kinds.get(k, ""))
                for k, (noun, mask) in enumerate(zip(scene.nouns, scene.masks, strict=True))
            )
            yield Sample(f"{image_id}-{kind}", scene.image, DESCRIBE[0], said.text, targets, image_id)
