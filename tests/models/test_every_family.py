"""What every file in ``interp/models`` is held to, on a tiny model of random weights from ``tests/tiny_models``."""

import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import measures
from tiny_models.measures import ANSWER, PROMPT, SIZES, dog, photo

import interp
from interp import plugins
from interp.answer.layers import layers_with_heads
from interp.answer.maps import coverage
from interp.models._hf import BrokenCheckpoint

CASES = tiny_models.cases()
WHOLE = ("llava", "qwen2_5_vl", "internvl", "qwen3_5")
"""Cases that go through whole studies each time; the others on demand (``-m slow``)."""
every_family = pytest.mark.parametrize("case", CASES)
CLOSE = 1e-5
"""Of rows, and of log-probabilities in nats."""


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


# Where the tokens lie


@every_family
@pytest.mark.parametrize("size", SIZES)
def test_a_marker_in_the_image_moves_the_very_token_that_the_grid_names(case, size, made):
    tried = list(measures.markers(made(case), SIZES[size]))
    assert tried and not [marker for marker in tried if not marker[-1]]


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


@every_family
@pytest.mark.parametrize("query", ["predicting", "self"])
def test_over_the_cache_anew_and_while_generating_the_rows_are_the_same(case, query, made):
    assert max(measures.three_ways(made(case), query)) < CLOSE


@every_family
@pytest.mark.parametrize("query", ["predicting", "self"])
@pytest.mark.parametrize("answers", ["reference", "generated"])
def test_batches_of_unequal_images_texts_and_answers_equal_single_ones(case, query, answers, made):
    assert max(measures.together_and_alone(made(case), query, answers)) < CLOSE


@every_family
def test_rows_are_those_of_eager_attention_and_recording_changes_no_bit(case, made):
    across, same_kernel, bits = measures.from_eager(made(case))
    assert across < CLOSE and same_kernel < 1e-6 and bits


# What is done with it


@every_family
@pytest.mark.parametrize("where", ["answer", "all"])
def test_effects_of_heads_are_those_of_taking_them_away_in_a_whole_pass(case, where, made):
    got, by_hand = measures.effects(made(case), where)
    np.testing.assert_allclose(got, by_hand, atol=2e-5)
    assert np.abs(got).max() > 1e-4


@every_family
def test_a_thing_that_is_knocked_out_is_hidden_in_every_view(case, made):
    lmm, sample = made(case), dog((41, 83))
    found = interp.effects(
        lmm, [sample], {"all": "all"}, "knockout", keys="own", metric="image_mass", draws=1, progress=False
    )
    assert np.isfinite(found.frame.query("measure == 'logprob'")["mean"]).all()
    tokens = interp.capture(lmm, sample.image, PROMPT, ANSWER, phrases=["dog"]).phrases[0].tokens
    plain, rows = measures.logprob(lmm, sample, tokens)
    grid = lmm.grid(sample.image.shape[:2], lmm.inputs([sample.image], [lmm.template(PROMPT)]))
    keys = []
    for view in grid.views:
        cover = coverage(sample.targets[0].mask[None], view)[0].numpy()
        own = view.token_index[(cover >= min(0.5, cover.max())) & (cover > 0)].tolist()
        assert own or view.name.startswith("crop")
        keys += own
    assert int(found.phrases["patches"].iloc[0]) == len(keys)
    with interp.knockout(lmm.model, [rows[t] for t in tokens], keys):
        harm = plain - measures.logprob(lmm, sample, tokens)[0]
    assert found.frame.query("measure == 'logprob'")["mean"].item() == pytest.approx(harm, abs=2e-5)


@pytest.mark.parametrize(
    "case", [case if case in WHOLE else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
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
