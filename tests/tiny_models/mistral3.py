from interp.models._pixtral import processor_class
from tiny_models import parts

MARKS = ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]


def build(seed=0):
    """2 x 2 patches of 4 pixels to a token, of images of at most 64 pixels a side."""
    from transformers import (
        Mistral3Config,
        Mistral3ForConditionalGeneration,
        PixtralImageProcessorPil,
    )

    tokens = parts.tokenizer(*MARKS)
    vision = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
              "num_attention_heads": 2, "head_dim": 8, "image_size": 64, "patch_size": 4}  # fmt: skip
    config = Mistral3Config(
        text_config={"model_type": "mistral", **parts.text(tokens, sliding_window=None)}, vision_config=vision,
        image_token_index=tokens.convert_tokens_to_ids(MARKS[0]), spatial_merge_size=2,
    )  # fmt: skip
    processor = processor_class()(
        image_processor=PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8}),
        tokenizer=tokens, patch_size=4, spatial_merge_size=2, chat_template=parts.chat(MARKS[0]),
    )  # fmt: skip
    return parts.finished(Mistral3ForConditionalGeneration, config, tokens, seed, spread=0.15), processor
