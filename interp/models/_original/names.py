"""What LLaVA's own code calls a weight -> what transformers' LLaVA calls it."""

from __future__ import annotations

import re

UNUSED = ("rotary_emb.inv_freq", "position_ids")
"""Ends of names that older checkpoints hold and that are computed today."""
NAMES = (
    (r"^(base_model\.model\.)+", ""),
    (r"(^|\.)mm_projector\.(0\.)?(?=weight$|bias$)", r"\1multi_modal_projector.linear_1."),
    (r"(^|\.)mm_projector\.2\.", r"\1multi_modal_projector.linear_2."),
    (r"(^|\.)vision_tower\.vision_tower\.(vision_model\.)?", r"\1vision_tower."),
)


def own_name(name: str) -> str:
    """Projector and vision tower under their names of today, whatever PEFT put before them; other names without that.

    >>> own_name("base_model.model.model.mm_projector.2.bias")
    'model.multi_modal_projector.linear_2.bias'
    """
    for old, new in NAMES:
        name = re.sub(old, new, name)
    return name


def in_llava(name: str) -> str | None:
    """The name in ``LlavaForConditionalGeneration`` of a weight of a Llama or of an original LLaVA; None for what is
    computed today.

    >>> in_llava("model.layers.0.mlp.up_proj.weight")
    'model.language_model.layers.0.mlp.up_proj.weight'
    """
    name = own_name(name)
    if name.endswith(UNUSED):
        return None
    if name.startswith(("multi_modal_projector.", "vision_tower.")):
        return f"model.{name}"
    if name.startswith(("lm_head.", "model.multi_modal_projector.", "model.vision_tower.")):
        return name
    return f"model.language_model.{name.removeprefix('model.')}"
