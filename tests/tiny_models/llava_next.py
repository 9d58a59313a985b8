from tiny_models import parts

TILE, PATCH = 32, 8
RESOLUTIONS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]


def build(seed=0):
    """Tiles of 4 x 4 patches of 8 pixels."""
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessorPil,
        LlavaNextProcessor,
    )

    tokens = parts.tokenizer(image_token="<image>")
    vision = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
              "num_attention_heads": 2, "image_size": TILE, "patch_size": PATCH, "projection_dim": 16}  # fmt: skip
    config = LlavaNextConfig(
        vision_config=vision, text_config={"model_type": "llama", **parts.text(tokens)},
        image_token_index=tokens.image_token_id, image_grid_pinpoints=RESOLUTIONS,
    )  # fmt: skip
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE}, image_grid_pinpoints=RESOLUTIONS
    )
    processor = LlavaNextProcessor(
        image_processor=images, tokenizer=tokens, patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=parts.chat("<image>"),
    )  # fmt: skip
    return parts.finished(LlavaNextForConditionalGeneration, config, tokens, seed), processor
