"""Results in a user's hands: a line, a picture, names, equality by value, and whole on disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import interp
from interp.answer.stored import NoCapture
from interp.images import ImageError
from interp.masks import MaskError, read_mask
from interp.types import Capture, PatchGrid, Phrase, Sample, Segmentation, Target, View

FROG = Phrase("a frog", "frog", "frog", 2, 6, (1,))
CUP = Phrase("two cups", "cups", "cup", 15, 19, (4,))
AGAIN = Phrase("the frog", "frog", "frog", 25, 29, (6,))


def capture(seed=0, phrases=(FROG, CUP, AGAIN), **changed):
    rng = torch.Generator().manual_seed(seed)
    tiles = (View(np.arange(4).reshape(2, 2), (0.0, 0.0, 8.0, 8.0), "tile 0"),)
    grid = PatchGrid(np.arange(4, 10).reshape(2, 3), (0.0, 0.0, 9.0, 6.0), "main", tiles, np.array([11, 12]))
    own = Capture(
        sample_id="1.jpg", prompt="What?", answer="A frog and two cups, the frog.",
        tokens=("A", " frog", " and", " two", " cups", ",", " the frog."), grid=grid, query="predicting",
        kept=np.array([1, 4, 6]), attention=torch.rand(3, 2, 2, 2, 3, generator=rng), phrases=phrases,
        mean=torch.rand(2, 2, 2, 3, generator=rng), logprobs=np.array([-0.5, np.nan], dtype=np.float32),
        elsewhere=torch.rand(3, 2, 2, generator=rng).half(), layers=(3, 7), end=True,
    )  # fmt: skip
    return replace(own, **changed)


def segmentation():
    masks = np.zeros((1, 4, 6), dtype=bool)
    masks[0, 1:3, 2:4] = True
    return Segmentation("1.jpg", "What?", "A frog.", (FROG,), np.array([[2.0, 1.0]]), masks, np.array([0.9]))


RESULTS = [capture(), capture().maps(), segmentation(), Sample("1", np.zeros((4, 6, 3), np.uint8), "What?")]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_a_result_at_the_end_of_a_cell_is_one_line_and_a_small_picture_and_no_wall_of_numbers(result):
    assert repr(result).startswith(f"{type(result).__name__}(") and "\n" not in repr(result) and len(repr(result)) < 200
    shown = result._repr_html_()
    assert "data:image/png;base64," in shown and len(shown) < 150_000
    assert isinstance(result.to_frame(), pd.DataFrame)


def test_a_text_of_the_answer_is_no_markup_in_the_notebook():
    assert "<script>" not in capture(answer="<script>alert(1)</script>")._repr_html_()


def test_equality_answers_by_value_where_it_used_to_raise():
    assert capture() == capture() and capture() != capture(seed=1)
    assert capture() != capture(answer="Another.") and capture() != "a capture"
    assert capture() != capture(grid=replace(capture().grid, box=(0.0, 0.0, 9.0, 7.0)))
    assert capture().maps() == capture().maps() and segmentation() == segmentation()
    assert Target("frog", np.ones((2, 2), bool)) != Target("frog", np.zeros((2, 2), bool))


def test_a_phrase_is_reached_by_text_root_lemma_number_or_itself():
    maps = capture().maps()
    assert len(maps) == 3 and list(maps) == [FROG, CUP, AGAIN]
    for key in ("two cups", "Cups", "cup", 1, -2, CUP):
        assert torch.equal(maps[key], maps.maps[1])
    assert torch.equal(capture()["cup"], capture().attention[1])
    assert segmentation()["frog"].sum() == 4


def test_a_phrase_that_is_missing_or_said_twice_is_answered_with_those_there_are():
    with pytest.raises(KeyError, match="no phrase 'zebra'; there are: 'a frog', 'two cups', 'the frog'"):
        capture()["zebra"]
    with pytest.raises(KeyError, match=r"names 2 phrases; take one by its number: 0 \('a frog'\), 2 \('the frog'\)"):
        capture()["frog"]
    assert capture(phrases=())  # without phrases it is still a capture


def test_a_tables_sums_are_those_of_the_maps():
    frame = capture().to_frame()
    row = frame.query("phrase == 'two cups' and layer == 7 and head == 1").iloc[0]
    own = capture().attention[1, 1, 1]
    at = int(own.argmax())
    assert row["sum"] == pytest.approx(float(own.sum())) and row["highest"] == pytest.approx(float(own.max()))
    assert (row["x"], row["y"]) == ((at % 3 + 0.5) * 3, (at // 3 + 0.5) * 3)


def test_a_capture_comes_back_from_disk_with_all_that_it_was(tmp_path):
    for own in (capture(), capture(elsewhere=None, logprobs=None, layers=(), phrases=())):
        back = Capture.load(own.save(tmp_path / "capture.safetensors"))
        assert (
            back == own and back.elsewhere is None if own.elsewhere is None else back.elsewhere.dtype == torch.float16
        )
        assert back.grid.others == () or np.array_equal(back.grid.tokens, own.grid.tokens)
    assert b"pickle" not in (tmp_path / "capture.safetensors").read_bytes()


def test_a_damaged_or_foreign_file_is_no_capture(tmp_path):
    path = capture().save(tmp_path / "capture.safetensors")
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"", whole.replace(b"interp capture 1", b"interp capture 2")):
        path.write_bytes(data)
        with pytest.raises(NoCapture):
            Capture.load(path)
    with pytest.raises(FileNotFoundError):
        Capture.load(tmp_path / "none.safetensors")


def test_maps_are_shown_over_the_image_for_the_heads_and_phrases_asked_for():
    image = np.zeros((6, 9, 3), np.uint8)
    figure = capture().show(image, heads="L3H0 L7H1", phrases="cup")
    titles = [axes.get_title() for axes in figure.axes[:4]]
    assert titles == ["image", "mean of 2 heads", "L3H0", "L7H1"]
    assert capture().show().axes[0].get_ylabel() == "a frog"


@pytest.mark.parametrize("kind", ["path", "pil", "array", "tensor"])
def test_an_image_and_its_masks_come_as_a_user_has_them(tmp_path, kind):
    pixels = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    mask = np.zeros((4, 6), bool)
    mask[1, 2:5] = True
    Image.fromarray(pixels).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    forms = {
        "path": (str(tmp_path / "image.png"), tmp_path / "mask.png"),
        "pil": (Image.fromarray(pixels), Image.fromarray(mask)),
        "array": (pixels / 255, mask.astype(np.uint8) * 255),
        "tensor": (torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(mask)),
    }
    image, given = forms[kind]
    sample = Sample("1", image, "What?", targets={"frog": given})
    assert np.array_equal(sample.image, pixels)
    assert sample.targets == (Target("frog", mask),)


def test_run_lengths_of_coco_are_a_mask():
    mask = np.array([[False, True, True], [False, False, True]])
    encoded = {"size": [2, 3], "counts": [2, 1, 1, 2]}  # down the columns
    assert np.array_equal(Target("frog", encoded).mask, mask)
    tools = pytest.importorskip("pycocotools.mask")
    packed = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert np.array_equal(Target("frog", packed).mask, mask)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (np.array([[0, 1, 2]]), MaskError, "has 3 values"),
        (np.array([[0.2, 0.7]]), MaskError, "share > 0.5"),
        (np.zeros((2, 2, 2), bool), MaskError, "expected \\(height, width\\)"),
        ([[True]], MaskError, "from list"),
        ({"counts": [1]}, MaskError, "'size'"),
        ({"size": [2, 2], "counts": [1]}, ValueError, "run lengths of a mask"),
        ("no/such/mask.png", ImageError, "no file"),
    ],
)
def test_what_is_no_mask_is_said_with_how_to_make_one_of_it(given, error, said):
    with pytest.raises(error, match=said):
        read_mask(given)


def test_a_ranking_a_series_and_a_model_behave_alike():
    from interp.datasets import scenes

    lmm, series = interp.load("mini-llava"), interp.series("mini-llava")
    ranking = interp.rank(lmm, scenes.load(samples=4), ["pointing_game"], progress=False)
    for result in (lmm, series, ranking, ranking.scores["pointing_game"]):
        assert "\n" not in repr(result) and len(repr(result)) < 200 and "<code>" in result._repr_html_()
        assert result == result and len(result.to_frame())
    assert ranking["heads"] is ranking.heads and "reductions" in list(ranking) and len(ranking) == len(ranking.tables())
    with pytest.raises(KeyError, match="there are: heads, reductions"):
        ranking["head"]
    assert ranking.plot().axes[0].get_title(loc="left").startswith("pointing game, best specificity")
    one = ranking.scores["pointing_game"][0]
    assert len(one) == 1 and one == ranking.scores["pointing_game"].of([0])
    assert set(ranking.scores["pointing_game"][one.phrases[0].upper()].phrases) == {one.phrases[0]}
