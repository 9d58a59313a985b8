"""Every metric against an implementation that shares no code with it, ties included."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from interp import plugins

P, L, H, ROWS, COLS = 5, 2, 3, 6, 8


def draw(seed, ties):
    """Maps (with many equal values if ``ties``), masks with soft edges and weights of the other images' masks."""
    rng = np.random.default_rng(seed)
    maps = rng.random((P, L, H, ROWS, COLS)) ** 3
    if ties:
        maps = np.floor(maps * 6) / 6
    masks = np.clip(rng.random((P, ROWS, COLS)) * 1.6 - 0.6, 0, 1)
    return maps.astype(np.float32), masks.astype(np.float32), rng.random((P, ROWS, COLS)).astype(np.float32)


def by_hand(name, a, cover, other):
    """One map, one mask, in plain numpy, scipy and scikit-learn."""
    inside = cover >= 0.5
    if name == "image_mass":
        return a.astype(float).sum()
    if name == "mass_in_mask":
        return (a.astype(float) * cover).sum() / a.astype(float).sum()
    if name == "pointing_game":
        return inside[a == a.max()].mean()
    if name == "average_precision":
        return average_precision_score(inside.ravel(), a.ravel())
    if name == "iou_at_best":
        thresholds = [-np.inf, *np.unique(a)[:-1]]
        return max(((a > t) & inside).sum() / ((a > t) | inside).sum() for t in thresholds)
    if name == "iou_at_mean":
        above = a > a.astype(float).mean()
        return (above & inside).sum() / (above | inside).sum()
    if name == "nss":
        z = (a.astype(float) - a.astype(float).mean()) / a.astype(float).std()
        return z[inside].mean()
    if name == "auc_shuffled":
        truth = np.r_[np.ones(inside.sum()), np.zeros(a.size)]
        weight = np.r_[np.full(inside.sum(), 1.0), other.ravel()]
        return roc_auc_score(truth, np.r_[a[inside], a.ravel()], sample_weight=weight)
    if name == "spatial_entropy":
        b = np.maximum(a.astype(float) - a.astype(float).mean(), 0)
        labels, n = ndimage.label(b > 0, structure=np.ones((3, 3)))
        share = ndimage.sum(b, labels, range(1, n + 1)) / b.sum()
        return -(share * np.log(share)).sum()
    raise KeyError(name)


NAMES = ["image_mass", "mass_in_mask", "pointing_game", "average_precision", "iou_at_best", "iou_at_mean", "nss"]
NAMES += ["auc_shuffled", "spatial_entropy"]


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("name", NAMES)
def test_equals_an_independent_implementation(name, ties):
    for seed in range(3):
        maps, masks, others = draw(seed, ties)
        scores = plugins.get("metrics", name).score(*map(torch.from_numpy, (maps, masks, others)))
        expected = [
            [[by_hand(name, maps[p, i, h], masks[p], others[p]) for h in range(H)] for i in range(L)] for p in range(P)
        ]
        np.testing.assert_allclose(scores.numpy(), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_attention_of_realistic_size_keeps_its_score(name):
    """Raw attention is about 1e-5 a patch: nothing may drown in rounding."""
    maps, masks, others = draw(3, ties=False)
    score = plugins.get("metrics", name).score
    masks, others = torch.from_numpy(masks), torch.from_numpy(others)
    small = score(torch.from_numpy(maps) * 1e-5, masks, others)
    expected = score(torch.from_numpy(maps), masks, others) * (1e-5 if name == "image_mass" else 1)
    torch.testing.assert_close(small, expected, rtol=1e-4, atol=1e-9 if name == "image_mass" else 1e-4)


def spiral():
    grid = np.zeros((9, 9), dtype=bool)
    grid[0, :], grid[:, 8], grid[8, :], grid[2:, 0] = True, True, True, True
    grid[2, :7], grid[2:7, 6], grid[6, 2:7], grid[4:7, 2], grid[4, 2:5] = True, True, True, True, True
    return grid


def test_components_equal_scipys_labels_on_random_grids_and_on_a_spiral():
    from interp.metrics.spatial_entropy import components, spreading

    rng = np.random.default_rng(0)
    grids = rng.random((200, 9, 9)) < rng.uniform(0.1, 0.7, (200, 1, 1))
    grids = np.concatenate([grids, spiral()[None], np.zeros((1, 9, 9), bool), np.ones((1, 9, 9), bool)])
    found = components(torch.from_numpy(grids)).numpy()
    assert np.array_equal(found, spreading(torch.from_numpy(grids)).numpy())  # as on a GPU
    for grid, labels in zip(grids, found, strict=True):
        expected, n = ndimage.label(grid, structure=np.ones((3, 3)))
        pairs = set(zip(expected.ravel().tolist(), labels.ravel().tolist(), strict=True))
        assert len(pairs) == n + (not grid.all())  # one label of ours for each of theirs
        assert len({ours for _, ours in pairs}) == len(pairs)
        assert ((labels > 0) == grid).all()


def test_spatial_entropy_of_two_equal_blobs_is_log_two():
    a = torch.zeros(1, 1, 2, 5, 5)
    a[0, 0, 0, 0, 0] = a[0, 0, 0, 4, 4] = 1.0
    a[0, 0, 1, 0, 0] = a[0, 0, 1, 1, 1] = 1.0  # touching by a corner: one component
    scores = plugins.get("metrics", "spatial_entropy").score(a, torch.ones(1, 5, 5), torch.ones(1, 5, 5))
    np.testing.assert_allclose(scores.numpy().ravel(), [np.log(2), 0.0], atol=1e-6)


def test_shuffled_auc_gives_a_centre_blob_one_half_where_objects_lie_in_the_centre():
    """The same map scores well by plain average precision: the bias that shuffled AUC takes away."""
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[:12, :12]
    masks = np.zeros((400, 12, 12), dtype=np.float32)
    for mask in masks:
        r, c = np.clip(rng.normal(5, 1.5, 2).round().astype(int), 0, 10)
        mask[r : r + 2, c : c + 2] = 1
    blob = np.exp(-((rows - 5.5) ** 2 + (cols - 5.5) ** 2) / 18).astype(np.float32)
    maps = torch.from_numpy(np.broadcast_to(blob, (400, 1, 1, 12, 12)).copy())
    others = np.broadcast_to(masks.mean(0), masks.shape).copy()
    arguments = maps, torch.from_numpy(masks), torch.from_numpy(others)
    assert abs(plugins.get("metrics", "auc_shuffled").score(*arguments).mean().item() - 0.5) < 0.005
    precision = plugins.get("metrics", "average_precision")
    assert precision.score(*arguments).mean() > 3 * precision.chance(arguments[1]).mean()


def test_pointing_game_shares_a_tie_between_inside_and_outside():
    a = torch.zeros(1, 1, 1, 2, 2)
    a[..., 0, 0] = a[..., 1, 1] = 1.0
    mask = torch.tensor([[[1.0, 0.0], [0.0, 0.49]]])
    assert plugins.get("metrics", "pointing_game").score(a, mask, mask).item() == 0.5


def test_a_mask_that_covers_no_patch_by_half_is_undefined_except_for_mass():
    a, mask = torch.rand(1, 1, 1, 4, 4), torch.full((1, 4, 4), 0.4)
    assert torch.isnan(plugins.get("metrics", "pointing_game").score(a, mask, mask)).all()
    assert plugins.get("metrics", "mass_in_mask").score(a, mask, mask).item() == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["image_mass", "mass_in_mask"])
def test_normalised_maps_are_refused_where_mass_is_meant(name):
    a, mask = torch.randn(1, 1, 1, 4, 4), torch.ones(1, 4, 4)
    with pytest.raises(ValueError, match="normalise='none'"):
        plugins.get("metrics", name).score(a, mask, mask)
