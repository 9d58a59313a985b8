"""What a model is called with next, asked of the model itself: it alone knows its positions and its tokens' kinds.

A 2-D count of tokens is not what M-RoPE (three axes; Qwen2-VL and later, GLM-4V) or PaliGemma (from 1) take for
positions, and models accept it without a word.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.utils.generic import ModelOutput


def next_inputs(
    model: Any,
    inputs: Mapping[str, Tensor],
    ids: Int[Tensor, "sample token"],
    real: Int[Tensor, "sample token"],
    cache: Any = None,
    last: int | None = None,
) -> dict[str, Any]:
    """Arguments of ``model.forward`` that read ``ids`` behind the prompt ``inputs``, as in generation.

    All is read anew; or, with a ``cache`` that holds what stands before, the ``last`` tokens alone. ``real`` is 0 where
    an answer has ended. What follows the prompt is causal.
    """
    given: dict[str, Any] = {name: x for name, x in inputs.items() if name != "input_ids"}
    given["use_cache"] = cache is not None
    if "position_ids" in inspect.signature(model.forward).parameters:
        given["position_ids"] = model._prepare_position_ids_for_generation(inputs["input_ids"], dict(given))
    mask, kinds = given["attention_mask"], given.get("token_type_ids")
    given = model._update_model_kwargs_for_generation(ModelOutput(), given, num_new_tokens=ids.shape[1])
    given["attention_mask"] = torch.cat([mask, real.to(mask)], 1)
    if kinds is not None:  # longer ones would tell PaliGemma that its answer is prompt, in which all see all
        given["token_type_ids"] = kinds
    whole = torch.cat([inputs["input_ids"], ids.to(inputs["input_ids"])], 1)
    return model.prepare_inputs_for_generation(
        whole, next_sequence_length=last, past_key_values=cache, is_first_iteration=cache is None, **given
    )


def rewinds(cache: Any) -> bool:
    """Whether a cache can be cut back to the prompt: not one that holds a recurrent state."""
    return bool(getattr(cache, "is_croppable", True))
