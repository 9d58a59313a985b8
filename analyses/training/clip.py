"""CLIP as all trained models have it: its sizes, captioned pictures, and the trained one again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from interp.datasets import scenes
from training.pictures import PATCH, PIXELS, Rendered

FEATURES = -2  # the vision layer that LLaVA reads


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
    """Pictures with captions that name all of their nouns or, half the time, some of them."""
    pixels, captions = [], []
    for visit in visits:
        image, nouns, rng = data[visit]
        named = list(nouns)
        if rng.random() < 0.5:
            named = list(rng.permutation(nouns)[: rng.integers(1, len(nouns) + 1)])
        pixels.append(image)
        captions.append(scenes.caption(rng, named) + "<eot>")
    text = fast(captions, return_tensors="pt", padding=True, padding_side="right")
    return {
        "pixel_values": torch.stack(pixels),
        "input_ids": text["input_ids"],
        "attention_mask": text["attention_mask"],
    }
