from tiny_models import parts


def build(seed=0, **image_options):
    """4 x 4 patches of 8 pixels, behind a class token that is dropped."""
    from transformers import CLIPImageProcessorPil, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokens = parts.tokenizer(image_token="<image>")
    vision = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
              "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "projection_dim": 16}  # fmt: skip
    config = LlavaConfig(
        vision_config=vision,
        text_config={"model_type": "llama", **parts.text(tokens)},
        image_token_index=tokens.image_token_id,
    )
    options = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}} | image_options
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(**options),
        tokenizer=tokens,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=parts.chat("<image>"),
    )
    return parts.finished(LlavaForConditionalGeneration, config, tokens, seed), processor
