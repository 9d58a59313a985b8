"""Null scores are the mean over null masks; maps are sorted once; stored maps come back as they were."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from interp import plugins
from interp.ranking import batch, scoring

NONE = np.full((4, 0), -1)  # no phrase has a partner
METRICS = {name: plugins.get("metrics", name) for name in plugins.names("metrics")}


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    raw = torch.rand(4, 2, 3, 6, 6, generator=generator) ** 4 * 1e-3
    mean = raw.mean((1, 2), keepdim=True)
    masks = (torch.rand(4, 6, 6, generator=generator) > 0.7).float()
    nulls = (torch.rand(4, 5, 6, 6, generator=generator) > 0.7).float()
    nulls[1, 2:] = 0.0
    nulls[2] = 0.0
    return raw, raw - mean, masks, masks.mean(0).expand(4, 6, 6), nulls


def test_null_is_the_mean_over_the_null_masks_that_are_defined(drawn):
    raw, normalised, masks, others, nulls = drawn
    scores = scoring.score_sample(*drawn, NONE, METRICS)
    for name, metric in METRICS.items():
        maps = raw if metric.raw else normalised
        each = np.stack([metric.score(maps, nulls[:, k], others).numpy() for k in range(5)])
        if not metric.uses_mask:
            assert np.isnan(scores[name].null).all()
            continue
        expected = [each[:, 0].mean(0), each[:2, 1].mean(0), each[:, 3].mean(0)]
        np.testing.assert_allclose(scores[name].null[[0, 1, 3]], expected, atol=1e-5)
        assert np.isnan(scores[name].null[2]).all()
        np.testing.assert_allclose(scores[name].values, metric.score(maps, masks, others), atol=1e-6)


def test_a_metric_that_scores_one_mask_at_a_time_scores_as_one_that_scores_them_at_once(drawn):
    """A user's metric has ``score`` alone."""
    partner = np.array([[1, 2], [0, -1], [0, -1], [-1, -1]])
    for name, metric in METRICS.items():
        said = {
            key: getattr(metric, key) for key in ("raw", "uses_mask", "higher_is_better", "limits", "score", "chance")
        }
        plain = scoring.score_sample(*drawn, partner, {name: SimpleNamespace(**said)})[name]
        for ours, theirs in zip(scoring.score_sample(*drawn, partner, {name: metric})[name], plain, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["average_precision", "auc_shuffled", "iou_at_best"])
def test_maps_that_were_written_to_are_sorted_anew(drawn, name):
    """Else a user who changes maps in place gets the scores of the old ones."""
    _, normalised, masks, others, _ = drawn
    maps = normalised.clone()
    before = METRICS[name].score(maps, masks, others)
    maps.copy_(-normalised)
    changed = METRICS[name].score(maps, masks, others)
    assert torch.equal(changed, METRICS[name].score(-normalised, masks, others))
    assert not torch.allclose(before, changed)


def test_sorted_maps_are_let_go_with_the_maps(drawn):
    """Else a long run keeps every batch's maps in memory."""
    from interp.metrics import _region

    held = len(_region._SORTED)
    maps = drawn[1].clone()
    METRICS["average_precision"].score(maps, drawn[2], drawn[3])
    assert len(_region._SORTED) == held + 1
    del maps
    assert len(_region._SORTED) == held


def test_maps_made_in_inference_mode_can_be_scored(drawn):
    _, normalised, masks, others, _ = drawn
    with torch.inference_mode():
        maps = normalised * 1
        scores = METRICS["average_precision"].score(maps, masks, others)
    assert torch.equal(scores, METRICS["average_precision"].score(normalised, masks, others))


def test_stored_maps_keep_their_digits(drawn):
    """Half precision alone would lose attention of 1e-5; a map's own maximum is the unit."""
    raw, normalised, masks, others, nulls = drawn
    raw = raw.clone()
    raw[:2] *= 1e-3
    offset = torch.rand(2, 2, 3, 6, 6) * 1e-4
    normalised = raw - offset[[0, 0, 1, 1]]
    group = batch.Maps([0, 1, 2, 3], [0, 0, 5, 5], raw, normalised, masks, others, nulls)
    back = batch.unpack_group(batch.pack_group(group, 0), 0)
    assert back.rows == group.rows
    top = normalised.abs().amax((-1, -2), keepdim=True)
    assert ((back.normalised - normalised).abs() <= 5e-4 * top).all()
    assert ((back.raw - raw).abs() <= 5e-4 * top + 5e-4 * 1e-4).all()
    assert back.raw.min() >= 0
    assert torch.equal(back.nulls, nulls)


def test_maps_without_normalisation_are_stored_once(drawn):
    raw, _, masks, others, nulls = drawn
    arrays = batch.pack_group(batch.Maps([0, 1, 2, 3], [0, 1, 2, 3], raw, raw, masks, others, nulls), 0)
    assert not any("offset" in name for name in arrays)
    assert torch.equal(batch.unpack_group(arrays, 0).raw, batch.unpack_group(arrays, 0).normalised)
