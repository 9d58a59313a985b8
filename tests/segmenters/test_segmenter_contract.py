"""Holds for every file in interp/segmenters: a new segmenter without weights is tested without editing this file."""

import numpy as np
import pytest

from interp import plugins
from interp.contracts import Segmenter
from interp.segmentation.method import Method
from interp.segmentation.prompts import prompts_of
from interp.types import Prompts


@pytest.fixture(params=plugins.names("segmenters"))
def segmenter(request, tiny_segmenter):
    return tiny_segmenter(request.param)


def prompts(hills, **options):
    return prompts_of(hills, Method(**options), (8.0, 8.0))


def test_it_offers_what_the_method_asks_for(segmenter):
    assert isinstance(segmenter, Segmenter)
    assert segmenter.name in plugins.names("segmenters")
    assert segmenter.choice in ("last", "best")


@pytest.mark.parametrize("prompting", ["argmax", "peaks", "box", "mask"])
def test_every_way_to_prompt_gives_masks_of_the_images_size(segmenter, picture, hills, prompting):
    before = picture.copy()
    found = segmenter.propose(segmenter.embed(picture), prompts(hills * 0.0005, prompting=prompting))
    assert found.masks.shape == (5, found.scores.shape[1], 40, 52)
    assert found.masks.dtype == bool
    assert found.masks.any()
    assert np.array_equal(picture, before)


def test_all_phrases_together_get_what_each_gets_alone(segmenter, picture, hills):
    embedded = segmenter.embed(picture)
    together = segmenter.propose(embedded, prompts(hills))
    for i in range(len(hills)):
        alone = segmenter.propose(embedded, prompts(hills[i : i + 1]))
        assert np.array_equal(together.masks[i], alone.masks[0])
        assert np.allclose(together.scores[i], alone.scores[0], atol=1e-5, equal_nan=True)


def test_a_phrase_without_a_prompt_has_empty_masks_and_disturbs_no_other(segmenter, picture, hills):
    embedded = segmenter.embed(picture)
    whole = segmenter.propose(embedded, prompts(hills))
    for worthless in (0.3, float("nan")):
        spoilt = hills.clone()
        spoilt[2] = worthless
        found = segmenter.propose(embedded, prompts(spoilt))
        assert not found.masks[2].any()
        assert np.isnan(found.scores[2]).all()
        others = [0, 1, 3, 4]
        assert np.array_equal(found.masks[others], whole.masks[others])


def test_no_phrases_give_no_masks(segmenter, picture, hills):
    found = segmenter.propose(segmenter.embed(picture), prompts(hills[:0]))
    assert found.masks.shape[0] == found.scores.shape[0] == 0


def test_a_map_over_another_image_is_refused_by_those_that_work_on_maps(tiny_segmenter, picture, hills):
    for name in ("threshold", "random_walker"):
        segmenter = tiny_segmenter(name)
        with pytest.raises(ValueError, match=r"\(40, 50\).*\(40, 52\)"):
            segmenter.propose(segmenter.embed(picture), prompts(hills[:, :, :50]))
        with pytest.raises(ValueError, match="works on the phrases' maps"):
            segmenter.propose(segmenter.embed(picture), Prompts(points=np.zeros((1, 1, 2))))
