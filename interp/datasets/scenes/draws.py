"""Which things a scene has: the random streams, the choice of nouns, and the pairs that training never sees."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import numpy as np

from interp.datasets.scenes.sprites import nouns

SPLITS = ("train", "validation", "test")
HELD_OUT = 10  # one pair of objects in so many never occurs in training


@functools.cache
def held_out(a: str, b: str) -> bool:
    """Whether this pair of objects never occurs together in training (about one pair in ten)."""
    digest = hashlib.sha256("+".join(sorted((a, b))).encode()).digest()
    return digest[0] * 256 + digest[1] < 65536 // HELD_OUT


def generator(split: str, index: int, seed: int = 0) -> np.random.Generator:
    """The random stream of one scene. Streams of different splits, indices and seeds are disjoint."""
    if split not in SPLITS:
        raise ValueError(f"no split {split!r} of scenes; there are: {', '.join(SPLITS)}")
    return np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index]))


def choose(rng: np.random.Generator, split: str, counts: tuple[int, int] = (2, 5)) -> tuple[str, ...]:
    """``counts[0]`` to ``counts[1]`` different nouns in random order; none of the held-out pairs in training."""
    wanted, chosen = int(rng.integers(counts[0], counts[1] + 1)), []
    pool = nouns()
    while len(chosen) < wanted:
        noun = pool[int(rng.integers(len(pool)))]
        if noun not in chosen and not (split == "train" and any(held_out(noun, other) for other in chosen)):
            chosen.append(noun)
    return tuple(chosen)


def colours_for(rng: np.random.Generator, split: str, chosen: Sequence[str], pool: Sequence[str]) -> tuple[str, ...]:
    """A colour of ``pool`` for each noun, none twice; no noun has one that is held out from it in training."""
    while True:
        drawn = [pool[int(k)] for k in rng.permutation(len(pool))[: len(chosen)]]
        if split != "train" or not any(held_out(n, c) for n, c in zip(chosen, drawn, strict=True)):
            return tuple(drawn)
