"""The mask-free ranking finds heads that look at the image in one blob, whatever the order of the heads."""

import numpy as np
import pytest
import torch

from interp import plugins
from interp.ranking.localization import above_elbow, above_elbow_as_published, mask_free


def test_elbow_by_hand():
    """Sorted 1 1 1 2 10: the chord is 1 3.25 5.5 7.75 10, farthest below it is the fourth point (5.75)."""
    assert above_elbow(np.array([[10.0, 1.0, 2.0, 1.0, 1.0]])).tolist() == [[True, False, True, False, False]]


def test_elbow_does_not_depend_on_how_heads_are_numbered():
    rng = np.random.default_rng(0)
    sums = rng.gamma(0.5, size=(50, 32))
    order = rng.permutation(32)
    assert (above_elbow(sums[:, order]) == above_elbow(sums)[:, order]).all()


def test_elbow_equals_the_perpendicular_distance_computed_by_hand():
    rng = np.random.default_rng(1)
    for sums in rng.gamma(0.7, size=(30, 20)):
        y = np.sort(sums)
        points = np.stack([np.arange(20.0), y], 1)
        a, b = points[0], points[-1]
        area = (b - a)[0] * (points - a)[:, 1] - (b - a)[1] * (points - a)[:, 0]
        expected = sums >= y[np.abs(area / np.linalg.norm(b - a)).argmax()]
        assert (above_elbow(sums[None])[0] == expected).all()


def test_the_published_threshold_by_hand_shows_that_it_depends_on_the_heads_numbers():
    """Sorted 1 1 1 2 10: the elbow is the head with 2. It is number 2, so that heads 2, 3 and 4 are kept."""
    sums = np.array([[10.0, 1.0, 2.0, 1.0, 1.0]])
    assert above_elbow_as_published(sums).tolist() == [[False, False, True, True, True]]
    assert above_elbow_as_published(sums[:, [2, 0, 1, 3, 4]]).all()  # the same head as number 0: all are kept
    assert above_elbow(sums[:, [2, 0, 1, 3, 4]]).tolist() == [[True, True, False, False, False]]
    assert not above_elbow_as_published(np.full((1, 3), np.nan)).any()


def test_the_ranking_as_published_can_be_put_beside_the_papers():
    mass = np.array([[[0.9, 0.8, 0.1, 0.05, 0.0]], [[0.1, 0.9, 0.8, 0.05, 0.0]]])
    entropy = np.array([[[0.5, 0.1, 0.9, 0.0, 0.0]], [[0.9, 0.3, 0.2, 0.0, 0.0]]])
    paper, published = (
        mask_free(mass, entropy, top=1, published=p).set_index("head").frequency.to_dict() for p in (False, True)
    )
    assert paper == {0: 0.0, 1: 0.5, 2: 0.5, 3: 0.0, 4: 0.0}
    # the elbows are head 2 (0.1) and head 0 (0.1): heads from 2 on, and all; the least entropy and more mass is head 3
    assert published == {0: 0.0, 1: 0.0, 2: 0.0, 3: 1.0, 4: 0.0}


def test_equal_or_undefined_sums():
    assert above_elbow(np.full((1, 4), 0.3)).all()
    assert above_elbow(np.array([[0.1, np.nan, 0.9]])).tolist()[0][1] is False
    assert not above_elbow(np.full((2, 3), np.nan)).any()


def test_frequency_by_hand():
    """Five heads, two phrases, one place: the least entropy among the three that look at the image enough."""
    mass = np.array([[[0.9, 0.8, 0.1, 0.05, 0.0]], [[0.1, 0.9, 0.8, 0.05, 0.0]]])
    entropy = np.array([[[0.5, 0.1, 0.9, 0.0, 0.0]], [[0.9, 0.3, 0.2, 0.0, 0.0]]])
    frame = mask_free(mass, entropy, top=1).set_index(["layer", "head"])
    assert frame.frequency.to_dict() == {(0, 0): 0.0, (0, 1): 0.5, (0, 2): 0.5, (0, 3): 0.0, (0, 4): 0.0}
    assert frame.loc[(0, 1), "rank"] == 1  # equal frequency: less entropy first
    assert frame.loc[(0, 1), "image_mass"] == pytest.approx(0.85)


def test_a_head_with_one_blob_on_the_image_comes_first():
    """20 phrases, 2 x 6 heads: all look somewhere, three look at the image much, one of them in one blob."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(20, 2, 6, 8, 8, generator=generator) ** 6
    maps[:, 1, 4] = 0
    for p in range(20):
        maps[p, 1, 4, p % 6 : p % 6 + 2, 2:5] = 1
    share = torch.full((2, 6), 0.02)
    share[1, 4], share[0, 1], share[0, 5] = 0.5, 0.5, 0.6
    maps = maps / maps.sum((-1, -2), keepdim=True) * share[..., None, None]
    masks = torch.ones(20, 8, 8)
    mass, entropy = (
        plugins.get("metrics", name).score(maps, masks, masks).numpy() for name in ("image_mass", "spatial_entropy")
    )
    frame = mask_free(mass, entropy, top=1)
    assert frame.columns.tolist() == ["layer", "head", "frequency", "image_mass", "entropy", "rank"]
    assert frame.loc[0, ["layer", "head", "frequency"]].tolist() == [1, 4, 1.0]
    assert frame.frequency.sum() == 1.0
    assert mask_free(mass, entropy, top=3).frequency.sum() == pytest.approx(3.0)


def test_first_layers_can_be_left_out():
    mass, entropy = np.ones((3, 4, 2)), np.zeros((3, 4, 2))
    frame = mask_free(mass, entropy, first_layer=2)
    assert (frame[frame.layer < 2].frequency == 0).all()
    assert (frame[frame.layer >= 2].frequency == 1).all()


def test_undefined_entropy_is_never_selected_and_nothing_gives_nan():
    entropy = np.full((2, 1, 2), np.nan)
    entropy[:, :, 0] = 1.0
    frame = mask_free(np.ones((2, 1, 2)), entropy).set_index("head")
    assert frame.frequency.to_dict() == {0: 1.0, 1: 0.0}
    assert mask_free(np.ones((0, 1, 2)), np.ones((0, 1, 2))).frequency.isna().all()


def test_no_place_is_refused():
    with pytest.raises(ValueError, match="top=0"):
        mask_free(np.ones((2, 1, 2)), np.ones((2, 1, 2)), top=0)
