"""Records: nothing is lost on the way into a run folder, and a mask of another image is refused."""

import numpy as np
import pytest
from evaluation_cases import phrase

from interp.datasets import scenes
from interp.evaluation.overlap import from_rle
from interp.evaluation.result import Record, record
from interp.types import Sample, Segmentation, Target


def segmentation(sample, masks, points=None, confidence=None):
    n = len(masks)
    return Segmentation(
        sample_id=sample.id,
        prompt=sample.prompt,
        answer="A dog and a cat.",
        phrases=tuple(phrase(f"a thing{i}") for i in range(n)),
        points=np.array(points if points is not None else np.zeros((n, 2)), dtype=float),
        masks=masks,
        confidence=np.array(confidence if confidence is not None else np.full(n, 0.5), dtype=float),
    )


@pytest.fixture
def sample():
    return scenes.sample("test", 3, size=48)


def test_a_record_comes_back_from_its_json_as_it_was(sample):
    masks = np.stack([t.mask for t in sample.targets])
    points = np.full((len(masks), 2), 7.0)
    points[0] = np.nan
    made = record(sample, segmentation(sample, masks, points, np.r_[np.nan, np.ones(len(masks) - 1)]))
    assert Record.from_json(made.to_json()) == made
    assert made.found[0].point is None and made.found[0].score is None and made.found[1].point == (7.0, 7.0)
    for target, truth, found in zip(sample.targets, made.truths, made.found, strict=True):
        assert (from_rle(truth.mask, made.size, "") == target.mask).all() and found.mask == truth.mask
    assert made.captions == (sample.answer,) and made.image_id == sample.id


def test_a_failed_sample_keeps_its_truth_and_the_reason(sample):
    made = record(sample, "CaptureError: no noun phrase")
    assert made.failed and not made.found and len(made.truths) == len(sample.targets) and made.answer == ""


def test_masks_of_another_size_are_refused(sample):
    with pytest.raises(ValueError, match="its image is"):
        record(sample, segmentation(sample, np.zeros((1, 40, 48), bool)))
    wrong = Sample("x", sample.image, "p", None, (Target("dog", np.zeros((3, 3), bool)),))
    with pytest.raises(ValueError, match="mask has the image's pixels"):
        record(wrong, "failed")
