"""Scenes of tinted things, each with a free caption (random order) and bound ones: what is said leaves one thing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice

from interp.datasets import scenes
from interp.types import Sample

SAMPLES = 500


def load(
    root: str | None = None, split: str = "test", samples: int | None = None, seed: int = 0, size: int = scenes.SIZE
) -> Iterator[Sample]:
    """The first ``samples`` captions (500 unless told) of a split's scenes, up to five each; the same on every machine.

    Each scene comes with a ``free`` caption and with those bound ones that can be said of it: by ``attribute`` ("a
    small red cup") or ``attribute_apart`` ("a red toy cup", "the red one is a cup"), ``place`` ("at the top left is a
    cup"), ``relation`` ("left of the cup is a frog") and ``order`` ("from left to right: a cup, a frog"). Each target's
    ``kind`` says which. ``root`` is not used.

    Raises:
        ValueError: no such split.
    """
    scenes.generator(split, 0, seed)  # an unknown split fails here, not at the first scene
    every = (sample for i in count() for sample in scenes.described_samples(split, i, seed, size))
    return islice(every, SAMPLES if samples is None else samples)
