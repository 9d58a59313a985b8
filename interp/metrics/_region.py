"""What all metrics share: what "in the mask M" means, which maps are undefined, and where ties end."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

HALF = 0.5

MASKS_AT_ONCE = 16
"""Masks of a phrase that meet its maps in one product. Always so many, so that a score does not depend on how many
others are scored beside it: products of other shapes round otherwise. They are the product's columns, as its rows may
round otherwise by their place (AVX2)."""


def in_mask(masks: Float[Tensor, "*phrase row col"]) -> Bool[Tensor, "*phrase patch"]:
    """True for the patches in M: those that the mask covers by half or more. A mask that covers none is undefined.

    >>> in_mask(torch.tensor([[[0.0, 1.0], [0.49, 0.5]]])).tolist()
    [[False, True, False, True]]
    """
    return masks.flatten(-2) >= HALF


def within(
    a: Float[Tensor, "phrase layer head patch"], masks: Float[Tensor, "phrase mask patch"]
) -> Float[Tensor, "phrase mask layer head"]:
    """Sum of each map over each of its phrase's masks, a patch counting as much as the mask says: one product for all.

    >>> masks = torch.tensor([[[0.0, 1.0, 0.5], [1.0, 0.0, 0.0]]])  # two masks of a phrase, on three patches
    >>> within(torch.tensor([0.1, 0.6, 0.3])[None, None, None], masks).flatten()
    tensor([0.7500, 0.1000])
    """
    maps, masks = a.flatten(1, 2), masks.to(a.dtype)
    some = [
        maps @ torch.nn.functional.pad(part, (0, 0, 0, MASKS_AT_ONCE - part.shape[1])).mT
        for part in masks.split(MASKS_AT_ONCE, 1)
    ]
    return torch.cat(some, -1)[..., : masks.shape[1]].mT.unflatten(-1, a.shape[1:3])


def patches(maps: Float[Tensor, "phrase layer head row col"]) -> Float[Tensor, "phrase layer head patch"]:
    """The maps with their grid flattened, in single precision or better."""
    flat = maps.flatten(-2)
    return flat if flat.dtype == torch.float64 else flat.float()


def has_shape(a: Float[Tensor, "phrase layer head patch"]) -> Bool[Tensor, "phrase layer head"]:
    """False for maps that say nothing about *where*: constant ones, and those with NaN or infinity."""
    low, high = a.aminmax(dim=-1)
    return low.isfinite() & high.isfinite() & (low < high)


def undefined_to_nan(
    scores: Float[Tensor, "phrase *scored"], defined: Bool[Tensor, "phrase ..."]
) -> Float[Tensor, "phrase *scored"]:
    """The scores, NaN where they are not defined."""
    return torch.where(defined, scores, torch.nan)


def require_attention(maps: Float[Tensor, "phrase layer head row col"], metric: str) -> None:
    """Nothing, if the maps are shares of attention.

    Raises:
        ValueError: some are negative, as normalised maps are.
    """
    if bool((maps < 0).any()):
        raise ValueError(
            f"{metric} got maps with negative values (least {maps.nan_to_num().min().item():.3g}); it needs the raw "
            "attention: phrase_maps(capture, normalise='none')"
        )


class Sorted:
    """The patches of maps from the highest value to the lowest: ``values``, and ``order``, their places in the map."""

    def __init__(self, maps: Float[Tensor, "phrase layer head row col"]):
        self.values, self.order = patches(maps).sort(dim=-1, descending=True)

    @cached_property
    def ends(self) -> Int[Tensor, "phrase layer head patch"]:
        """See `tie_ends`."""
        return tie_ends(self.values)

    @cached_property
    def starts(self) -> Int[Tensor, "phrase layer head patch"]:
        """See `tie_starts`."""
        return tie_starts(self.values)


def in_order(maps: Float[Tensor, "phrase layer head row col"]) -> Sorted:
    """The sorted maps, sorted once for as long as the tensor lives and is not written to.

    The same maps are scored on many null masks, and sorting costs most.
    """
    if maps.is_inference():
        return Sorted(maps)
    kept = _SORTED.get(maps)
    if kept is None or kept[0] != maps._version:
        kept = _SORTED[maps] = (maps._version, Sorted(maps))
    return kept[1]


_SORTED: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def tie_ends(ordered: Float[Tensor, "*axes patch"]) -> Int[Tensor, "*axes patch"]:
    """For each place of a sorted row, the last place that holds the same value."""
    n = ordered.shape[-1]
    place = torch.arange(n, device=ordered.device).expand(ordered.shape)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[..., :-1] = ordered[..., 1:] != ordered[..., :-1]
    if bool(last.all()):  # no ties: the usual case, and much faster
        return place
    return place.masked_fill(~last, n).flip(-1).cummin(-1).values.flip(-1)


def tie_starts(ordered: Float[Tensor, "*axes patch"]) -> Int[Tensor, "*axes patch"]:
    """For each place of a sorted row, the first place that holds the same value."""
    place = torch.arange(ordered.shape[-1], device=ordered.device).expand(ordered.shape)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    if bool(first.all()):
        return place
    return place.masked_fill(~first, 0).cummax(-1).values


def along(
    values: Float[Tensor, "phrase patch"], order: Int[Tensor, "phrase layer head patch"]
) -> Float[Tensor, "phrase layer head patch"]:
    """Each phrase's values, put into every head's order."""
    return values[:, None, None].expand(order.shape).gather(-1, order)
