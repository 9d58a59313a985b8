"""Attention rows -> phrase maps -> pixels, and masks -> patches.

A patch map is (row, col); pixels are (height, width); a point is (x, y). Pixel i covers i to i + 1, so its centre lies
at i + 0.5; patch centres lie in the middle of their cells (torch's ``align_corners=False``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.answer.pixels import box_of
from interp.heads import read_heads
from interp.types import Capture, Head, Phrase, PhraseMaps, Rows, View, layer_numbers

Heads = Any
"""``all``: every head (the paper); ``released``: head H-2 of every layer (the released code); or heads in any form that
`interp.heads.read_heads` reads."""


def phrase_maps(
    capture: Capture, normalise: str | Capture = "answer", remove_corners: bool = False, rows: Rows | str = "mean"
) -> PhraseMaps:
    """One map per phrase, layer and head: the mean attention of the tokens of the phrase's root word.

    ``rows="first"`` or ``"last"`` takes one token's row alone: later tokens' rows have read the word's beginning, and
    with the query "predicting" the row of the first is the only one that cannot know the word from reading it.

    ``normalise="answer"`` subtracts the mean over all answer tokens, A[i] - mean_j A[j], and with it the sinks that
    every token shares (arXiv 2410.08209, section 3.2). ``"none"`` leaves attention as it is (0..1). The capture of a
    generic prompt over the same image divides by its mean over the answer's tokens (arXiv 2502.17422 divides by the
    row of the answer's first token: that is a capture with a one-token answer); where that mean is 0, the map is NaN.

    ``remove_corners`` sets the four corner patches of each head's map to that map's minimum.

    Raises:
        ValueError: a phrase's token was not kept, or the generic capture has another shape, box or query.

    >>> from interp.types import PatchGrid
    >>> grid = PatchGrid(np.arange(2).reshape(1, 2), box=(0.0, 0.0, 2.0, 1.0))
    >>> dog = Phrase("a dog", "dog", "dog", 2, 5, tokens=(1, 2))
    >>> rows = torch.tensor([[0.2, 0.1], [0.4, 0.1]])[:, None, None, None]  # of tokens 1 and 2: one head, 1 x 2 patches
    >>> about = ("", "", "a dog", ("a", "do", "g"), grid, "predicting", np.array([1, 2]))
    >>> found = Capture(*about, attention=rows, mean=rows.sum(0) / 3, phrases=(dog,))  # token 0 looks elsewhere
    >>> phrase_maps(found, "none").maps.flatten()
    tensor([0.3000, 0.1000])
    >>> phrase_maps(found).maps.flatten()  # less the mean over the answer's tokens
    tensor([0.1000, 0.0333])
    """
    if rows not in get_args(Rows):
        raise ValueError(f"rows is {rows!r}; expected one of {', '.join(map(repr, get_args(Rows)))}")
    taken = {"mean": slice(None), "first": slice(1), "last": slice(-1, None)}[rows]
    own = [_rows(capture, phrase)[taken] for phrase in capture.phrases]
    maps = _means(capture.attention.float(), own)
    elsewhere = None if capture.elsewhere is None else _means(capture.elsewhere.float(), own)
    if isinstance(normalise, Capture):
        generic = _comparable(capture, normalise).mean.to(maps)
        maps = torch.where(generic > 0, maps / generic, torch.nan)
    elif normalise == "answer":
        maps = less_mean(maps, capture)
    elif normalise != "none":
        raise ValueError(
            f"unknown normalise={normalise!r}; expected 'answer', 'none' or the Capture of a generic prompt"
        )
    if remove_corners:
        maps = lower_corners(maps)
    return PhraseMaps(capture.sample_id, capture.phrases, capture.grid, maps, elsewhere, capture.layers)


def less_mean(
    maps: Float[Tensor, "phrase layer head row col"], capture: Capture
) -> Float[Tensor, "phrase layer head row col"]:
    """Maps of the capture's phrases minus the mean over all tokens of its answer."""
    return maps - capture.mean.to(maps)


def _means(rows: Float[Tensor, "token *rest"], own: Sequence[list[int]]) -> Float[Tensor, "phrase *rest"]:
    """The mean of each phrase's rows."""
    return torch.stack([rows[some].mean(0) for some in own]) if own else rows.new_zeros(0, *rows.shape[1:])


def lower_corners(maps: Float[Tensor, "*map row col"]) -> Float[Tensor, "*map row col"]:
    """The maps with their four corner patches set to the map's minimum.

    ``remove_corner`` of the released code does so on the maps reduced over heads, with the minimum over all phrases of
    the image: call this after `reduce_heads` for the same argmax.

    >>> lower_corners(torch.arange(9.0).view(3, 3)).tolist()
    [[0.0, 1.0, 0.0], [3.0, 4.0, 5.0], [0.0, 7.0, 0.0]]
    """
    lowered = maps.clone()
    lowest = maps.amin((-2, -1))
    for row in (0, -1):
        for col in (0, -1):
            lowered[..., row, col] = lowest
    return lowered


def head_list(heads: Heads, layers: int | Sequence[int], per_layer: int) -> list[Head]:
    """The heads that are meant, layer by layer for the named choices. ``layers``: the numbers of those that have heads,
    or how many there are if they are 0, 1, ...

    Raises:
        ValueError: an unknown name, an empty list, a head twice, or one that the model does not have.

    >>> head_list("released", layers=2, per_layer=8)
    [Head(layer=0, head=6), Head(layer=1, head=6)]
    >>> head_list([(0, 9)], layers=2, per_layer=8)
    Traceback (most recent call last):
        ...
    ValueError: no such heads: L0H9; expected layer 0..1 and head 0..7
    """
    there = range(layers) if isinstance(layers, int) else layers
    heads = read_heads(heads)
    if isinstance(heads, str):
        if heads == "all":
            return [Head(layer, head) for layer in there for head in range(per_layer)]
        if heads == "released" and per_layer >= 2:
            return [Head(layer, per_layer - 2) for layer in there]
        raise ValueError(
            f"no choice of heads {heads!r} for {per_layer} heads a layer; expected 'all', 'released' (head H-2 of each "
            "layer, so at least 2) or heads such as L0H1"
        )
    wrong = [h for h in heads if not (h.layer in there and 0 <= h.head < per_layer)]
    if wrong or not heads:
        came = ", ".join(map(str, wrong)) or "an empty list"
        raise ValueError(f"no such heads: {came}; expected layer {numbered(there)} and head 0..{per_layer - 1}")
    if len(set(heads)) < len(heads):
        raise ValueError(f"a head is listed twice in {[str(h) for h in heads]}; give it a larger weight instead")
    return heads


def numbered(numbers: Sequence[int]) -> str:
    """The numbers in words: a range where they have no gap.

    >>> numbered(range(3)), numbered((3, 7, 11))
    ('0..2', '3, 7, 11')
    """
    whole = len(numbers) > 1 and list(numbers) == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]}..{numbers[-1]}" if whole else ", ".join(map(str, numbers))


def reduce_heads(
    maps: PhraseMaps | Float[Tensor, "phrase layer head row col"],
    heads: Heads = "all",
    weights: Sequence[float | int] | None = None,
    layers: tuple[int, ...] = (),
) -> Float[Tensor, "phrase row col"]:
    """One map per phrase: the mean over the chosen heads, sum_h w_h a_h / sum_h w_h with ``weights`` (one per head).
    ``layers``: the numbers of a tensor's layers, if they are not 0, 1, ...; `PhraseMaps` know their own.

    ``"all"`` is the paper's mean over L x H (arXiv 2410.08209, section 3.2); ``"released"`` what its code computes:
    a slice of the wrong axis leaves head H-2 of each layer, and the mean is over L maps.

    Raises:
        ValueError: as `head_list`; or the weights are not one finite number per head with a positive sum.

    >>> maps = torch.tensor([[0.0, 1.0], [4.0, 5.0]])[None, :, :, None, None]  # a phrase, 2 layers, 2 heads, one patch
    >>> reduce_heads(maps).item(), reduce_heads(maps, [(1, 0), (1, 1)]).item()
    (2.5, 4.5)
    >>> reduce_heads(maps, [(1, 0), (1, 1)], weights=[3, 1]).item()
    4.25
    >>> reduce_heads(maps, "released").item()  # of two heads, the first of each layer
    2.0
    """
    values, layers = (maps.maps, maps.layers) if isinstance(maps, PhraseMaps) else (maps, layers)
    numbers = layer_numbers(layers, values.shape[1])
    chosen = head_list(heads, numbers, values.shape[2])
    places = [(numbers.index(layer), head) for layer, head in chosen]
    layer, head = (torch.tensor(index, device=values.device) for index in zip(*places, strict=True))
    picked = values[:, layer, head]
    if weights is None:
        return picked.mean(1)
    weight = torch.as_tensor(weights, dtype=picked.dtype, device=picked.device)
    if weight.shape != (len(chosen),) or not weight.isfinite().all() or not weight.sum() > 0:
        raise ValueError(
            f"weights must be {len(chosen)} finite numbers with a positive sum, one per head; got {weights}"
        )
    return torch.einsum("phrc,h->prc", picked, weight / weight.sum())


def coverage(
    masks: Bool[np.ndarray, "phrase height width"] | Float[np.ndarray, "phrase height width"], grid: View
) -> Float[Tensor, "phrase row col"]:
    """Share of each patch's area that the mask covers, 0..1, exactly.

    A patch may cut through pixels and overhang the image; what hangs over is not covered. A soft mask says which share
    of each pixel (0..1) is covered.

    >>> mask = np.zeros((1, 2, 3), dtype=bool)
    >>> mask[0, :, 2] = True  # the right column of an image that is 3 pixels wide
    >>> from interp.types import PatchGrid
    >>> coverage(mask, PatchGrid(np.arange(4).reshape(2, 2), box=(0.0, 0.0, 3.0, 2.0)))[0].tolist()
    [[0.0, 0.6666666865348816], [0.0, 0.6666666865348816]]
    >>> coverage(mask, PatchGrid(np.arange(4).reshape(2, 2), box=(0.0, 0.0, 4.0, 2.0)))[0].tolist()  # padded
    [[0.0, 0.5], [0.0, 0.5]]
    """
    x0, y0, x1, y1 = box_of(grid)
    n, height, width = masks.shape
    rows = _overlap(y0, y1, grid.shape[0], height)
    cols = _overlap(x0, x1, grid.shape[1], width)
    shares = np.zeros((n, *grid.shape))
    for i, mask in enumerate(masks):  # one by one: a float copy of all masks of a large photograph is gigabytes
        shares[i] = rows @ (mask @ cols.T)
    return torch.from_numpy(shares.clip(0, 1)).float()


def _rows(capture: Capture, phrase: Phrase) -> list[int]:
    """Rows of ``capture.attention`` that belong to the phrase."""
    place = {int(token): row for row, token in enumerate(capture.kept)}
    missing = [token for token in phrase.tokens if token not in place]
    if missing or not phrase.tokens:
        raise ValueError(
            f"phrase {phrase.text!r} needs answer tokens {list(phrase.tokens)}, but the capture kept "
            f"{sorted(place)}; capture with these phrases, or with tokens='all'"
        )
    return [place[token] for token in phrase.tokens]


def _comparable(capture: Capture, generic: Capture) -> Capture:
    """The generic capture, if it can be compared with the other one patch by patch."""
    for name, ours, theirs in (
        ("shape (layer, head, row, col)", tuple(capture.mean.shape), tuple(generic.mean.shape)),
        ("box", capture.grid.box, generic.grid.box),
        ("query", capture.query, generic.query),
        ("weighting", capture.weighting, generic.weighting),
    ):
        if ours != theirs:
            raise ValueError(
                f"the generic prompt's capture has {name} {theirs} and this one {ours}; "
                "capture both with the same model, image and query"
            )
    return generic


def _overlap(start: float, end: float, cells: int, pixels: int) -> Float[np.ndarray, "cell pixel"]:
    """Share of each of the cells between start and end that lies in each pixel."""
    edges = np.linspace(start, end, cells + 1)
    pixel = np.arange(pixels)
    shared = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return shared.clip(0) * cells / (end - start)
