"""Holds for every file in interp/metrics: a new metric is tested without editing this file."""

import math

import pytest
import torch

from interp import plugins

P, L, H, ROWS, COLS = 6, 2, 4, 7, 5
OTHER = torch.full((P, ROWS, COLS), 0.2)


@pytest.fixture(params=plugins.names("metrics"))
def metric(request):
    return plugins.get("metrics", request.param)


def draw(metric, seed=0, phrases=P, rows=ROWS, cols=COLS):
    """Random maps as the metric gets them (shares of attention, or signed), and masks with soft edges."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.rand(phrases, L, H, rows, cols, generator=generator) ** 4
    raw = 0.4 * raw / raw.sum((-1, -2), keepdim=True)
    maps = raw if metric.raw else raw - raw.mean((1, 2), keepdim=True)
    masks = torch.zeros(phrases, rows, cols)
    for p in range(phrases):
        masks[p, p % 3 : p % 3 + 3, 1 : 3 + p % 2] = 1.0
        masks[p, p % 3] *= 0.6
    return maps, masks


def others_like(masks):
    return torch.full_like(masks, 0.2)


def test_it_declares_what_the_ranking_needs(metric):
    assert isinstance(metric.higher_is_better, bool)
    assert isinstance(metric.raw, bool)
    assert isinstance(metric.uses_mask, bool)
    low, high = metric.limits
    assert low < high
    assert metric.__doc__


def test_scores_are_finite_in_range_and_one_per_phrase_layer_and_head(metric):
    maps, masks = draw(metric)
    scores = metric.score(maps, masks, OTHER)
    assert scores.shape == (P, L, H)
    assert scores.dtype == torch.float32
    assert torch.isfinite(scores).all()
    assert scores.min() >= metric.limits[0]
    assert scores.max() <= metric.limits[1]


def test_half_precision_maps_score_like_single_precision(metric):
    maps, masks = draw(metric)
    maps = maps.half()
    assert torch.equal(metric.score(maps, masks, OTHER), metric.score(maps.float(), masks, OTHER))


def test_double_precision_is_kept(metric):
    maps, masks = draw(metric)
    scores = metric.score(maps.double(), masks, OTHER)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, metric.score(maps, masks, OTHER).double(), rtol=1e-4, atol=1e-5)


def test_heads_do_not_touch_each_other(metric):
    maps, masks = draw(metric)
    order = torch.tensor([2, 0, 3, 1])
    whole = metric.score(maps, masks, OTHER)
    assert torch.allclose(metric.score(maps[:, :, order], masks, OTHER), whole[:, :, order], atol=1e-6)
    assert torch.allclose(metric.score(maps.flip(1), masks, OTHER), whole.flip(1), atol=1e-6)
    alone = metric.score(maps[2:3, 1:2, 3:4], masks[2:3], OTHER[2:3])
    assert torch.allclose(alone, whole[2:3, 1:2, 3:4], atol=1e-6)


def test_phrases_do_not_touch_each_other(metric):
    maps, masks = draw(metric)
    maps[3], masks[4] = torch.nan, 0.0
    whole = metric.score(maps, masks, OTHER)
    for p in (0, 1, 2, 5):
        one = metric.score(maps[p : p + 1], masks[p : p + 1], OTHER[p : p + 1])
        assert torch.allclose(one[0], whole[p], atol=1e-6)


def test_a_phrase_whose_attention_is_nan_is_undefined(metric):
    maps, masks = draw(metric)
    maps[1, 0, 2, 3, 3] = torch.nan
    scores = metric.score(maps, masks, OTHER)
    assert torch.isnan(scores[1, 0, 2])
    assert torch.isnan(scores).sum() == 1


@pytest.mark.parametrize("count", [0, 1, 9, 40])
def test_masks_scored_together_score_as_each_by_itself(metric, count):
    """Else a score depends on which other masks came with it."""
    if not hasattr(metric, "score_each"):
        pytest.skip("scores one mask at a time")
    maps, masks = draw(metric)
    generator = torch.Generator().manual_seed(1)
    several = (masks[:, None] * torch.rand(P, count, ROWS, COLS, generator=generator) * 1.5).clamp(max=1)
    several[1:, 4:5] = 0.0
    together = metric.score_each(maps, several, OTHER)
    assert together.shape == (P, count, L, H)
    for k in range(count):
        torch.testing.assert_close(
            together[:, k], metric.score(maps, several[:, k], OTHER), rtol=0, atol=0, equal_nan=True
        )


def test_an_empty_mask_is_undefined_not_zero(metric):
    maps, masks = draw(metric)
    empty = metric.score(maps, torch.zeros_like(masks), OTHER)
    if metric.uses_mask:
        assert torch.isnan(empty).all()
        assert torch.isnan(metric.chance(torch.zeros_like(masks))).all()
    else:
        assert torch.equal(empty, metric.score(maps, masks, OTHER))


def test_a_constant_map_is_undefined_where_the_mask_matters(metric):
    maps, masks = draw(metric)
    maps[0], maps[1] = 0.01, 0.0
    scores = metric.score(maps, masks, OTHER)
    if metric.uses_mask:
        assert torch.isnan(scores[:2]).all()
    assert torch.isfinite(scores[2:]).all()


def test_uses_mask_says_the_truth(metric):
    maps, masks = draw(metric)
    differ = not torch.equal(metric.score(maps, masks, OTHER), metric.score(maps, masks.flip(1), OTHER))
    assert differ == metric.uses_mask


def test_a_metric_for_raw_attention_refuses_signed_maps_or_gives_the_same_scale(metric):
    if not metric.raw:
        pytest.skip("takes signed maps")
    maps, masks = draw(metric)
    try:
        scores = metric.score(maps - maps.mean(), masks, OTHER)
    except ValueError as error:
        assert "normalise" in str(error)
    else:
        assert torch.allclose(scores, metric.score(maps, masks, OTHER), atol=1e-5)


def test_no_phrases_give_no_scores(metric):
    maps, masks = draw(metric)
    assert metric.score(maps[:0], masks[:0], OTHER[:0]).shape == (0, L, H)
    assert metric.chance(masks[:0]).shape == (0,)


def test_inputs_are_left_as_they_came(metric):
    maps, masks = draw(metric)
    copies = maps.clone(), masks.clone()
    metric.score(maps, masks, OTHER)
    metric.chance(masks)
    assert torch.equal(maps, copies[0])
    assert torch.equal(masks, copies[1])


def test_chance_is_what_uninformative_maps_score(metric):
    """The mean over random maps must lie within 4.5 standard errors of the promised value."""
    _, masks = draw(metric)
    chance = metric.chance(masks)
    assert chance.shape == (P,)
    if not torch.isfinite(chance).any():
        return
    generator = torch.Generator().manual_seed(5)
    maps = torch.rand(P, 40, 50, ROWS, COLS, generator=generator) ** 3
    scores = metric.score(maps, masks, OTHER).flatten(1)
    error = scores.std(1) / math.sqrt(scores.shape[1])
    assert ((scores.mean(1) - chance).abs() < 4.5 * error + 1e-6).all()


def test_raising_attention_in_the_mask_does_not_make_the_score_worse(metric):
    if not metric.uses_mask:
        pytest.skip("no mask")
    maps, masks = draw(metric)
    better = maps + 0.5 * (masks >= 0.5)[:, None, None]
    sign = 1 if metric.higher_is_better else -1
    gain = sign * (metric.score(better, masks, OTHER) - metric.score(maps, masks, OTHER))
    assert gain.min() >= -1e-5
    assert gain.max() > 0
