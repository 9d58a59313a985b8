"""What the text stage reads in place of pictures: a grid whose cells say what the things' boxes say."""

import numpy as np
import pytest

from interp.datasets import scenes
from training.layouts import EMPTY, PLACE_WORDS, SHARES, cells, layout, places, spoken


@pytest.mark.parametrize("spread", [False, True])
def test_every_thing_is_in_a_cell_of_its_own_and_cells_hold_what_covers_their_middle(spread):
    for seed in range(60):
        things, boxes = layout(np.random.default_rng(seed), spread=spread, sides=(0.15, 0.4))
        grid = cells(boxes, 8)
        assert set(range(len(things))) <= set(grid.ravel().tolist())
        for row, column in np.argwhere(grid == EMPTY):
            x, y = (column + 0.5) / 8, (row + 0.5) / 8
            assert not any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in boxes)
        for thing, box in zip(things, boxes, strict=True):
            np.testing.assert_allclose((thing.x, thing.y), (box[:2] + box[2:]) / 2)


def test_spread_things_have_a_place_to_themselves_that_can_be_said():
    for seed in range(40):
        things, _ = layout(np.random.default_rng(seed), (3, 5), (0.12, 0.25), spread=True)
        said = scenes.described(np.random.default_rng(seed), "test", things, "place")
        assert (
            said is not None and len(said.kinds) >= len(things) - 1
        )  # what is in the middle may be in a corner's half


def test_a_cell_says_the_words_of_its_place_and_no_others():
    found = places(4).reshape(4, 4, len(PLACE_WORDS))
    said = {word: found[..., k] for k, word in enumerate(PLACE_WORDS)}
    assert (said["left"][:, :2] > 0.5).all() and not said["left"][:, 2:].any()
    assert (said["top"][:2] > 0.5).all() and not said["top"][2:].any()
    np.testing.assert_array_equal(said["right"], said["left"][:, ::-1])
    np.testing.assert_array_equal(said["bottom"], said["top"][::-1])
    assert said["middle"][1:3, 1:3].all() and said["middle"].sum() == said["middle"][1:3, 1:3].sum()


def test_training_texts_are_of_all_kinds_and_say_only_what_may_be_said():
    texts = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        things, _ = layout(rng)
        prompt, answer = spoken(rng, things, SHARES)
        assert prompt and answer.endswith(".")
        texts.append(answer.lower())
    assert sum("left" in t for t in texts) > 10 and sum(any(c in t for c in scenes.COLOURS) for t in texts) > 30
