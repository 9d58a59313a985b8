"""Narratives: the area under the recall curve against a plain sum, and against the mean IoU that it must be."""

import numpy as np
import pytest

from interp.evaluation import narrative

SIZE = (20, 24)


def test_average_recall_is_the_released_sum_and_nearly_the_mean_iou():
    ious = np.random.default_rng(0).random(37)
    ious[:4] = [0, 0, 1, 0.5]
    thresholds = np.arange(0, 1, 1e-5)
    recall = np.array([(ious >= t).sum() / len(ious) for t in thresholds])
    summed = sum((b - a) * r for a, b, r in zip(thresholds[:-1], thresholds[1:], recall[:-1], strict=True))
    assert narrative.average_recall(ious) == pytest.approx(summed, abs=1e-10)
    assert narrative.average_recall(ious) == pytest.approx(ious.mean(), abs=1e-5)


def test_the_curve_counts_phrases_at_and_above_each_threshold():
    curve = narrative.recall_curve(np.array([0.2, 0.5, 0.9, np.nan]), np.array([0.0, 0.5, 0.51, 1.0]))
    np.testing.assert_allclose(curve, [1, 2 / 3, 1 / 3, 0])
    assert np.isnan(narrative.recall_curve(np.zeros(0), np.zeros(2))).all()


def test_kinds_of_phrases_are_scored_apart_and_what_is_not_said_is_nan(make_record):
    full, half = np.ones(SIZE, bool), np.zeros(SIZE, bool)
    half[:10] = True
    kinds = [{"thing": True, "plural": True}, {"thing": False, "plural": False}]
    first = make_record([("dogs", full), ("sky", half)], [("dogs", full, kinds[0]), ("sky", full, kinds[1])])
    missed = make_record([], [("dogs", full, kinds[0])], sample_id="2", failed="no attention")
    value = narrative.evaluate([first, missed]).measures.set_index("measure")["value"]
    assert value["average_recall"] == pytest.approx(0.5, abs=2e-5)
    assert value["average_recall_things"] == value["average_recall_plural"] == pytest.approx(0.5, abs=2e-5)
    assert value["average_recall_stuff"] == value["average_recall_singular"] == pytest.approx(0.5, abs=2e-5)
    plain = make_record([("dogs", full)], [("dogs", full)])
    value = narrative.evaluate([plain]).measures.set_index("measure")["value"]
    assert np.isnan(value["average_recall_things"]) and value["average_recall"] == pytest.approx(1, abs=2e-5)


def test_other_numbers_of_phrases_than_of_masks_are_refused(make_record):
    mask = np.ones(SIZE, bool)
    with pytest.raises(ValueError, match="2 masks for 1 phrases"):
        narrative.evaluate([make_record([("a", mask), ("b", mask)], [("a", mask)])])
