from tiny_models import parts

VARIANTS = ({"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 10},)


def build(seed=0):
    """Squares of 48 pixels: 6 x 6 patches of 8, pooled to 3 x 3 tokens."""
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessorPil,
        Gemma3Processor,
    )

    tokens = parts.tokenizer(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    text = parts.text(
        tokens, query_pre_attn_scalar=8, sliding_window=16, layer_types=["sliding_attention", "full_attention"] * 2,
        num_hidden_layers=4,
    )  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 48, "patch_size": 8, "vision_use_head": False}  # fmt: skip
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=9, boi_token_index=tokens.boi_token_id,
        eoi_token_index=tokens.eoi_token_id, image_token_index=tokens.image_token_id, initializer_range=0.15,
    )  # fmt: skip
    images = Gemma3ImageProcessorPil(size={"height": 48, "width": 48})
    processor = Gemma3Processor(
        image_processor=images, tokenizer=tokens, chat_template=parts.chat("<start_of_image>"), image_seq_length=9
    )
    return parts.finished(Gemma3ForConditionalGeneration, config, tokens, seed, spread=0.15), processor
