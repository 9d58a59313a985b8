from interp.models._processor import stills
from tiny_models import parts

VARIANTS = ({"crop_to_patches": False},)


def build(seed=0, **text):
    """Tiles of 32 pixels: 4 x 4 patches of 8, 2 x 2 of them to a token, up to 6 tiles. ``text``: of another language
    model than InternVL 3.5's."""
    from transformers import (
        GotOcr2ImageProcessorPil,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
    )

    tokens = parts.tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    config = InternVLConfig(
        text_config=parts.text(tokens, **{"model_type": "qwen3", **text}), vision_config=vision,
        image_token_id=tokens.context_image_token_id, image_seq_length=4, tie_word_embeddings=False,
    )  # fmt: skip
    processor = stills(InternVLProcessor)(
        image_processor=GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, max_patches=6),
        tokenizer=tokens,
        image_seq_length=4,
        chat_template=parts.chat("<IMG_CONTEXT>"),
    )
    return parts.finished(InternVLForConditionalGeneration, config, tokens, seed, spread=0.15), processor
