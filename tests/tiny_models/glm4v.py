import transformers

from interp.models._processor import stills
from tiny_models import parts

IMAGE, VIDEO = "<|image|>", "<|video|>"
ENDS = ["<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"]


def build(seed=0):
    """2 x 2 patches of 4 pixels to a token, so that a cell is 8 pixels."""
    tokens = parts.tokenizer(IMAGE, VIDEO, *ENDS)
    names = ["image_start", "image_end", "video_start", "video_end", "image", "video"]
    ids = {f"{k}_token_id": tokens.convert_tokens_to_ids(v) for k, v in zip(names, [*ENDS, IMAGE, VIDEO], strict=True)}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    vision = {"depth": 2, "num_heads": 2, "patch_size": 4, "hidden_size": 16, "intermediate_size": 32,
              "out_hidden_size": 32, "image_size": 32}  # fmt: skip
    config = transformers.Glm4vConfig(text_config=parts.text(tokens, rope_parameters=rope), vision_config=vision, **ids)
    size = {"shortest_edge": 16 * 16 * 2, "longest_edge": 64 * 64 * 2}  # over both frames that an image becomes
    processor = stills(transformers.Glm4vProcessor)(
        image_processor=transformers.Glm4vImageProcessorPil(patch_size=4, size=size),
        tokenizer=tokens,
        chat_template=parts.chat(f"{ENDS[0]}{IMAGE}{ENDS[1]}"),
    )
    return parts.finished(transformers.Glm4vForConditionalGeneration, config, tokens, seed, spread=0.15), processor
