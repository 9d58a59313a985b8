from tiny_models import qwen


def build(seed=0):
    """Softmax attention in layers 1 and 3 of 4, a recurrent state in the others."""
    vision = {"hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32, "num_position_embeddings": 64}
    text = {"num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention"] * 2, "head_dim": 8,
            "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
            "linear_num_value_heads": 4, "partial_rotary_factor": 1.0}  # fmt: skip
    return qwen.build(seed, "Qwen3_5", "Qwen3VLProcessor", text, vision, spread=0.15)
