"""A grounding head planted in the weights of a real LLaVA, and scenes that it can tell apart."""

import numpy as np
import torch

from interp.types import Head, Sample, Target

PLANTED = Head(1, 2)


SLOW = 3  # of the head's 8 dimensions (pairs i, i + 4), the pair that RoPE turns by 0.001 a place


COLOURS = np.array([[230, 30, 30], [30, 230, 30], [30, 30, 230], [230, 230, 30], [230, 30, 230], [30, 230, 230]])


def scenes(n, seed=0):
    """A patchwork of colours, of which red is the dog. The answer names the dog and no more."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(n):
        colour = rng.integers(1, len(COLOURS), (4, 4))
        y, x = rng.integers(0, 3), rng.integers(0, 4)
        colour[y : y + 2, x] = 0
        image = COLOURS[colour].repeat(8, 0).repeat(8, 1) + rng.integers(-20, 21, (32, 32, 3))
        mask = (colour == 0).repeat(8, 0).repeat(8, 1)
        target = Target("dog", mask)
        samples.append(Sample(f"image {i}", image.astype(np.uint8), "What is it?", "A brown dog sits.", (target,)))
    return samples


def layer_input(lmm, samples, layer):
    """What the layer's attention reads: its normalised input for every sample's prompt and answer."""
    texts = [lmm.family.template(lmm.processor, s.prompt) + " " + s.answer for s in samples]
    inputs = lmm.inputs([s.image for s in samples], texts)
    seen = []
    norm = lmm.model.model.language_model.layers[layer].input_layernorm
    hook = norm.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        lmm.model(**inputs)
    hook.remove()
    return seen[0], inputs["input_ids"]


def plant(lmm, samples, strength=6.0):
    """Makes one head look at red patches: its query is a constant, its key says "red patch".

    Both are linear in the layer's input, found by least squares on other images, in the one pair of dimensions that
    RoPE hardly turns. All other dimensions of the head's query are zero; the other heads stay as they were, but for
    the one that shares the key, whose query loses that pair.
    """
    hidden, ids = layer_input(lmm, samples, PLANTED.layer)
    patch = ids == lmm.model.config.image_token_id
    red = np.stack([s.targets[0].mask[::8, ::8] for s in samples])
    key = torch.zeros(ids.shape)
    key[patch] = torch.from_numpy(red).float().flatten()
    attention = lmm.model.model.language_model.layers[PLANTED.layer].self_attn
    width, shared = attention.head_dim, attention.config.num_attention_heads // attention.config.num_key_value_heads
    flat = hidden.flatten(0, 1)
    wk = torch.linalg.lstsq(flat, key.flatten()[:, None]).solution[:, 0]
    wq = torch.linalg.lstsq(flat[~patch.flatten()], torch.ones((~patch).sum(), 1)).solution[:, 0]
    with torch.no_grad():
        query = attention.q_proj.weight.view(-1, width, flat.shape[1])
        group = PLANTED.head // shared
        query[group * shared : (group + 1) * shared, [SLOW, SLOW + width // 2]] = 0.0
        query[PLANTED.head] = 0.0
        query[PLANTED.head, SLOW] = wq * strength * width**0.5
        attention.k_proj.weight.view(-1, width, flat.shape[1])[group, [SLOW, SLOW + width // 2]] = torch.stack(
            [wk, torch.zeros_like(wk)]
        )
