"""Own words, own metrics and maps from elsewhere, against the run that needs none of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from interp.datasets import scenes
from interp.metrics import mass_in_mask
from interp.ranking.asked import words_of
from interp.types import Sample, Target
from interp.work.store import Memory

WORDS = ("frog", "cup", "bear")


@pytest.fixture(scope="module")
def lmm():
    return interp.load("mini-llava")


def mass(maps, masks):
    """Share of the map in the mask."""
    return (maps * masks[:, None, None]).sum((-1, -2)) / maps.sum((-1, -2))


mass.raw = True


def test_a_metric_of_ones_own_gets_the_nulls_intervals_halves_and_specificity_of_the_shipped_one(lmm):
    found = interp.rank(lmm, scenes.load(samples=4), ["mass_in_mask", mass], progress=False)
    shipped, own = found.scores["mass_in_mask"], found.scores["mass"]
    for part in ("values", "null", "specificity"):
        np.testing.assert_allclose(getattr(own, part), getattr(shipped, part), atol=1e-5)
    columns = ["mean", "low", "high", "null", "specificity", "specificity_low", "p_specific", "half_a", "half_b"]
    both = [found.heads.query("metric == @name")[columns].to_numpy() for name in ("mass_in_mask", "mass")]
    np.testing.assert_allclose(*both, atol=1e-4)


def test_words_of_ones_own_are_scored_on_masks_of_ones_own(lmm):
    """Whatever is red in the image for the word "red", which no noun phrase ends in."""
    scene = scenes.sample("test", 0)
    red = np.zeros(scene.image.shape[:2], bool)
    red[:60, :60] = True
    own = Sample("1", scene.image, scene.prompt, "A red frog and a cup.", targets={"red": red, "cup": ~red})
    found = interp.rank(lmm, [own], ["mass_in_mask"], phrases=["red", "cup", "zebra"], progress=False)
    assert found.scores["mass_in_mask"].phrases == ("red", "cup")
    capture = interp.capture(lmm, own.image, own.prompt, own.answer, phrases=["red", "cup"])
    maps = capture.maps("none")
    covered = torch.stack([interp.answer.maps.coverage(m[None], maps.grid)[0] for m in (red, ~red)])
    expected = mass_in_mask.score(maps.maps, covered, covered)
    np.testing.assert_allclose(found.scores["mass_in_mask"].values, expected.numpy(), atol=1e-5)
    by_name = interp.rank(lmm, [own], ["mass_in_mask"], phrases="targets", progress=False)
    assert set(by_name.scores["mass_in_mask"].phrases) == {"red", "cup"}


def test_what_is_stored_is_not_taken_for_other_words_or_another_metrics_code(lmm, tmp_path):
    store, keys = Memory(), []
    (tmp_path / "own.py").write_text("")
    for factor, phrases in ((1, None), (2, None), (1, "targets"), (1, WORDS), (1, lambda sample: ["frog", "cup"])):
        text = "higher_is_better, raw, uses_mask, limits = True, True, True, (0.0, 2.0)\n"
        text += f"def score(maps, masks, others):\n    return maps.sum((-1, -2)) * {factor}\n"
        text += "def chance(masks):\n    return masks.sum((-1, -2))\n"
        (tmp_path / "own.py").write_text(text)
        scene = scenes.sample("test", 0)
        found = interp.rank(lmm, [scene], [tmp_path / "own.py"], phrases=phrases, store=store, progress=False)
        keys.append(len(store.entries))
        assert found.scores["own"].values.max() <= factor
    assert keys == [2, 4, 6, 8, 10]  # scores and maps of each


@pytest.mark.parametrize("given", [[], "", ["  "]])
def test_words_that_are_none_are_refused(given):
    with pytest.raises(ValueError, match="expected words, 'targets', or a function"):
        words_of(given)


def test_maps_from_elsewhere_rank_as_the_same_maps_do_in_a_run(lmm):
    data, maps, masks, words, images, tokens = [], [], [], [], [], []
    for sample in scenes.load(samples=6):
        own = interp.capture(lmm, sample.image, sample.prompt, sample.answer).maps("none")
        matched = [
            (own.phrases[i], mask) for i, mask in interp.answer.targets.match_targets(own.phrases, sample.targets)
        ]
        # the nulls are drawn among the masks of what is named, so nothing else may be in the run's data set
        data.append(replace(sample, targets=tuple(Target(phrase.root, mask) for phrase, mask in matched)))
        for phrase, mask in matched:
            maps.append(own[phrase])
            masks.append(mask)
            words.append(phrase.text)
            images.append(sample.id)
            tokens.append(len(phrase.tokens))
    ran = interp.rank(lmm, data, ["pointing_game", "mass_in_mask"], normalise="none", progress=False)
    found = interp.score(maps, masks, words, images, ["pointing_game", "mass_in_mask"], tokens=tokens)
    for name in ("pointing_game", "mass_in_mask"):
        for part in ("values", "null", "specificity", "chance"):
            ours, theirs = getattr(found.scores[name], part), getattr(ran.scores[name], part)
            np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=f"{name} {part}")
    columns = ["mean", "low", "high", "p_corrected", "specificity", "p_specific", "rank"]
    np.testing.assert_allclose(found.heads[columns], ran.heads[columns], atol=1e-4)
    assert "mean of" not in repr(found) and found.plot()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"words": ["a"]}, "2 maps, 2 masks, 1 words"),
        ({"maps": torch.rand(2, 2, 3, 3)}, r"expected \(layer, head, row, col\)"),
        ({"maps": torch.full((2, 1, 2, 3, 3), torch.nan)}, "NaN or infinity"),
        ({"maps": [torch.rand(1, 2, 3, 3), torch.rand(2, 2, 3, 3)]}, "as many layers and heads"),
        ({"maps": [torch.rand(1, 2, 3, 3), torch.rand(1, 2, 4, 3)]}, "differ in rows and columns"),
        ({"masks": [np.ones((4, 4), bool), np.ones((4, 5), bool)]}, "expected one size"),
    ],
)
def test_maps_masks_and_words_that_do_not_go_together_are_named(change, said):
    given = {"maps": torch.rand(2, 1, 2, 3, 3), "masks": [np.eye(6) > 0] * 2, "words": ["a", "b"], "images": ["1"] * 2}
    with pytest.raises(ValueError, match=said):
        interp.score(**{**given, **change})


def test_a_model_is_taken_as_a_user_has_it(lmm):
    scene = scenes.sample("test", 0)
    for given in ((lmm.model, lmm.processor), "mini-llava"):
        found = interp.rank(given, [scene], ["image_mass"], progress=False)
        assert np.isfinite(found.scores["image_mass"].values).all()
    with pytest.raises(ValueError, match="has no processor"):
        interp.rank(torch.nn.Linear(1, 1), [scene], ["image_mass"], progress=False)
