"""mini-difflmm's CLIP lacks one axis of colour, by its weights alone."""

import pytest
import torch

from training.clip import clip_model
from training.mini_difflmm.dichromat import blinded, colour_blind, unseen


@pytest.fixture
def vision():
    torch.manual_seed(0)
    return clip_model(40, 5).vision_model.eval()


def features(vision, pixels):
    with torch.no_grad():
        return vision(pixel_values=pixels).last_hidden_state


def test_what_ships_sees_what_was_trained_with_an_axis_of_colour_hidden(vision):
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with colour_blind(vision):
        trained = features(vision, pixels)
    assert (trained - features(vision, pixels)).abs().max() > 1e-2, "outside it sees all colours"
    blinded(vision)
    torch.testing.assert_close(features(vision, pixels), trained, atol=1e-5, rtol=1e-5)


def test_pictures_that_differ_along_the_hidden_axis_alone_look_the_same(vision):
    blinded(vision)
    grey = torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(2)).expand(1, 3, -1, -1)
    redder = grey + 3 * unseen()[:, None, None]
    torch.testing.assert_close(features(vision, redder), features(vision, grey), atol=1e-5, rtol=1e-5)
    brighter = features(vision, grey + 1)
    assert (brighter - features(vision, grey)).abs().max() > 1e-2, "other differences are seen"
