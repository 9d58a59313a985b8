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


WORDS = ("red table", "blue hose", "old doggy")
"""What `things` may name: nouns of three tokens, the first their own, behind adjectives of one. Were a noun longer, its
mean map would be flatter, and flatness by brightness is an interaction that looks like knowledge of the word."""

KNOWS, LEARNS, THINGS, CORNER = Head(0, 0), Head(0, 1), Head(0, 2), Head(0, 3)
"""Heads of `plant_words`: at this word's thing; at it only once its first token is read; at all things; at a corner."""


def things(n, seed=0):
    """Three things of two patches each, in a colour of their own, on noise. The answer names them in random order."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(n):
        image = rng.integers(90, 160, (32, 32, 3))
        free, masks = np.ones((4, 4), bool), []
        while len(masks) < 3:
            y, x, tall = rng.integers(0, 4), rng.integers(0, 4), rng.random() < 0.5
            place = np.zeros((4, 4), bool)
            place[y : y + 1 + tall, x : x + 2 - tall] = True
            if place.sum() == 2 and free[place].all():
                free &= ~place
                masks.append(place.repeat(8, 0).repeat(8, 1))
        for k, mask in enumerate(masks):
            image[mask] = np.eye(3, dtype=int)[k] * 200 + rng.integers(0, 30, (mask.sum(), 3))
        named = [f"{'an' if w[0] == 'o' else 'a'} {w}" for w in (WORDS[k] for k in rng.permutation(3))]
        answer = f"There is {named[0]} beside {named[1]} and {named[2]} ."
        targets = tuple(Target(word.split()[1], mask) for word, mask in zip(WORDS, masks, strict=True))
        samples.append(Sample(f"image {seed}-{i}", image.astype(np.uint8), "What is it?", answer, targets))
    return samples


def plant_words(lmm, samples, strength=6.0):
    """Makes the four heads of layer 0 into `KNOWS`, `LEARNS`, `THINGS` and `CORNER`.

    Nine dimensions of the model's width are set aside. A word's token holds a direction of its own (0, 1: adjectives,
    3, 4: nouns' first tokens) and that a word is being named (2); a patch holds the direction of its colour (5, 6),
    whether it is coloured (7) and whether it is the corner (8), found by least squares. Directions are three in a
    plane, 120 degrees apart. Queries and keys read them in the pair that RoPE hardly turns; all else is zero.
    """
    inner = lmm.model.model
    angle = 2 * np.pi * torch.arange(3) / 3
    code = torch.stack([angle.cos(), angle.sin()], 1)
    projector, seen = inner.multi_modal_projector.linear_2, []
    hook = projector.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    layer_input(lmm, samples, 0)
    hook.remove()
    inside = np.stack([[t.mask[::8, ::8] for t in s.targets] for s in samples])
    thing = torch.from_numpy(inside).float().flatten(2).transpose(1, 2).flatten(0, 1)
    corner = torch.eye(16)[0].repeat(len(samples))
    wanted = torch.cat([thing @ code, thing.sum(1, keepdim=True), corner[:, None]], 1)
    known = seen[0].flatten(0, -2)
    known = torch.cat([known, torch.ones(len(known), 1)], 1)
    found = torch.linalg.lstsq(known, wanted).solution
    tokens = lmm.processor.tokenizer
    attention = inner.language_model.layers[0].self_attn
    with torch.no_grad():
        projector.weight[:9], projector.bias[:9] = 0.0, 0.0
        projector.weight[5:9], projector.bias[5:9] = found[:-1].T, found[-1]
        embedding = inner.language_model.embed_tokens.weight
        embedding[:, :9] = 0.0
        said = [[tokens(w, add_special_tokens=False).input_ids[0] for w in word.split()] for word in WORDS]
        for direction, (adjective, noun) in zip(code, said, strict=True):
            embedding[[adjective, noun]] = embedding[said[0]]  # else a head reads words by how long their vectors are
            embedding[adjective, :2], embedding[noun, 3:5] = direction, direction
            embedding[[adjective, noun], 2] = 1.0
        query, key = (
            p.weight.view(-1, attention.head_dim, p.in_features) for p in (attention.q_proj, attention.k_proj)
        )
        for p in (query, key):
            p.zero_()
        pair, much = [SLOW, SLOW + attention.head_dim // 2], strength * attention.head_dim**0.5 / 6
        for axis, at in enumerate(pair):
            query[KNOWS.head, at, [axis, 3 + axis]] = much
            query[LEARNS.head, at, 3 + axis] = much
            key[0, at, 5 + axis] = 1.0
            key[1, at, 7 + axis] = 1.0
        query[THINGS.head, pair[0], 2] = query[CORNER.head, pair[1], 2] = much
