"""Which layers of a model have attention heads: in hybrids most have a recurrent state in their place."""

from __future__ import annotations

from interp.attention.watching import attention_modules
from interp.models._lmm import LMM


def layers_with_heads(lmm: LMM) -> tuple[int, ...]:
    """The numbers of the language model's layers that have softmax attention."""
    return tuple(attention_modules(lmm.decoder))


def layers_without_heads(lmm: LMM) -> tuple[int, ...]:
    """The numbers of the others; none in most models."""
    there = layers_with_heads(lmm)
    return tuple(number for number in range(lmm.layers) if number not in there)
