from tiny_models import qwen


def build(seed=0):
    """One grid, no windows."""
    vision = {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    return qwen.build(seed, "Qwen2VL", "Qwen2VLProcessor", {}, vision)
