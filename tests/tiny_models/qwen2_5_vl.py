from interp.models._processor import stills
from tiny_models import parts


def build(seed=0):
    """Patches of 4 pixels, 2 x 2 to a token: a cell is 8 pixels; windows of 2 x 2 cells in all layers but the last."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessorPil,
    )

    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokens = parts.tokenizer(*marks)
    start, end, image, video = tokens.convert_tokens_to_ids(marks)
    text = parts.text(tokens, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]})
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 4,
              "out_hidden_size": 32, "window_size": 16, "fullatt_block_indexes": [1]}  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=image, video_token_id=video,
        vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    size = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    processor = stills(Qwen2_5_VLProcessor)(
        image_processor=Qwen2VLImageProcessorPil(patch_size=4, size=size),
        tokenizer=tokens,
        chat_template=parts.chat("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return parts.finished(Qwen2_5_VLForConditionalGeneration, config, tokens, seed), processor
