from tiny_models import parts

VARIANTS = ({"crop_to_patches": False},)


def build(seed=0):
    """Tiles of 32 pixels: 4 x 4 patches of 8, 2 x 2 of them to a token, up to 6 tiles; sliding windows in 3 of 4
    layers."""
    from transformers import (
        AyaVisionConfig,
        AyaVisionForConditionalGeneration,
        AyaVisionProcessor,
        GotOcr2ImageProcessorPil,
    )

    marks = ["<|IMG_PATCH|>", "<|START_OF_IMG|>", "<|END_OF_IMG|>"]
    tokens = parts.tokenizer(*marks, image_token="<image>")
    text = parts.text(tokens, num_hidden_layers=4, sliding_window=16)
    text["layer_types"] = ["sliding_attention"] * 3 + ["full_attention"]
    vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
              "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "vision_use_head": False}  # fmt: skip
    config = AyaVisionConfig(
        text_config={"model_type": "cohere2", **text}, vision_config=vision,
        image_token_index=tokens.convert_tokens_to_ids(marks[0]),
    )  # fmt: skip
    images = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, max_patches=6)
    processor = AyaVisionProcessor(
        image_processor=images, tokenizer=tokens, patch_size=8, img_size=32, downsample_factor=2,
        chat_template=parts.chat("<image>"),
    )  # fmt: skip
    return parts.finished(AyaVisionForConditionalGeneration, config, tokens, seed + 1, spread=0.15), processor
