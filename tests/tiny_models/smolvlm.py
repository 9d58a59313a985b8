from tiny_models import idefics3

VARIANTS = idefics3.VARIANTS


def build(seed=0):
    """As Idefics3's."""
    return idefics3.build(seed, "SmolVLM")
