"""Checkpoints of full size that take no space: safetensors whose numbers were never written."""

import json

from own_code import settings
from transformers import LlamaTokenizer


def write(path, shapes):
    """A file with these tensors of half precision."""
    head, end = {}, 0
    for name, shape in shapes.items():
        size = 2
        for n in shape:
            size *= n
        head[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(head).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def clip_l_336(folder):
    """Shapes of openai/clip-vit-large-patch14-336."""
    folder.mkdir()
    width, inner = 1024, 4096
    shapes = {"embeddings.class_embedding": (width,), "embeddings.patch_embedding.weight": (width, 3, 14, 14)}
    shapes |= {"embeddings.position_embedding.weight": (577, width)}
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for i in range(24):
        at = f"encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{at}self_attn.{name}.weight": (width, width), f"{at}self_attn.{name}.bias": (width,)}
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{at}{name}.weight": (width,), f"{at}{name}.bias": (width,)}
        shapes |= {f"{at}mlp.fc1.weight": (inner, width), f"{at}mlp.fc1.bias": (inner,)}
        shapes |= {f"{at}mlp.fc2.weight": (width, inner), f"{at}mlp.fc2.bias": (width,)}
    write(folder / "model.safetensors", {f"vision_model.{name}": shape for name, shape in shapes.items()})
    vision = {"hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "num_attention_heads": 16}
    vision |= {"num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768}
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": vision}))
    steps = {"crop_size": 336, "size": 336, "do_center_crop": True, "do_normalize": True, "do_resize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(steps | {"image_processor_type": "CLIPImageProcessor"}))


def llava_7b(parts, folder, clip):
    """Shapes and settings of liuhaotian/llava-v1.5-7b, whose files hold no vision tower here."""
    folder.mkdir()
    width, inner = 4096, 11008
    shapes = {"model.embed_tokens.weight": (32000, width)}
    for i in range(32):
        at = f"model.layers.{i}."
        shapes |= {f"{at}self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
        shapes |= {f"{at}mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj.weight": (width, inner)}
        shapes |= {f"{at}{name}.weight": (width,) for name in ("input_layernorm", "post_attention_layernorm")}
    shapes |= {"model.norm.weight": (width,), "lm_head.weight": (32000, width)}
    shapes |= {"model.mm_projector.0.weight": (width, 1024), "model.mm_projector.0.bias": (width,)}
    shapes |= {"model.mm_projector.2.weight": (width, width), "model.mm_projector.2.bias": (width,)}
    write(folder / "model.safetensors", shapes)
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": 32, "num_attention_heads": 32}
    sizes |= {"num_key_value_heads": 32, "max_position_embeddings": 4096, "vocab_size": 32000, "mm_hidden_size": 1024}
    about = settings(parts, **sizes, mm_vision_tower=str(clip))
    (folder / "config.json").write_text(json.dumps(about))
    pieces = [parts.spm.id_to_piece(i) for i in range(parts.vocabulary)]
    words = {piece: i for i, piece in enumerate([*pieces, *(f"<{i}>" for i in range(len(pieces), 32000))])}
    LlamaTokenizer(vocab=words, merges=[]).save_pretrained(folder)
