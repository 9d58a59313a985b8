from tiny_models import parts


def build(seed=0):
    """4 x 4 patches of 8 pixels over a Gemma 2 with a sliding window in every other layer."""
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessorPil,
    )

    tokens = parts.tokenizer(image_token="<image>")
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(image_processor=images, tokenizer=tokens)  # gives the tokenizer more tokens
    text = parts.text(tokens, query_pre_attn_scalar=8, sliding_window=24, num_hidden_layers=4)
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8, "vision_use_head": False, "projection_dim": 32}  # fmt: skip
    config = PaliGemmaConfig(
        text_config={"model_type": "gemma2", **text}, vision_config={"model_type": "siglip_vision_model", **vision},
        image_token_index=tokens.image_token_id, projection_dim=32, hidden_size=32,
    )  # fmt: skip
    return parts.finished(PaliGemmaForConditionalGeneration, config, tokens, seed, spread=0.15), processor
