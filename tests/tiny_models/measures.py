"""What every family is measured by, as numbers: the contract test bounds them, and a table shows them."""

import itertools
from unittest import mock

import numpy as np
import torch

import interp
from interp.answer import replay
from interp.answer.layers import layers_with_heads
from interp.answer.maps import coverage
from interp.attention.watching import _uses_interface
from interp.types import Sample, Target

SIZES = {"wide": (30, 92), "tall": (97, 28), "tiny": (9, 14), "large": (310, 260), "odd": (41, 53), "square": (64, 64)}
PROMPT, ANSWER = "What is it?", "A brown dog sits on a red chair."


def photo(shape, seed=0):
    """Noise."""
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def dog(shape, seed=0):
    """A sample whose dog is a white rectangle on noise."""
    image, mask = photo(shape, seed), np.zeros(shape, dtype=bool)
    mask[shape[0] // 4 : shape[0] // 2, shape[1] // 4 : shape[1] // 2] = True
    image[mask] = 255
    return Sample(f"{shape} {seed}", image, PROMPT, ANSWER, (Target("dog", mask),))


# Where the tokens lie


def markers(lmm, shape):
    """Per marker painted into a cell of a view: the view, the cell, the cell whose token moves most, and whether the
    marker is in that one."""
    plain = np.full((*shape, 3), 60, dtype=np.uint8)
    before = lmm.inputs([plain], [lmm.template(PROMPT)])
    grid, still = lmm.grid(shape, before), _token_features(lmm, before)
    for view in grid.views:
        for row, col, place in _places(view, shape):
            image = plain.copy()
            image[place] = 255
            after = lmm.inputs([image], [lmm.template(PROMPT)])
            pixels = {k: v for k, v in after.items() if v.is_floating_point()}  # all else as before: seeds of noise too
            moved = (_token_features(lmm, before | pixels) - still).norm(dim=-1)[torch.from_numpy(view.token_index)]
            found = np.unravel_index(int(moved.argmax()), view.shape)
            mask = np.zeros((1, *shape), dtype=bool)
            mask[0, place[0], place[1]] = True
            covered = coverage(mask, view)[0]
            hit = bool(covered[found] > 0.5 * covered.max()) and float(moved.max()) > 0
            yield view.name, (row, col), tuple(map(int, found)), hit


def _token_features(lmm, inputs):
    """What the language model is given for each token, with the vision tower's attention set to zero."""
    seen, hooks = [], []

    def nothing(module, args, output):
        return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)

    own = set(lmm.decoder.modules())
    for module in lmm.model.modules():
        if module not in own and _uses_interface(type(module)):
            hooks.append(module.register_forward_hook(nothing))
    hooks.append(
        lmm.decoder.register_forward_pre_hook(lambda m, a, k: seen.append(k["inputs_embeds"]), with_kwargs=True)
    )
    try:
        with torch.no_grad():
            lmm.model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0][0]


def _rectangle(view, row, col):
    """(x0, y0, x1, y1) in whole pixels well inside of a cell."""
    x0, y0, x1, y1 = view.box
    width, height = (x1 - x0) / view.shape[1], (y1 - y0) / view.shape[0]
    x, y = x0 + (col + 0.5) * width, y0 + (row + 0.5) * height
    half_x, half_y = max(0.3 * width, 0.5), max(0.3 * height, 0.5)
    return round(x - half_x), round(y - half_y), round(x + half_x), round(y + half_y)


def _places(view, shape, count=20):
    """Cells of the view, spread over it, whose rectangles lie in the image."""
    for row, col in np.random.default_rng(0).permutation(list(itertools.product(*map(range, view.shape)))):
        x0, y0, x1, y1 = _rectangle(view, row, col)
        if 0 <= x0 < x1 <= shape[1] and 0 <= y0 < y1 <= shape[0] and count > 0:
            count -= 1
            yield int(row), int(col), (slice(y0, y1), slice(x0, x1))


# What is read


def apart(a, b):
    """Largest difference of two captures' rows, and of their log-probabilities in nats."""
    assert a.tokens == b.tokens and a.layers == b.layers and (a.elsewhere is None) == (b.elsewhere is None)
    pairs = [(a.attention, b.attention), (a.mean, b.mean)]
    if a.elsewhere is not None:
        pairs.append((a.elsewhere, b.elsewhere))
    return max(float((x - y).abs().max()) for x, y in pairs), float(np.abs(a.logprobs - b.logprobs).max())


def three_ways(lmm, query):
    """An answer read over the cache, against while generating and against a fresh pass: the largest differences."""
    image = photo((41, 83))
    how = {"tokens": "all", "phrases": [], "query": query, "max_new_tokens": 6}
    over_cache = interp.capture(lmm, image, PROMPT, **how)
    streamed = interp.capture(lmm, image, PROMPT, **how, streaming=True)
    with mock.patch.object(replay, "rewinds", lambda cache: False):
        fresh = interp.capture(lmm, image, PROMPT, **how)
    assert over_cache.attention.isfinite().all() and len(over_cache.tokens) > 1
    return tuple(map(max, zip(apart(over_cache, streamed), apart(over_cache, fresh), strict=True)))


def together_and_alone(lmm, query, answers):
    """Unequal images, texts and answers in one batch against one by one: the largest differences."""
    said = [ANSWER, "A cat.", "Two cups and an old umbrella in front of a blue house."]
    samples = [
        Sample(str(i), photo(shape, i), PROMPT + " Describe it." * i, answer)
        for i, (shape, answer) in enumerate(zip([(30, 92), (9, 14), (97, 40)], said, strict=True))
    ]
    how = {"tokens": "all", "query": query, "max_new_tokens": 5}
    together = interp.captures(lmm, samples, answers=answers, batch=3, phrases=lambda sample: [], **how)
    found = []
    for sample, got in zip(samples, together, strict=True):
        answer = sample.answer if answers == "reference" else None
        found.append(apart(got, interp.capture(lmm, sample.image, sample.prompt, answer, phrases=[], **how)))
    return tuple(map(max, zip(*found, strict=True)))


def from_eager(lmm):
    """Largest difference of a capture's rows from transformers' eager attention, on its own kernel and on eager's; and
    whether recording left every bit of the logits."""
    image = photo((41, 83))
    inputs = lmm.inputs([image], [lmm.template(PROMPT)])
    ids = replay.answer_ids(lmm.tokenizer, lmm.template(PROMPT), ANSWER)
    again = replay.replay(lmm.model, inputs, [ids], "self")
    rows = range(again.start, again.start + len(ids))
    with torch.no_grad():
        plain = lmm.model(**again.call).logits
        with interp.record(lmm.decoder, rows):
            same = torch.equal(lmm.model(**again.call).logits, plain)
        config = lmm.model.config
        kernels = {name: getattr(config, name)._attn_implementation for name in config.sub_configs}
        kernels[""] = config._attn_implementation
        lmm.model.set_attn_implementation("eager")
        try:
            out = lmm.model(**again.call, output_attentions=True)
            under_eager = interp.capture(lmm, image, PROMPT, ANSWER, tokens="all", query="self")
        finally:
            lmm.model.set_attn_implementation(kernels)
    eager = torch.stack([x for x in out.attentions if x is not None], 1)[0][:, :, list(rows)].permute(2, 0, 1, 3)
    own = interp.capture(lmm, image, PROMPT, ANSWER, tokens="all", query="self")
    return _from_rows(own, eager), _from_rows(under_eager, eager), same


def _from_rows(got, rows):
    """Largest difference of a capture, map and what lies elsewhere, from whole rows [token layer head key]."""
    elsewhere = 0 if got.elsewhere is None else got.elsewhere
    mass = rows[..., torch.from_numpy(got.grid.tokens)].sum(-1) - got.attention.sum((-1, -2)) - elsewhere
    maps = rows[..., torch.from_numpy(got.grid.token_index)] - got.attention
    return max(float(maps.abs().max()), float(mass.abs().max()))


# What is done with it


def logprob(lmm, sample, tokens):
    """Of these answer tokens, in nats, from a plain pass over prompt and answer; and where the answer's rows are."""
    inputs = lmm.inputs([sample.image], [lmm.template(sample.prompt)])
    ids = replay.answer_ids(lmm.tokenizer, lmm.template(sample.prompt), sample.answer)
    again = replay.replay(lmm.model, inputs, [ids], "predicting")
    with torch.no_grad():
        logits = lmm.model(**again.call).logits[0, again.start :].log_softmax(-1)
    return sum(float(logits[t, ids[t]]) for t in tokens), range(again.start, again.start + len(ids))


def effects(lmm, where):
    """Harm of taking heads away, as `interp.effects` gives it; and from whole passes with them taken away."""
    sample, (first, *_, last) = dog((41, 83)), layers_with_heads(lmm)
    heads = [(first, 1), (last, 2)]
    how = {"metric": "image_mass", "draws": 1, "progress": False}
    found = interp.effects(lmm, [sample], heads, "zero", where=where, **how)
    tokens = interp.capture(lmm, sample.image, PROMPT, ANSWER, phrases=["dog"]).phrases[0].tokens
    plain, rows = logprob(lmm, sample, tokens)
    by_hand = []
    for head in heads:
        with interp.ablate(lmm.model, [head], rows=None if where == "all" else rows):
            by_hand.append(plain - logprob(lmm, sample, tokens)[0])
    return found.frame.query("measure == 'logprob'")["mean"].to_numpy(), np.array(by_hand)


def lens(lmm):
    """Largest difference of a capture from TransformerLens's patterns.

    Raises:
        ImportError, ValueError: there is no bridge for the family; with the reason.
    """
    image, said = photo((40, 52)), "A brown dog."
    bridge, asked = interp.to_lens(lmm), interp.lens_prompt(lmm, image, PROMPT, said)
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(asked.input_ids, **asked.inputs)
    return max(apart(asked.capture(cache, logits), interp.capture(lmm, image, PROMPT, said, tokens="all")))
