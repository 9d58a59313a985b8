"""The segmenters without weights, on cases that can be worked out by hand."""

import numpy as np
import pytest
import torch

import interp
from interp.segmentation.method import Method
from interp.segmentation.prompts import prompts_of
from interp.types import Prompts


def test_threshold_cuts_at_a_share_of_the_maps_own_range():
    maps = torch.tensor([[[1.0, 2.0, 3.0, 5.0]], [[10.0, 20.0, 30.0, 50.0]]])
    segmenter = interp.load_segmenter("threshold", share=0.4, connected=False)
    found = segmenter.propose((1, 4), Prompts(points=np.zeros((2, 0, 2)), maps=maps))
    assert found.masks[:, 0].tolist() == [[[False, False, True, True]]] * 2
    assert np.isnan(found.scores).all()


def test_threshold_keeps_the_part_with_the_point_and_not_its_double_elsewhere():
    maps = torch.tensor([[[9.0, 8.0, 0.0, 8.0]]])
    segmenter = interp.load_segmenter("threshold")
    found = segmenter.propose((1, 4), prompts_of(maps, Method()))
    assert found.masks[0, 0].tolist() == [[True, True, False, False]]


def test_threshold_leaves_out_what_lies_outside_the_crop():
    maps = torch.tensor([[[float("nan"), 0.0, 1.0, float("nan")]]])
    found = interp.load_segmenter("threshold").propose((1, 4), prompts_of(maps, Method()))
    assert found.masks[0, 0].tolist() == [[False, False, True, False]]


@pytest.mark.parametrize("size", [(48, 64), (300, 400)])
def test_random_walker_stops_at_the_border_that_the_map_does_not_know(size):
    height, width = size
    image = np.full((height, width, 3), 40, np.uint8)
    thing = (slice(height // 4, height * 3 // 4), slice(width // 4, width * 3 // 4))
    image[thing] = (200, 60, 60)
    y, x = np.mgrid[:height, :width]
    blob = np.exp(-(((y - height / 2) / height) ** 2 + ((x - width / 2) / width) ** 2) / 0.12)
    segmenter = interp.load_segmenter("random_walker")
    prompts = prompts_of(torch.from_numpy(blob)[None].float(), Method())
    mask = segmenter.propose(segmenter.embed(image), prompts).masks[0, 0]
    truth = np.zeros(size, bool)
    truth[thing] = True
    iou = (mask & truth).sum() / (mask | truth).sum()
    by_threshold = interp.load_segmenter("threshold").propose(size, prompts).masks[0, 0]
    assert iou > 0.95
    assert iou > (by_threshold & truth).sum() / (by_threshold | truth).sum()


def test_what_has_no_weights_refuses_a_checkpoint():
    for name in ("threshold", "random_walker"):
        with pytest.raises(ValueError, match="no weights"):
            interp.load_segmenter(name, "somewhere")
