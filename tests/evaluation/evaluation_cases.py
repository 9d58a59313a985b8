"""Phrases and random masks, made without a model."""

import numpy as np

from interp.types import Phrase


def phrase(text, root=None):
    root = root or text.split()[-1]
    start = text.rfind(root)
    return Phrase(text=text, root=root, lemma=root, start=start, end=start + len(root), tokens=(0,))


def blobs(rng, n, size):
    """n random rectangles; some share an edge, some overlap."""
    masks = np.zeros((n, *size), dtype=bool)
    for mask in masks:
        y, x = rng.integers(0, size[0] - 3), rng.integers(0, size[1] - 3)
        mask[y : y + rng.integers(3, size[0]), x : x + rng.integers(3, size[1])] = True
    return masks
