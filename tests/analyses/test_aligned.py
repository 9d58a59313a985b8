"""Where mini-difflmm's projector begins: words of captions for patches, and none for what captions do not say."""

import json

import numpy as np
import pytest
import torch

from interp.datasets import scenes
from training.mini_difflmm.aligned import entries, said, squared
from training.mini_difflmm.pictures import Pictures


def thing(noun, colour):
    return {"noun": noun, "colour": colour, "x": 0.5, "y": 0.5, "size": 0.3, "count": 1, "hides": []}


def test_a_patch_has_the_colour_that_its_own_scenes_caption_gives_its_noun(tmp_path):
    first, second = scenes.nouns()[:2]
    rows = [[thing(first, "red"), thing(second, "blue")], [thing(second, "")]]
    np.save(tmp_path / "scenes.npy", np.zeros((2, 4, 4, 3), np.uint8))
    (tmp_path / "scenes.json").write_text(json.dumps(rows))
    colours, none = list(scenes.COLOURS), len(scenes.COLOURS)
    found = said(Pictures(tmp_path), 2)
    assert found[0, :2].tolist() == [colours.index("red"), colours.index("blue")]
    assert found[1, :2].tolist() == [-1, none], "not there, and there without a colour"
    assert found[:, -1].tolist() == [none, none], "what is no noun is always there"
    assert (found[0, 2:-1] == -1).all()


def test_an_entry_is_the_mean_of_its_words_pieces():
    class Fast:
        def __call__(self, text, add_special_tokens):
            return {"input_ids": [len(text) % 5, 5 + len(text) % 3]}

    embed = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    nouns, colours, at = entries(embed, Fast())
    word = f" {scenes.nouns()[3]}"
    torch.testing.assert_close(nouns[3], (embed[len(word) % 5] + embed[5 + len(word) % 3]) / 2)
    assert len(nouns) == len(scenes.nouns()) + 1
    assert len(colours) == len(scenes.COLOURS) + 1
    assert not colours[-1].any()
    assert at.shape == (144, 4)


def test_an_error_of_one_is_what_the_mean_would_have():
    wanted = torch.randn(3, 50, 8, generator=torch.Generator().manual_seed(0))
    mean = wanted.flatten(0, 1).mean(0).expand_as(wanted)
    assert squared(mean, wanted).mean().item() == pytest.approx(1)
    assert not squared(wanted, wanted).any()
