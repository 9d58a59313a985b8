"""What is taken away on purpose: if a score stays, it did not come from there.

``image``: the model reads the same words about another image of the batch, whose things differ, and its maps are scored
on the masks of the first. What is left comes from the words, their places and the usual places of things.

``sinks``: the patches that the answer attends to most, over all its tokens and heads, are lowered to each map's least
value. What is left does not come from the attention that every word gives them (arXiv 2503.03321).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from interp.answer.targets import nouns_of
from interp.types import Sample, Skip

SINKS = 0.01
"""Share of the patches that count as sinks."""


def other_images(samples: list[Sample | Skip]) -> list[Sample | Skip]:
    """The samples with the next image of the batch that shares no noun of a target with them, in their own size."""
    return [s if isinstance(s, Skip) else _with_other(s, samples[i + 1 :] + samples[:i]) for i, s in enumerate(samples)]


def _with_other(sample: Sample, rest: Sequence[Sample | Skip]) -> Sample | Skip:
    named = nouns_of(sample.targets)
    for other in rest:
        if isinstance(other, Skip) or other.image_id == sample.image_id:
            continue
        if not named & nouns_of(other.targets):
            height, width = sample.image.shape[:2]
            return replace(sample, image=np.asarray(Image.fromarray(other.image).resize((width, height))))
    return Skip(sample.id, "no other image of its batch has other things only; give a larger batch, or more samples")


def sinks_of(mean: Float[Tensor, "layer head row col"]) -> Int[Tensor, " patch"]:
    """The patches with the highest mean attention over all heads and tokens: one in a hundred, at least one."""
    flat = mean.float().mean((0, 1)).flatten()
    return flat.topk(max(1, math.ceil(SINKS * len(flat)))).indices


def without(
    maps: Float[Tensor, "phrase layer head row col"], patches: Int[Tensor, " patch"]
) -> Float[Tensor, "phrase layer head row col"]:
    """The maps with these patches at each map's least value."""
    flat = maps.flatten(-2).clone()
    flat[..., patches] = flat.amin(-1, keepdim=True)
    return torch.unflatten(flat, -1, maps.shape[-2:])
