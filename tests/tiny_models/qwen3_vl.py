from tiny_models import qwen


def build(seed=0):
    """The first layer of the language model gets features of the vision tower's first once more (DeepStack)."""
    vision = {"hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32, "num_position_embeddings": 64,
              "deepstack_visual_indexes": [0]}  # fmt: skip
    return qwen.build(seed, "Qwen3VL", "Qwen3VLProcessor", {}, vision, spread=0.15)
