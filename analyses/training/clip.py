"""CLIP as all trained models have it: its sizes, captioned pictures, and the trained one again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp.datasets import scenes
from interp.datasets.scenes import Thing
from training.layouts import spoken
from training.pictures import PATCH, PIXELS, Rendered

FEATURES = -2  # the vision layer that LLaVA reads
CAPTIONS = {"free": 0.7, "attribute": 0.2, "place": 0.1}


def clip_model(entries: int, end: int):
    """An untrained CLIPModel: 5 x 192 vision layers over 12 x 12 patches, 3 x 128 text layers."""
    from transformers import CLIPConfig, CLIPModel

    vision = {
        "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 5, "num_attention_heads": 6,
        "image_size": PIXELS, "patch_size": PATCH, "projection_dim": 192,
    }  # fmt: skip
    text = {
        "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4,
        "vocab_size": entries, "max_position_embeddings": 64, "projection_dim": 192,
        "bos_token_id": 1, "eos_token_id": end, "pad_token_id": 3,
    }  # fmt: skip
    return CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=192, attn_implementation="eager")
    )


def load_clip(work: Path, fast: Any) -> Any:
    """The trained CLIPModel of WORK, whose tokenizer is ``fast``."""
    model = clip_model(len(fast), fast.convert_tokens_to_ids("<eot>"))
    model.load_state_dict(torch.load(work / "clip.pt", weights_only=True)["model"])
    return model


def captioned(data: Rendered, fast, visits) -> dict[str, torch.Tensor]:
    """Pictures with captions of all kinds; half of the free ones name some of the nouns only."""
    pixels, captions = [], []
    for visit in visits:
        image, things, rng = data[visit]
        captions.append(caption_of(rng, things) + "<eot>")
        pixels.append(image)
    text = fast(captions, return_tensors="pt", padding=True, padding_side="right")
    return {
        "pixel_values": torch.stack(pixels),
        "input_ids": text["input_ids"],
        "attention_mask": text["attention_mask"],
    }


def caption_of(rng: np.random.Generator, things: Sequence[Thing]) -> str:
    """A caption of the scene, of the kinds in ``CAPTIONS``; a free one names all nouns or, half the time, some."""
    if rng.random() < CAPTIONS["free"]:
        nouns = [t.noun for t in things]
        few = rng.integers(1, len(nouns) + 1) if rng.random() < 0.5 else len(nouns)
        return scenes.caption(rng, list(rng.permutation(nouns))[:few])
    return spoken(rng, things, {kind: share for kind, share in CAPTIONS.items() if kind != "free"})[1]
