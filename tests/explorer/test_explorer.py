"""The explorer's contents: the page has the numbers that the toolkit has elsewhere, and asks nothing of a network."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import interp
from interp.answer.maps import phrase_maps
from interp.explorer import packing, page
from interp.explorer.contents import TooLarge, contents
from interp.explorer.shown import Recording, Shown
from interp.metrics import image_mass, pointing_game
from interp.ranking.batch import Plan
from interp.ranking.measure import score_batch
from interp.statistics.nulls import MaskPool
from interp.types import Head, PatchGrid, Phrase, Sample, Target

ONE_WAY = [("predicting", "attention")]


@pytest.fixture(scope="module")
def mini():
    return interp.load("mini-llava")


@pytest.fixture(scope="module")
def scene():
    from interp.datasets import scenes

    return scenes.sample("test", 0)


def read(panel, way, unit):
    """Maps of one unit as the page reads them: (head, patch)."""
    rows, cols = panel["grid"]
    return packing.unpacked(panel["ways"][way]["maps"][unit], rows * cols)


def scores(panel, way, name):
    values = np.frombuffer(packing.bytes_of(panel["ways"][way]["scores"][name]), np.float32)
    return values.reshape(len(panel["units"]), -1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**31), st.floats(1e-6, 1e6))
def test_a_map_on_the_page_is_the_map_but_for_a_510th_of_its_range(maps, patches, seed, scale):
    came = (np.random.default_rng(seed).standard_normal((maps, patches)) * scale).astype(np.float32)
    back = packing.unpacked(packing.packed(came), patches)
    bound = (came.max(1) - came.min(1))[:, None] / 509 + 1e-6 * np.abs(came).max()
    assert (np.abs(back - came) <= bound).all()


def test_the_page_shows_the_maps_that_phrase_maps_gives(mini, scene):
    made = interp.explore(mini, scene, ways=ONE_WAY)
    (panel,) = made.contents["panels"]
    found = interp.capture(mini, scene.image, scene.prompt, scene.answer)
    for way, how in ((0, "answer"), (1, "none")):
        assert panel["ways"][way]["normalise"] == how
        for i, maps in enumerate(phrase_maps(found, how).maps):
            wanted = maps.flatten(0, 1).flatten(1).numpy()
            reach = (wanted.max(1) - wanted.min(1))[:, None] / 509
            assert (np.abs(read(panel, way, i) - wanted) <= reach + 1e-7).all()


def test_a_word_has_the_scores_and_the_specificity_that_ranking_gives_it(mini, scene):
    (panel,) = interp.explore(mini, scene, ways=ONE_WAY).contents["panels"]
    metrics = {"pointing_game": pointing_game, "image_mass": image_mass}
    plan = Plan(mini, metrics, MaskPool.of([scene]), "reference", "answer", "predicting", 0, 0, 128)
    ranked = score_batch(plan, [scene])
    named = [int(i) for i in panel["masks"]]
    for shown, part in (
        ("pointing_game", "heads.pointing_game.values"),
        ("specificity of pointing_game", "heads.pointing_game.specificity"),
        ("image_mass", "heads.image_mass.values"),
    ):
        wanted = ranked[part].reshape(len(named), -1)
        assert np.isfinite(wanted).any()
        np.testing.assert_allclose(scores(panel, 0, shown)[named], wanted, atol=1e-6)


def test_without_masks_there_is_no_score_that_needs_one(tiny_lmm, photo):
    (panel,) = interp.explore(tiny_lmm, photo, "What is it?", "A dog on a chair.", ways=ONE_WAY).contents["panels"]
    assert set(panel["ways"][0]["scores"]) == {"image_mass", "spatial_entropy"}
    assert panel["masks"] == {}


def test_every_token_can_be_clicked_and_every_phrase(tiny_lmm, photo):
    (panel,) = interp.explore(tiny_lmm, photo, "What is it?", "A dog on a chair.").contents["panels"]
    assert {t for unit in panel["units"] for t in unit["tokens"]} == set(range(len(panel["tokens"])))
    assert [u["text"] for u in panel["units"] if u["phrase"]] == ["A dog", "a chair"]


def test_all_four_ways_are_those_that_capture_gives(tiny_lmm, photo):
    (panel,) = interp.explore(tiny_lmm, photo, "What is it?", "A dog on a chair.").contents["panels"]
    kinds = [(w["query"], w["weighting"], w["normalise"]) for w in panel["ways"]]
    assert len(set(kinds)) == 8
    for way, (query, weighting, how) in enumerate(kinds):
        asked = {"query": query, "weighting": weighting}
        found = interp.capture(tiny_lmm, photo, "What is it?", "A dog on a chair.", **asked)
        wanted = phrase_maps(found, how).maps[0].flatten(0, 1).flatten(1).numpy()
        np.testing.assert_allclose(read(panel, way, 0), wanted, atol=np.ptp(wanted) / 500)


def test_a_series_has_a_panel_for_each_checkpoint_with_its_own_maps(scene):
    series = interp.series("mini-llava")
    ends = [series.points[0].step, series.points[-1].step]
    made = interp.explore(series, scene, ways=ONE_WAY, steps=ends, progress=False)
    assert [panel["step"] for panel in made.contents["panels"]] == ends
    lmm = series.load()
    with series.swap(lmm) as swap:
        for point in swap:
            if point.step in ends:
                found = phrase_maps(interp.capture(lmm, scene.image, scene.prompt, scene.answer)).maps[0]
                panel = made.contents["panels"][point.step > 0]
                wanted = found.flatten(0, 1).flatten(1).numpy()
                np.testing.assert_allclose(read(panel, 0, 0), wanted, atol=np.ptp(wanted) / 500)
    with pytest.raises(ValueError, match=r"steps .7. are not all there; sound checkpoints of mini-llava: 0, 32"):
        interp.explore(series, scene, steps=[7], progress=False)


def test_captures_are_shown_over_their_images_and_one_without_is_refused(tiny_lmm, photo):
    found = interp.capture(tiny_lmm, photo, "What is it?", "A dog.")
    made = interp.explore([found, replace(found, sample_id="again")], photo)
    assert [panel["title"] for panel in made.contents["panels"]][1].startswith("again")
    with pytest.raises(ValueError, match=r"1 captures need the image that they were made of"):
        interp.explore(found)
    with pytest.raises(ValueError, match=r"2 captures need the image.*got 3"):
        interp.explore([found, found], [photo] * 3)


@pytest.mark.parametrize("source", [None, 7, [], [7]])
def test_what_cannot_be_explored_is_named_with_what_can(source, photo):
    with pytest.raises(ValueError, match=r"cannot explore .*; expected LMMs .*, a Series, or Captures"):
        interp.explore(source, photo, "What is it?")


def test_a_model_without_an_image_or_prompt_is_told_what_it_needs(tiny_lmm, photo):
    with pytest.raises(ValueError, match="a model needs an image and a prompt"):
        interp.explore(tiny_lmm, photo)


def wide(layers=32, heads=32, side=24, words=12, ways=1):
    """A view as large as a 7B model's: attention as peaked as real rows are."""
    generator = torch.Generator().manual_seed(0)
    maps = (torch.randn(words, layers, heads, side, side, generator=generator) * 2).flatten(-2).softmax(-1)
    maps = maps.unflatten(-1, (side, side))
    phrases = tuple(Phrase(f"a word {i}", f"word{i}", f"word{i}", 2, 6, (i,)) for i in range(words))
    grid = PatchGrid(np.arange(side * side).reshape(side, side), (0.0, 0.0, 336.0, 336.0))
    normalised = maps - maps.mean(0, keepdim=True)
    some = [Recording(f"way {i}", "attention", {"answer": normalised, "none": maps}) for i in range(ways)]
    numbers = tuple(range(layers))
    image = np.zeros((336, 336, 3), dtype=np.uint8)
    tokens = tuple(f"▁word{i}" for i in range(words))
    return Shown("wide", image, "What?", " ".join(tokens), tokens, phrases, words, grid, numbers, some)


def test_twelve_words_of_a_7b_model_fit_on_a_page_of_15_megabytes():
    made = contents([wide()], {"image_mass": image_mass}, "all", 15_000_000)
    assert len(page.whole(made, "wide")) < 15_000_000


def test_what_is_too_large_asks_which_words_or_heads():
    with pytest.raises(TooLarge, match=r"12 words x 1024 heads .*MB a word.*words=.*heads=.*limit="):
        contents([wide()], {}, "all", 1_000_000)
    few = contents([wide()], {}, [Head(31, 2), Head(0, 1)], 1_000_000)
    assert few["panels"][0]["shown"] == [31 * 32 + 2, 1] and few["bytes"] < 1_000_000


def test_ways_that_do_not_fit_are_left_out_last_first_and_named():
    view = wide(layers=2, heads=4, words=2, ways=3)
    whole = contents([view], {}, "all", 10**9)
    cut = contents([view], {}, "all", whole["bytes"] * 2 // 3 + 10)
    assert cut["left_out"] == ["way 2 rows of attention"]
    assert [way["query"] for way in cut["panels"][0]["ways"]] == ["way 0", "way 0", "way 1", "way 1"]


def test_the_page_lets_nothing_in_and_its_policy_knows_its_own_script_and_style(tiny_lmm, photo):
    text = interp.explore(tiny_lmm, photo, "What is it?", "A dog.").html("</title><script>alert(1)</script>")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    script = re.search(r'<script type="module">(.*?)</script>', text, re.S)[1]
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    assert page.digest(script) in policy and page.digest(style) in policy
    assert "<script>alert" not in text
    assert not re.search(r"https?://|@import|url\(", text)


def test_an_answer_that_holds_markup_stays_text():
    made = wide(layers=1, heads=1, side=2, words=1)
    made = replace(made, answer="</script><!-- &", tokens=("</script>",), title="</script>")
    text = page.whole(contents([made], {}, "all", 10**6), "t")
    assert text.count("</script>") == 2  # the data's end and the module's
    held = re.search(r'id="contents">(.*?)</script>', text, re.S)[1]
    assert json.loads(held)["panels"][0]["answer"] == "</script><!-- &"


def test_a_map_that_is_not_a_number_is_no_number_on_the_page_either():
    view = wide(layers=1, heads=2, side=2, words=1)
    view.recordings[0].maps["none"][0, 0, 1] = torch.nan
    made = contents([view], {"image_mass": image_mass}, "all", 10**6)
    json.dumps(made, allow_nan=False)
    assert np.isnan(read(made["panels"][0], 1, 0)[1]).all()


def test_peaks_are_the_masks_that_the_segmenter_gives_for_each_patch(mini, scene):
    from interp.segmentation.proposals import chosen_mask
    from interp.types import Prompts

    segmenter = interp.load_segmenter("mini-sam")
    (panel,) = interp.explore(mini, scene, ways=ONE_WAY, segmenter=segmenter).contents["panels"]
    high, wide_ = panel["mask_size"]
    bits = np.frombuffer(packing.bytes_of(panel["peaks"]), np.uint8).reshape(144, -1)
    shown = np.unpackbits(bits, axis=1)[:, : high * wide_].reshape(144, high, wide_).astype(bool)
    for patch in (0, 77, 143):
        row, col = divmod(patch, 12)
        point = np.array([[[col * 16 + 8.0, row * 16 + 8.0]]])
        proposals = segmenter.propose(segmenter.embed(scene.image), Prompts(points=point))
        assert (shown[patch] == proposals.masks[0, chosen_mask(proposals, segmenter.choice)[0]]).mean() > 0.999


def test_a_segmenter_of_maps_is_refused_with_one_that_takes_points(mini, scene):
    with pytest.raises(ValueError, match="works on the phrases' maps"):
        interp.explore(mini, scene, ways=ONE_WAY, segmenter="threshold")


def test_picked_heads_come_back_to_the_notebook(tiny_lmm, photo):
    pytest.importorskip("anywidget")
    made = interp.explore(tiny_lmm, photo, "What is it?", "A dog.")
    assert made.heads == ()
    made.widget.picked = [[2, 1], [0, 3]]
    assert made.heads == (Head(2, 1), Head(0, 3))
    assert repr(made) == "Explorer(1 panels, 1 phrases, 12 heads, 0.0 MB)"


def test_mask_over_two_things_and_an_unnamed_word(tiny_lmm, photo):
    mask = np.zeros(photo.shape[:2], bool)
    mask[:20] = True
    sample = Sample("s", photo, "What is it?", "A dog on a chair.", (Target("dog", mask), Target("dog", ~mask)))
    (panel,) = interp.explore(tiny_lmm, sample, ways=ONE_WAY).contents["panels"]
    assert list(panel["masks"]) == ["0"]  # the chair has none
    bits = np.unpackbits(np.frombuffer(packing.bytes_of(panel["masks"]["0"]), np.uint8))
    assert bits[: mask.size].all()  # "a dog" names both


def test_the_words_of_samples_are_those_that_a_ranking_takes_in_every_form(tiny_lmm, scene):
    def shown(words):
        made = interp.explore(tiny_lmm, scene, words=words, ways=ONE_WAY, progress=False)
        return [unit["text"] for unit in made.contents["panels"][0]["units"] if unit["phrase"]]

    named = [target.phrase for target in scene.targets]
    assert shown("targets") == shown(lambda sample: [t.phrase for t in sample.targets]) == named
    assert shown(["cup"]) == ["cup"] and shown(None)[1].startswith("a ")
