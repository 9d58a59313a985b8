from tiny_models import qwen


def build(seed=0):
    """Windows of 2 x 2 cells in all layers of the vision tower but the last."""
    vision = {"hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32, "window_size": 16,
              "fullatt_block_indexes": [1]}  # fmt: skip
    return qwen.build(seed, "Qwen2_5_VL", "Qwen2_5_VLProcessor", {}, vision)
