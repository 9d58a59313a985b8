"""A list of images is one batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from interp.datasets import scenes


def test_a_list_of_images_gives_what_each_gives_by_itself(tiny_lmm):
    images = [scenes.sample("test", i, size=40).image for i in range(3)]
    answers = ["A brown dog.", "A cat and a dog.", "A table."]
    batch = interp.capture(tiny_lmm, images, "What is there?", answers)
    assert [own.answer for own in batch] == answers
    for image, answer, own in zip(images, answers, batch, strict=True):
        alone = interp.capture(tiny_lmm, image, "What is there?", answer)
        assert torch.allclose(own.attention, alone.attention, atol=1e-6) and own.phrases == alone.phrases
    generated = interp.capture((tiny_lmm.model, tiny_lmm.processor), images[:2], "What is there?", "A dog.")
    assert len(generated) == 2 and isinstance(generated, list)


@pytest.mark.parametrize("answers", [["A dog."], ["A dog.", None]])
def test_answers_that_do_not_go_with_the_images_are_counted(tiny_lmm, answers):
    with pytest.raises(ValueError, match="expected one for"):
        interp.capture(tiny_lmm, [np.zeros((32, 32, 3), np.uint8)] * 2, "What?", answers)
