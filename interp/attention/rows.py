"""Exact attention rows for a few queries: what one head of one query attends to, from q, k and the kernel's own mask.

`interp.attention.watching` calls this beside the model's kernel. Nothing of size query x key over all queries is made.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask


def take_rows(x: Tensor, rows: Int[Tensor, "#batch row"], length: int | None = None) -> Tensor:
    """The asked rows of axis 2 of ``x`` [batch head row rest], per sample; axes of size 1 are broadcast.

    ``length`` is the real size of axis 2 where ``x`` may hold a single row that stands for all of them.
    """
    if length is not None and x.shape[2] == 1 and length > 1:
        return x.expand(-1, -1, rows.shape[1], -1)
    if rows.shape[0] == 1:
        return x.index_select(2, rows[0])
    x = x.expand(rows.shape[0], -1, -1, -1)
    sample = torch.arange(rows.shape[0], device=x.device)[:, None]
    return x[sample, :, rows].transpose(1, 2)


def hide(
    mask: Tensor | BlockMask | None,
    rows: Int[Tensor, "#batch row"],
    sizes: tuple[int, int, int],
    offsets: tuple[int, int],
    causal: bool,
    window: int | None,
) -> tuple[Bool[Tensor, "#batch #head #row key"], Float[Tensor, "#batch #head #row key"] | None]:
    """Which keys each row may see, and what is added to its scores (None: nothing).

    Every mask that a kernel of transformers takes is understood: bool (True = seen) or additive float of four axes,
    flex attention's ``BlockMask``, the 2D padding mask of flash attention, and None. The last two leave causality
    and the sliding window to the kernel, so they are applied here, on absolute positions.

    ``sizes`` = (batch, queries, keys) of this forward pass; ``offsets`` = absolute positions of its first query and
    first key.
    """
    batch, n_queries, n_keys = sizes
    device = rows.device
    key = torch.arange(n_keys, device=device)
    if isinstance(mask, BlockMask):
        sample = torch.arange(batch, device=device)[:, None, None, None]
        seen = mask.mask_mod(sample, torch.zeros_like(sample), rows[:, None, :, None], key)
        return seen.expand(-1, -1, rows.shape[1], n_keys), None
    if mask is not None and mask.ndim == 4:
        cut = take_rows(mask[..., :n_keys], rows, n_queries)
        if cut.dtype == torch.bool:
            return cut, None
        # Additive masks mark hidden keys by the dtype's lowest value (or -inf), sums of two such included.
        return cut > torch.finfo(cut.dtype).min / 2, cut.float()
    if mask is not None and mask.ndim != 2:
        raise ValueError(f"attention mask of {mask.ndim} axes, {tuple(mask.shape)}; expected 2 (padding), 4, or none")
    distance = (rows[:, None, :, None] + offsets[0]) - (key + offsets[1])
    seen = torch.ones_like(distance, dtype=torch.bool)
    if causal:
        seen = seen & (distance >= 0)
    if window is not None:
        seen = seen & (distance.abs() < window)
    if mask is not None:
        # Static caches hold room for more keys than the padding mask knows of.
        padding = torch.nn.functional.pad(mask.bool()[:, :n_keys], (0, n_keys - min(n_keys, mask.shape[1])))
        seen = seen & padding[:, None, None, :]
    return seen, None


def softmax_rows(
    query: Float[Tensor, "batch head row dim"],
    key: Float[Tensor, "batch group key dim"],
    seen: Bool[Tensor, "#batch #head #row key"],
    bias: Float[Tensor, "#batch #head #row key"] | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Float[Tensor, "batch head row key"]:
    """Attention of each row to every key, 0..1, fp32; a row sums to 1, or less where the model has sinks.

    softmax(softcap(q k^T * scaling) + bias) over the keys seen. Grouped-query heads share a key head; ``sinks`` [head]
    are learned scores that take part in the sum and are dropped (gpt-oss). A row that sees no key is NaN.
    """
    batch, heads, rows, dim = query.shape
    groups, keys = key.shape[1:3]
    packed = query.float().reshape(batch, groups, heads // groups * rows, dim)
    scores = (packed @ key.float().mT).view(batch, heads, rows, keys)
    scores *= dim**-0.5 if scaling is None else scaling  # in place: of all that is made here these are the largest
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores += bias
    scores.masked_fill_(~seen, -torch.inf)
    if sinks is None:
        return scores.softmax(-1)
    sink = sinks.float().reshape(1, -1, 1, 1).expand(batch, -1, rows, 1)
    attention = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
    return attention.masked_fill(~seen.any(-1, keepdim=True), torch.nan)


def kernel_rows(
    rows: Int[Tensor, "#batch row"],
    query: Float[Tensor, "batch head query dim"],
    key: Float[Tensor, "batch group key dim"],
    mask: Tensor | BlockMask | None,
    offsets: tuple[int, int],
    causal: bool,
    options: dict[str, Any],
    hidden: Bool[Tensor, "#batch #head #row key"] | None = None,
) -> Float[Tensor, "batch head row key"]:
    """The rows that a kernel called with these arguments computes inside; ``options`` are its keyword arguments.

    ``hidden`` are edges that get no attention, as if the mask hid them.
    """
    sizes = (query.shape[0], query.shape[2], key.shape[2])
    seen, bias = hide(mask, rows, sizes, offsets, causal, options.get("sliding_window"))
    if hidden is not None:
        seen = seen & ~hidden
    if (ends := options.get("cu_seq_lens_q")) is not None:  # several texts or windows in one row
        part = torch.bucketize(torch.arange(sizes[2], device=rows.device), ends[1:].to(rows.device), right=True)
        seen = seen & (part[rows][:, None, :, None] == part)
    position_bias = options.get("position_bias")
    if position_bias is not None:
        position_bias = take_rows(position_bias[..., : sizes[2]], rows, sizes[1]).float()
        bias = position_bias if bias is None else bias + position_bias
    return softmax_rows(
        take_rows(query, rows), key, seen, bias, options.get("scaling"), options.get("softcap"), options.get("s_aux")
    )
