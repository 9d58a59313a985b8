"""Overlaps of masks and boxes: against plain numpy, and against run lengths that are wrong."""

import numpy as np
import pytest
from evaluation_cases import blobs

from interp.datasets.coco import CocoError
from interp.evaluation import overlap

SIZE = (20, 24)


def test_iou_of_every_pair_equals_counting_pixels():
    rng = np.random.default_rng(0)
    a, b = blobs(rng, 5, SIZE), blobs(rng, 7, SIZE)
    expected = [[(x & y).sum() / (x | y).sum() for y in b] for x in a]
    np.testing.assert_allclose(overlap.pairwise_iou(overlap.to_rles(a), overlap.to_rles(b)), expected, rtol=1e-12)


def test_shared_pixels_equal_counting_pixels():
    rng = np.random.default_rng(1)
    a, b = blobs(rng, 6, SIZE), blobs(rng, 6, SIZE)
    shared, union = overlap.shared_pixels(overlap.to_rles(a), overlap.to_rles(b))
    assert shared.tolist() == (a & b).sum((1, 2)).tolist() and union.tolist() == (a | b).sum((1, 2)).tolist()


def test_two_empty_masks_have_no_iou_and_one_has_none_with_an_object():
    empty, full = np.zeros((1, *SIZE), bool), np.ones((1, *SIZE), bool)
    both = overlap.to_rles(np.concatenate([empty, full]))
    iou = overlap.pairwise_iou(both, overlap.to_rles(empty))
    assert np.isnan(iou[0, 0]) and iou[1, 0] == 0
    assert overlap.pairwise_iou([], both).shape == (0, 2)


def test_run_lengths_survive_the_round_trip_and_wrong_ones_are_named():
    mask = blobs(np.random.default_rng(2), 1, SIZE)[0]
    rle = overlap.to_rles(mask[None])[0]
    assert (overlap.from_rle(rle, SIZE, "x") == mask).all() and overlap.checked(rle, SIZE, "x") == rle
    with pytest.raises(CocoError, match=r"run lengths of prediction 3.*expected"):
        overlap.checked({"size": [20, 24], "counts": [10, 5]}, SIZE, "prediction 3")
    with pytest.raises(CocoError, match="size"):
        overlap.checked(rle, (24, 20), "prediction 3")
    with pytest.raises(CocoError, match="expected COCO's run lengths"):
        overlap.checked("nonsense", SIZE, "prediction 3")


def test_masks_of_another_size_are_refused():
    a, b = overlap.to_rles(np.ones((1, 4, 6), bool)), overlap.to_rles(np.ones((1, 6, 4), bool))
    with pytest.raises(ValueError, match="one size"):
        overlap.pairwise_iou(a, b)
    with pytest.raises(ValueError, match="sizes must agree"):
        overlap.shared_pixels(a, b)
    with pytest.raises(ValueError, match="expected one for each"):
        overlap.shared_pixels(a, [])


def test_boxes_lie_around_the_mask_and_their_iou_is_that_of_filled_boxes():
    rng = np.random.default_rng(3)
    a, b = blobs(rng, 8, SIZE), blobs(rng, 8, SIZE)
    boxes = [overlap.boxes(overlap.to_rles(m)) for m in (a, b)]
    rows, cols = np.nonzero(a[0])
    assert boxes[0][0].tolist() == [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
    expected = [(x & y).sum() / (x | y).sum() for x, y in zip(a, b, strict=True)]  # blobs are boxes
    np.testing.assert_allclose(overlap.box_iou(*boxes), expected, rtol=1e-12)
    none = np.full((1, 4), np.nan)
    assert overlap.box_iou(none, boxes[0][:1])[0] == 0 and np.isnan(overlap.box_iou(boxes[0][:1], none)[0])
