from interp.models._processor import stills
from tiny_models import parts


def build(seed=0):
    """Tiles of 35 pixels that are no whole number of patches (4 x 4 of 8 pixels); fine views of up to 2 tiles' patches
    are left as they are, larger ones shrunk."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessorPil,
        LlavaOnevisionProcessor,
    )

    tokens = parts.tokenizer(image_token="<image>", video_token="<video>")
    tile = 35
    points = [[tile * a, tile * b] for a in (1, 2, 3) for b in (1, 2, 3)]
    vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
              "num_attention_heads": 2, "image_size": tile, "patch_size": 8, "vision_use_head": False}  # fmt: skip
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **parts.text(tokens)}, vision_config=vision,
        image_token_index=tokens.image_token_id, video_token_index=tokens.video_token_id,
        image_grid_pinpoints=points, vision_aspect_ratio="anyres_max_2",
    )  # fmt: skip
    most = "anyres_max_2"
    processor = stills(LlavaOnevisionProcessor)(
        image_processor=LlavaOnevisionImageProcessorPil(
            size={"height": tile, "width": tile}, image_grid_pinpoints=points
        ),
        tokenizer=tokens,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=most,
        chat_template=parts.chat("<image>"),
    )
    return parts.finished(LlavaOnevisionForConditionalGeneration, config, tokens, seed), processor
