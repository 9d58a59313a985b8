"""What the Qwen-VL models have in common: 2 x 2 patches of 4 pixels to a token, so that a cell is 8 pixels."""

import transformers

from interp.models._processor import stills
from tiny_models import parts

MARKS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def build(seed, name, processor, text, vision, spread=0.0):
    """(model, processor) of the classes whose names begin so, from what is particular to the two parts."""
    tokens = parts.tokenizer(*MARKS)
    start, end, image, video = tokens.convert_tokens_to_ids(MARKS)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    config = getattr(transformers, f"{name}Config")(
        text_config=parts.text(tokens, rope_parameters=rope, **text),
        vision_config={"depth": 2, "num_heads": 2, "patch_size": 4, **vision},
        image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    size = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    made = stills(getattr(transformers, processor))(
        image_processor=transformers.Qwen2VLImageProcessorPil(patch_size=4, size=size),
        tokenizer=tokens,
        chat_template=parts.chat("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    model_class = getattr(transformers, f"{name}ForConditionalGeneration")
    return parts.finished(model_class, config, tokens, seed, spread), made
