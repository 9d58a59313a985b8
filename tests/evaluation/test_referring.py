"""Referring expressions: sums over pixels, by hand."""

import numpy as np
import pytest
from evaluation_cases import blobs

from interp.evaluation import referring
from interp.evaluation.overlap import to_rles

SIZE = (20, 24)


def test_the_four_measures_equal_counting_pixels(make_record):
    rng = np.random.default_rng(0)
    pairs = [(blobs(rng, 1, SIZE)[0], blobs(rng, 1, SIZE)[0]) for _ in range(30)]
    pairs += [(t, np.roll(t, 1, 0)) for _, t in pairs[:10]]
    records = [
        make_record([("it", a)], [("it", b)], sample_id=str(i), image_id=str(i // 3)) for i, (a, b) in enumerate(pairs)
    ]
    measures = referring.evaluate(records).measures.set_index("measure")
    shared = np.array([(a & b).sum() for a, b in pairs])
    union = np.array([(a | b).sum() for a, b in pairs])
    assert measures.loc["ciou", "value"] == pytest.approx(shared.sum() / union.sum())
    assert measures.loc["giou", "value"] == pytest.approx((shared / union).mean())
    assert measures.loc["precision@0.5", "value"] == pytest.approx((shared / union >= 0.5).mean())
    assert (measures["low"] <= measures["value"]).all() and (measures["value"] <= measures["high"]).all()
    filled = []
    for a, b in pairs:  # boxes as masks
        boxes = [np.zeros(SIZE, bool) for _ in range(2)]
        for box, mask in zip(boxes, (a, b), strict=True):
            rows, cols = np.nonzero(mask)
            box[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1] = True
        filled.append((boxes[0] & boxes[1]).sum() / (boxes[0] | boxes[1]).sum())
    assert measures.loc["box_accuracy@0.5", "value"] == pytest.approx(np.mean(np.array(filled) >= 0.5))


def test_the_data_sets_own_box_is_taken_and_a_miss_counts_as_zero(make_record):
    mask = np.zeros(SIZE, bool)
    mask[2:6, 2:6] = True
    elsewhere = make_record([("it", mask)], [("it", mask, {"box": (12.0, 12.0, 20.0, 18.0)})], sample_id="1")
    missed = make_record([], [("it", mask)], sample_id="2", failed="empty answer")
    result = referring.evaluate([elsewhere, missed])
    assert result.samples["box_iou"].tolist() == [0, 0] and result.samples["iou"].tolist() == [1, 0]
    assert result.measures.set_index("measure").loc["ciou", "value"] == pytest.approx(0.5)


def test_an_empty_true_mask_is_undefined_and_left_out():
    masks = to_rles(np.stack([np.zeros(SIZE, bool), np.ones(SIZE, bool)]))
    table = referring.compare([masks[1], masks[1]], masks)
    assert np.isnan(table["iou"][0]) and table["iou"][1] == 1
    measures = referring.measures(table.assign(image_id=["1", "2"]))
    assert {m.measure: m.n for m in measures}["giou"] == 1


def test_samples_with_several_targets_are_refused(make_record):
    mask = np.ones(SIZE, bool)
    with pytest.raises(ValueError, match="has 2 targets"):
        referring.evaluate([make_record([], [("a", mask), ("b", mask)])])
