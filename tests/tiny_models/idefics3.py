import transformers

from tiny_models import parts

VARIANTS = ({"do_image_splitting": False},)


def build(seed=0, name="Idefics3"):
    """Tiles of 32 pixels: 4 x 4 patches of 8, 2 x 2 of them to a token, of an image whose longer side has 96 pixels."""
    marks = ["<fake_token_around_image>", "<global-img>"]
    marks += [f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6)]
    tokens = parts.tokenizer(*marks, "<end_of_utterance>", image_token="<image>")
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    config = getattr(transformers, f"{name}Config")(
        text_config={"model_type": "llama", **parts.text(tokens)}, vision_config=vision, scale_factor=2,
        image_token_id=tokens.image_token_id,
    )  # fmt: skip
    images = getattr(transformers, f"{name}ImageProcessorPil")(
        size={"longest_edge": 96}, max_image_size={"longest_edge": 32}
    )
    processor = transformers.Idefics3Processor(
        image_processor=images, tokenizer=tokens, image_seq_len=4, chat_template=parts.chat("<image>")
    )
    model_class = getattr(transformers, f"{name}ForConditionalGeneration")
    return parts.finished(model_class, config, tokens, seed, spread=0.15), processor
