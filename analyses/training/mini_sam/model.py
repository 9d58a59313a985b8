"""The SamModel: untrained, begun with CLIP's first layers, and as it ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.export import export_log
from training.mini_sam.scenes import CELLS
from training.parts import Log
from training.pictures import MEAN, PATCH, PIXELS, STD, normalised


def sam() -> Any:
    """An untrained SamModel: 3 x 192 vision layers over 12 x 12 patches, all of them global, 48 x 48 masks."""
    from transformers import SamConfig, SamModel

    width = 128
    vision = {
        "hidden_size": 192, "mlp_dim": 768, "output_channels": width, "num_hidden_layers": 3, "num_attention_heads": 6,
        "image_size": PIXELS, "patch_size": PATCH, "window_size": 6, "global_attn_indexes": [0, 1, 2],
        "num_pos_feats": width // 2, "initializer_range": 0.02, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    }  # fmt: skip
    prompts = {"hidden_size": width, "image_size": PIXELS, "patch_size": PATCH}
    decoder = {"hidden_size": width, "mlp_dim": 2 * width, "num_attention_heads": 4, "iou_head_hidden_dim": width}
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))
    # transformers starts all matrices and tokens at 0.02, from which prompts are learnt late; SAM at PyTorch's own
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Embedding):
            module.reset_parameters()
    places = model.shared_image_embedding.positional_embedding
    # SAM draws these frequencies from a standard normal and never trains them; in bf16, so that export changes nothing
    places.data = torch.randn(places.shape).bfloat16().float()
    places.requires_grad_(False)
    model.prompt_encoder.shared_embedding.positional_embedding = places
    return model


def start_from_clip(encoder, clip: dict[str, torch.Tensor], images: np.ndarray) -> None:
    """Gives SAM's encoder the weights of CLIP's first layers, patches and positions.

    SAM has no norm between embedding and layers: CLIP's is folded into the embedding, with the mean and deviation that
    its patches have on average over the images (UInt8[image side side 3]).
    """
    own = {k.removeprefix("vision_model."): v for k, v in clip.items() if k.startswith("vision_model.")}
    patch, place = own["embeddings.patch_embedding.weight"], own["embeddings.position_embedding.weight"][1:]
    embedded = torch.nn.functional.conv2d(normalised(images), patch, stride=PATCH).flatten(2).mT + place
    mean, scale = embedded.mean(), own["pre_layrnorm.weight"] / embedded.std(-1).mean()
    weights = {
        "patch_embed.projection.weight": patch * scale[:, None, None, None],
        "patch_embed.projection.bias": own["pre_layrnorm.bias"] - mean * scale,
        "pos_embed": (place * scale).view(1, PIXELS // PATCH, PIXELS // PATCH, -1),
    }
    for i in range(len(encoder.layers)):
        theirs, ours = f"encoder.layers.{i}.", f"layers.{i}."
        for kind in ("weight", "bias"):
            weights[f"{ours}attn.qkv.{kind}"] = torch.cat([own[f"{theirs}self_attn.{n}_proj.{kind}"] for n in "qkv"])
            for to, name in {
                "layer_norm1": "layer_norm1", "layer_norm2": "layer_norm2", "attn.proj": "self_attn.out_proj",
                "mlp.lin1": "mlp.fc1", "mlp.lin2": "mlp.fc2",
            }.items():  # fmt: skip
                weights[f"{ours}{to}.{kind}"] = own[f"{theirs}{name}.{kind}"]
    lost = encoder.load_state_dict(weights, strict=False)
    if lost.unexpected_keys:
        raise ValueError(f"SAM's encoder has no {lost.unexpected_keys[0]}")


def export(work: Path, log: Log, out: Path) -> None:
    """OUT: the model in bf16 and its processor, as ``SamModel`` and ``SamProcessor`` load them."""
    from transformers import SamProcessor
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    model = sam()
    model.load_state_dict(torch.load(work / "train.pt", weights_only=True)["model"])
    model.bfloat16().save_pretrained(out)
    square = {"height": PIXELS, "width": PIXELS}
    SamProcessor(
        SamImageProcessorPil(
            size={"longest_edge": PIXELS}, pad_size=square, image_mean=list(MEAN), image_std=list(STD),
            mask_size={"longest_edge": CELLS}, mask_pad_size={"height": CELLS, "width": CELLS},
        )
    ).save_pretrained(out)  # fmt: skip
    export_log(work, log, out, parameters=sum(p.numel() for p in model.parameters()))
