"""Overlaps of masks and boxes: against plain numpy, and against run lengths that are wrong."""

import numpy as np
import pytest
from evaluation_cases import blobs, phrase

from interp.datasets.coco import CocoError
from interp.evaluation import overlap, study
from interp.evaluation.result import Found, Record, Truth

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


def test_a_thousand_masks_at_once_are_measured_as_one_by_one():
    masks = np.random.default_rng(3).random((1000, 9, 7)) > np.linspace(0, 1, 1000)[:, None, None]
    rles = overlap.to_rles(masks)
    assert overlap.areas(rles).tolist() == masks.sum((1, 2)).tolist()
    shared, union = overlap.shared_pixels(rles, rles[::-1])
    assert shared.tolist() == (masks & masks[::-1]).sum((1, 2)).tolist()
    assert union.tolist() == (masks | masks[::-1]).sum((1, 2)).tolist()
    found = overlap.boxes(rles)
    assert np.isnan(found[~masks.any((1, 2))]).all() and found[0].tolist() == [0, 0, 7, 9]
    assert overlap.pairwise_iou(rles, rles[:300]).shape == (1000, 300)


@pytest.mark.parametrize("task", ["gcg", "instances", "referring", "narrative"])
def test_a_benchmark_of_a_thousand_images_is_scored_to_its_end(task):
    things = ["cat", "dog", "cow", "hen", "owl"]
    rles = overlap.to_rles(blobs(np.random.default_rng(4), 1000, SIZE))
    records = [
        Record(f"{i}", f"{i}", SIZE, "", (Found(phrase(things[i % 5]), r),), (Truth(things[i % 5], r),), ("a cat",))
        for i, r in enumerate(rles)
    ]
    measures = study.evaluate(task, records).measures.set_index("measure")["value"]
    name = {"gcg": "ap50", "instances": "ap", "referring": "ciou", "narrative": "average_recall"}[task]
    assert measures[name] == pytest.approx(1, abs=1e-4)


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
