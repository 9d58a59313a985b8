"""What every file in ``interp/models`` is held to, on a tiny model of random weights from ``tests/tiny_models``."""

import importlib
import itertools

import numpy as np
import pytest
import tiny_models
import torch

import interp
from interp import plugins
from interp.answer import replay
from interp.answer.layers import layers_with_heads
from interp.answer.maps import coverage
from interp.attention.watching import _uses_interface
from interp.models._hf import BrokenCheckpoint
from interp.types import Sample, Target

SIZES = {"wide": (30, 92), "tall": (97, 28), "tiny": (9, 14), "large": (310, 260), "odd": (41, 53), "square": (64, 64)}
PROMPT, ANSWER = "What is it?", "A brown dog sits on a red chair."


def _cases():
    for name in plugins.names("models"):
        yield name, {}
        for options in getattr(importlib.import_module(f"tiny_models.{name}"), "VARIANTS", ()):
            yield name, options


CASES = {" ".join([name, *(f"{k}={v}" for k, v in options.items())]): (name, options) for name, options in _cases()}
every_family = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def made():
    """The LMM of a case, made once."""
    kept = {}

    def make(case):
        if case not in kept:
            name, options = CASES[case]
            kept[case] = interp.wrap(*tiny_models.build(name), processor_options=options)
        return kept[case]

    return make


def photo(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


# Where the tokens lie


def token_features(lmm, inputs):
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


def rectangle(view, row, col):
    """(x0, y0, x1, y1) in whole pixels well inside of a cell."""
    x0, y0, x1, y1 = view.box
    width, height = (x1 - x0) / view.shape[1], (y1 - y0) / view.shape[0]
    x, y = x0 + (col + 0.5) * width, y0 + (row + 0.5) * height
    half_x, half_y = max(0.3 * width, 0.5), max(0.3 * height, 0.5)
    return round(x - half_x), round(y - half_y), round(x + half_x), round(y + half_y)


def places(view, shape, count=20):
    """Cells of the view, spread over it, whose rectangles lie in the image."""
    for row, col in np.random.default_rng(0).permutation(list(itertools.product(*map(range, view.shape)))):
        x0, y0, x1, y1 = rectangle(view, row, col)
        if 0 <= x0 < x1 <= shape[1] and 0 <= y0 < y1 <= shape[0] and count > 0:
            count -= 1
            yield int(row), int(col), (slice(y0, y1), slice(x0, x1))


@every_family
@pytest.mark.parametrize("size", SIZES)
def test_a_marker_in_the_image_moves_the_very_token_that_the_grid_names(case, size, made):
    lmm, shape = made(case), SIZES[size]
    plain = np.full((*shape, 3), 60, dtype=np.uint8)
    before = lmm.inputs([plain], [lmm.template(PROMPT)])
    grid, still = lmm.grid(shape, before), token_features(lmm, before)
    seen = 0
    for view in grid.views:
        for row, col, place in places(view, shape):
            image = plain.copy()
            image[place] = 255
            after = lmm.inputs([image], [lmm.template(PROMPT)])
            pixels = {k: v for k, v in after.items() if v.is_floating_point()}  # all else as before: seeds of noise too
            moved = (token_features(lmm, before | pixels) - still).norm(dim=-1)[torch.from_numpy(view.token_index)]
            found = np.unravel_index(int(moved.argmax()), view.shape)
            mask = np.zeros((1, *shape), dtype=bool)
            mask[0, place[0], place[1]] = True
            covered = coverage(mask, view)[0]
            assert covered[found] > 0.5 * covered.max() and moved.max() > 0, f"{view.name} {(row, col)}: {found}"
            seen += 1
    assert seen >= len(grid.views)


@every_family
@pytest.mark.parametrize("size", SIZES)
def test_views_and_placeless_tokens_are_all_of_the_image_and_lie_on_it(case, size, made):
    lmm, (height, width) = made(case), SIZES[size]
    inputs = lmm.inputs([photo((height, width))], [lmm.template(PROMPT)])
    grid = lmm.grid((height, width), inputs)
    config = lmm.model.config
    image_token = getattr(config, "image_token_id", None)
    assert sorted(grid.tokens) == (inputs["input_ids"][0] == image_token).nonzero().flatten().tolist()
    assert len({view.name for view in grid.views}) == len(grid.views)
    for view in grid.views:
        x0, y0, x1, y1 = view.box
        assert x0 < x1 and y0 < y1 and min(x1, width) > max(x0, 0) and min(y1, height) > max(y0, 0)
        assert grid.seen_as(view.name).token_index is view.token_index
        assert sorted(grid.seen_as(view.name).tokens) == sorted(grid.tokens)


# What is read


def close(a, b):
    assert a.tokens == b.tokens and a.layers == b.layers
    torch.testing.assert_close(a.attention, b.attention, atol=1e-5, rtol=0)
    torch.testing.assert_close(a.mean, b.mean, atol=1e-5, rtol=0)
    np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5, rtol=0)
    assert (a.elsewhere is None) == (b.elsewhere is None)
    if a.elsewhere is not None:
        torch.testing.assert_close(a.elsewhere, b.elsewhere, atol=1e-5, rtol=0)


@every_family
@pytest.mark.parametrize("query", ["predicting", "self"])
def test_over_the_cache_anew_and_while_generating_the_rows_are_the_same(case, query, made, monkeypatch):
    lmm, image = made(case), photo((41, 83))
    how = {"tokens": "all", "phrases": [], "query": query, "max_new_tokens": 6}
    over_cache = interp.capture(lmm, image, PROMPT, **how)
    close(over_cache, interp.capture(lmm, image, PROMPT, **how, streaming=True))
    monkeypatch.setattr(replay, "rewinds", lambda cache: False)
    close(over_cache, interp.capture(lmm, image, PROMPT, **how))
    assert over_cache.attention.isfinite().all() and len(over_cache.tokens) > 1


@every_family
@pytest.mark.parametrize("query", ["predicting", "self"])
@pytest.mark.parametrize("answers", ["reference", "generated"])
def test_batches_of_unequal_images_texts_and_answers_equal_single_ones(case, query, answers, made):
    lmm = made(case)
    said = [ANSWER, "A cat.", "Two cups and an old umbrella in front of a blue house."]
    samples = [
        Sample(str(i), photo(shape, i), PROMPT + " Describe it." * i, answer)
        for i, (shape, answer) in enumerate(zip([(30, 92), (9, 14), (97, 40)], said, strict=True))
    ]
    how = {"tokens": "all", "query": query, "max_new_tokens": 5}
    together = list(interp.captures(lmm, samples, answers=answers, batch=3, phrases=lambda sample: [], **how))
    for sample, got in zip(samples, together, strict=True):
        answer = sample.answer if answers == "reference" else None
        close(got, interp.capture(lmm, sample.image, sample.prompt, answer, phrases=[], **how))


@every_family
def test_rows_are_those_of_eager_attention_and_recording_changes_no_bit(case, made):
    lmm, image = made(case), photo((41, 83))
    inputs = lmm.inputs([image], [lmm.template(PROMPT)])
    ids = replay.answer_ids(lmm.tokenizer, lmm.template(PROMPT), ANSWER)
    again = replay.replay(lmm.model, inputs, [ids], "self")
    rows = range(again.start, again.start + len(ids))
    with torch.no_grad():
        plain = lmm.model(**again.call).logits
        with interp.record(lmm.decoder, rows) as seen:
            assert torch.equal(lmm.model(**again.call).logits, plain)
        kernel = lmm.model.config._attn_implementation
        lmm.model.set_attn_implementation("eager")
        try:
            with interp.record(lmm.decoder, rows) as eager_seen:
                out = lmm.model(**again.call, output_attentions=True)
        finally:
            lmm.model.set_attn_implementation(kernel)
    eager = torch.stack([x for x in out.attentions if x is not None], 1)[:, :, :, list(rows)]
    torch.testing.assert_close(eager_seen.attention, eager, atol=1e-6, rtol=0)
    torch.testing.assert_close(seen.attention, eager, atol=1e-5, rtol=0)
    got = interp.capture(lmm, image, PROMPT, ANSWER, tokens="all", query="self")
    index = torch.from_numpy(got.grid.token_index)
    torch.testing.assert_close(got.attention, eager[0].permute(2, 0, 1, 3)[..., index], atol=1e-5, rtol=0)
    everything = eager[0].permute(2, 0, 1, 3)[..., torch.from_numpy(got.grid.tokens)].sum(-1)
    rest = 0 if got.elsewhere is None else got.elsewhere
    torch.testing.assert_close(got.attention.sum((-1, -2)) + rest, everything, atol=1e-5, rtol=0)


# What is done with it


def dog(shape, seed=0):
    """A sample whose dog is a white square on noise."""
    image, mask = photo(shape, seed), np.zeros(shape, dtype=bool)
    mask[shape[0] // 4 : shape[0] // 2, shape[1] // 4 : shape[1] // 2] = True
    image[mask] = 255
    return Sample(f"{shape} {seed}", image, PROMPT, ANSWER, (Target("dog", mask),))


def logprob_of_dog(lmm, sample, answer):
    """Of the tokens that name it, from a plain pass over all."""
    inputs = lmm.inputs([sample.image], [lmm.template(sample.prompt)])
    ids = replay.answer_ids(lmm.tokenizer, lmm.template(sample.prompt), sample.answer)
    again = replay.replay(lmm.model, inputs, [ids], "predicting")
    with torch.no_grad():
        logits = lmm.model(**again.call).logits[0, again.start :].log_softmax(-1)
    return sum(float(logits[t, ids[t]]) for t in answer), again, ids


@every_family
@pytest.mark.parametrize("where", ["answer", "all"])
def test_effects_of_heads_are_those_of_taking_them_away_in_a_whole_pass(case, where, made):
    lmm, sample = made(case), dog((41, 83))
    layer, *_, last = layers_with_heads(lmm)
    heads = [(layer, 1), (last, 2)]
    how = {"metric": "image_mass", "draws": 1, "progress": False}
    found = interp.effects(lmm, [sample], heads, "zero", where=where, **how)
    tokens = interp.capture(lmm, sample.image, PROMPT, ANSWER, phrases=["dog"]).phrases[0].tokens
    plain, again, ids = logprob_of_dog(lmm, sample, tokens)
    rows = None if where == "all" else range(again.start, again.start + len(ids))
    got = found.frame.query("measure == 'logprob'")["mean"].to_numpy()
    for head, harm in zip(heads, got, strict=True):
        with interp.ablate(lmm.model, [head], rows=rows):
            assert harm == pytest.approx(plain - logprob_of_dog(lmm, sample, tokens)[0], abs=2e-5)
    assert np.abs(got).max() > 1e-4


@every_family
def test_a_thing_that_is_knocked_out_is_hidden_in_every_view(case, made):
    lmm, sample = made(case), dog((41, 83))
    found = interp.effects(
        lmm, [sample], {"all": "all"}, "knockout", keys="own", metric="image_mass", draws=1, progress=False
    )
    assert np.isfinite(found.frame.query("measure == 'logprob'")["mean"]).all()
    tokens = interp.capture(lmm, sample.image, PROMPT, ANSWER, phrases=["dog"]).phrases[0].tokens
    plain, again, _ = logprob_of_dog(lmm, sample, tokens)
    grid = lmm.grid(sample.image.shape[:2], lmm.inputs([sample.image], [lmm.template(PROMPT)]))
    keys = []
    for view in grid.views:
        cover = coverage(sample.targets[0].mask[None], view)[0].numpy()
        own = view.token_index[(cover >= min(0.5, cover.max())) & (cover > 0)].tolist()
        assert own or view.name.startswith("crop")
        keys += own
    assert int(found.phrases["patches"].iloc[0]) == len(keys)
    with interp.knockout(lmm.model, [again.start + t for t in tokens], keys):
        harm = plain - logprob_of_dog(lmm, sample, tokens)[0]
    assert found.frame.query("measure == 'logprob'")["mean"].item() == pytest.approx(harm, abs=2e-5)


@every_family
def test_ranking_segments_and_emergence_run(case, made, tmp_path):
    lmm, samples = made(case), [dog((41, 83)), dog((64, 50), 1)]
    ranked = interp.rank(lmm, samples, ["pointing_game", "image_mass"], progress=False)
    numbers = set(ranked.heads["layer"])
    assert not ranked.skipped and numbers == set(layers_with_heads(lmm))
    assert {head.layer for head in ranked.scores["image_mass"].top(100)} == numbers
    segmented = interp.segment(lmm, samples[0].image, PROMPT, answer=ANSWER, segmenter="threshold")
    assert segmented.masks.shape[1:] == samples[0].image.shape[:2] and len(segmented.phrases)
    for name in ("base", "checkpoint-1"):
        lmm.model.save_pretrained(tmp_path / name)
        lmm.processor.save_pretrained(tmp_path / name)
    series = interp.series(tmp_path)
    emerged = interp.emerge(lmm, series, samples, ["pointing_game"], examples=1, progress=False)
    assert set(emerged.tables.heads["layer"]) == numbers and not emerged.skipped
    loaded = interp.load(tmp_path / "base", device="cpu", processor_options=CASES[case][1])
    again = interp.wrap(loaded.model, lmm.processor, processor_options=CASES[case][1])
    assert again.generate(samples[0].image, PROMPT, 5) == lmm.generate(samples[0].image, PROMPT, 5)
    inputs = [x.inputs([samples[0].image], [x.template(PROMPT)]) for x in (loaded, lmm)]
    pixels = [[v for v in given.values() if v.is_floating_point()] for given in inputs]
    assert all(torch.equal(a, b) for a, b in zip(*pixels, strict=True))


# What is refused


@pytest.mark.parametrize("name", plugins.names("models"))
def test_weights_and_classes_that_are_missing_are_named(name, tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file

    model, processor = tiny_models.build(name)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    key = next(k for k in stored if "layers.1" in k and k.endswith("down_proj.weight"))
    stored.pop(key)
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BrokenCheckpoint, match=r"lacks 1 .*layers\.1.*down_proj\.weight"):
        interp.load(tmp_path)
    family = plugins.get("models", name)
    if not hasattr(family, "architecture"):
        return
    monkeypatch.setattr(family, "architecture", "NoSuchForConditionalGeneration")
    with pytest.raises(ImportError, match="has no NoSuchForConditionalGeneration; install a version"):
        interp.load(tmp_path)
