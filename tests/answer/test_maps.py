from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from interp.answer.maps import coverage, head_list, lower_corners, phrase_maps, reduce_heads
from interp.answer.phrases import find_phrases
from interp.answer.pixels import argmax_points, to_pixels
from interp.types import Capture, Head, PatchGrid, Phrase, PhraseMaps


def grid_of(rows: int, cols: int, box: tuple[float, float, float, float]) -> PatchGrid:
    return PatchGrid(token_index=np.arange(rows * cols).reshape(rows, cols), box=box)


def phrase(text: str, *tokens: int) -> Phrase:
    return Phrase(text=text, root=text, lemma=text, start=0, end=len(text), tokens=tokens)


def capture_of(attention: torch.Tensor, phrases: tuple[Phrase, ...], kept: list[int] | None = None) -> Capture:
    """A capture of all the rows given, of which only ``kept`` stay."""
    kept = list(range(len(attention))) if kept is None else kept
    rows, cols = attention.shape[-2:]
    return Capture(
        sample_id="s",
        prompt="Describe.",
        answer="",
        tokens=tuple("t" for _ in attention),
        grid=grid_of(rows, cols, (0.0, 0.0, float(cols), float(rows))),
        query="predicting",
        kept=np.array(kept),
        attention=attention[kept],
        mean=attention.mean(0),
        phrases=phrases,
    )


def random_attention(tokens: int = 7, layers: int = 2, heads: int = 3, rows: int = 4, cols: int = 5) -> torch.Tensor:
    return torch.rand(tokens, layers, heads, rows, cols, generator=torch.Generator().manual_seed(0))


# one case by hand: three tokens over a 1 x 2 grid, one layer, one head; "hedge|hog" is tokens 1 and 2
BY_HAND = torch.tensor([[0.3, 0.3], [0.1, 0.5], [0.2, 0.4]]).reshape(3, 1, 1, 1, 2)


def test_phrase_map_of_a_two_token_noun_equals_the_sum_done_by_hand() -> None:
    capture = capture_of(BY_HAND, (phrase("hedgehog", 1, 2),))
    # mean of rows 1 and 2: (0.15, 0.45); mean of all three: (0.2, 0.4)
    torch.testing.assert_close(phrase_maps(capture).maps.ravel(), torch.tensor([-0.05, 0.05]))
    torch.testing.assert_close(phrase_maps(capture, normalise="none").maps.ravel(), torch.tensor([0.15, 0.45]))


def test_answer_normalisation_equals_each_row_minus_the_mean_row_even_when_few_rows_are_kept() -> None:
    attention = random_attention()
    phrases = (phrase("hedgehog", 2, 3), phrase("dog", 5))
    maps = phrase_maps(capture_of(attention, phrases, kept=[5, 2, 3])).maps
    plain = attention - attention.mean(0)
    torch.testing.assert_close(maps[0], (plain[2] + plain[3]) / 2)
    torch.testing.assert_close(maps[1], plain[5])


@pytest.mark.parametrize("seed", range(5))
def test_words_tokens_and_maps_stay_together_from_the_text_to_the_patch(seed: int) -> None:
    """Token i looks at patch i alone: a phrase's map must light up the patches of its root's tokens and no others."""
    answer = "A rabbit and two dogs sit on a wooden bench."
    rng = np.random.default_rng(seed)
    edges = [0, *np.sort(rng.choice(np.arange(1, len(answer)), 14, replace=False)).tolist(), len(answer)]
    offsets = list(itertools.pairwise(edges))
    found = find_phrases(answer, offsets)
    assert [p.root for p in found] == ["rabbit", "dogs", "bench"]
    attention = torch.eye(15).reshape(15, 1, 1, 3, 5)
    kept = sorted({token for p in found for token in p.tokens})
    maps = phrase_maps(capture_of(attention, found, kept=kept), normalise="none").maps
    for p, lit in zip(found, maps.flatten(1), strict=True):
        touching = [a < p.end and b > p.start for a, b in offsets]
        torch.testing.assert_close(lit, torch.tensor(touching).float() / sum(touching))


def test_half_precision_captures_are_averaged_in_float32() -> None:
    attention = random_attention()
    capture = capture_of(attention, (phrase("dog", 1, 2),))
    half = dataclasses.replace(capture, attention=attention.half(), mean=attention.mean(0).half())
    assert phrase_maps(half).maps.dtype == torch.float32


def test_generic_prompt_divides_by_its_mean_attention_and_is_nan_where_that_is_zero() -> None:
    attention, other = random_attention(), random_attention(tokens=3) + 0.1
    other[:, 1, 2, 3, 4] = 0
    capture, generic = capture_of(attention, (phrase("dog", 4),)), capture_of(other, ())
    maps = phrase_maps(capture, normalise=generic).maps
    assert maps[0, 1, 2, 3, 4].isnan()
    assert maps.isnan().sum() == 1
    torch.testing.assert_close(maps[0, 0], attention[4, 0] / other.mean(0)[0])


def test_generic_prompt_of_another_image_size_model_or_query_is_refused() -> None:
    capture = capture_of(random_attention(), (phrase("dog", 4),))
    with pytest.raises(ValueError, match="shape"):
        phrase_maps(capture, normalise=capture_of(random_attention(heads=4), ()))
    with pytest.raises(ValueError, match="query"):
        phrase_maps(capture, normalise=dataclasses.replace(capture, query="self"))
    with pytest.raises(ValueError, match="box"):
        phrase_maps(capture, normalise=dataclasses.replace(capture, grid=grid_of(4, 5, (0.0, -1.0, 5.0, 5.0))))


def test_phrase_whose_tokens_were_not_kept_is_an_error_not_another_tokens_map() -> None:
    with pytest.raises(ValueError, match=r"'dog' needs answer tokens \[2, 3\].*kept \[0, 3\]"):
        phrase_maps(capture_of(random_attention(), (phrase("dog", 2, 3),), kept=[0, 3]))


def test_unknown_normalisation_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'mean'.*'answer'"):
        phrase_maps(capture_of(random_attention(), ()), normalise="mean")


def test_answer_without_phrases_gives_no_maps_of_the_right_shape() -> None:
    assert phrase_maps(capture_of(random_attention(), ())).maps.shape == (0, 2, 3, 4, 5)


def test_a_nan_row_of_one_token_does_not_spoil_other_phrases() -> None:
    attention = random_attention()
    capture = capture_of(attention, (phrase("dog", 1), phrase("cat", 2)))
    attention = attention.clone()
    attention[1] = torch.nan
    maps = phrase_maps(dataclasses.replace(capture, attention=attention)).maps
    assert maps[0].isnan().all()
    assert maps[1].isfinite().all()


def test_corner_sinks_are_removed_and_nothing_else_is_touched() -> None:
    attention = random_attention()
    attention[..., 0, 0] = 9.0
    attention[..., -1, -1] = 8.0
    capture = capture_of(attention, (phrase("dog", 1),))
    before = phrase_maps(capture, normalise="none").maps
    after = phrase_maps(capture, normalise="none", remove_corners=True).maps
    corners = torch.zeros(4, 5, dtype=torch.bool)
    corners[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    lowest = before.amin((-2, -1), keepdim=True).expand_as(before)
    assert torch.equal(after, torch.where(corners, lowest, before))
    assert torch.equal(after, lower_corners(before))


def test_paper_reduction_is_the_mean_of_all_heads_and_released_the_second_to_last_head_of_each_layer() -> None:
    maps = phrase_maps(capture_of(random_attention(), (phrase("dog", 1), phrase("cat", 2))))
    plain = maps.maps.numpy()
    np.testing.assert_allclose(reduce_heads(maps), plain.mean((1, 2)), rtol=1e-5, atol=1e-7)
    # the released slice, on tensors of (head, query, key): x[-2:-1]
    np.testing.assert_allclose(
        reduce_heads(maps, "released"), np.mean([x[:, -2:-1].mean(1) for x in plain.swapaxes(0, 1)], 0), atol=1e-7
    )


def test_weighted_heads_equal_the_weighted_mean() -> None:
    maps = torch.rand(3, 2, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    got = reduce_heads(maps, [Head(1, 3), (0, 2)], weights=[3, 1])
    torch.testing.assert_close(got, 0.75 * maps[:, 1, 3] + 0.25 * maps[:, 0, 2])
    torch.testing.assert_close(reduce_heads(maps, [(1, 3)]), maps[:, 1, 3])


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([(0, 3)], r"L0H3.*layer 0\.\.1 and head 0\.\.2"),
        ([(2, 0), (0, 0)], r"L2H0.*layer 0\.\.1"),
        ([(-1, 0)], "L-1H0"),
        ([], "empty list"),
        ([(0, 1), Head(0, 1)], "twice"),
        ("best", "'best'; expected .* all, released"),
    ],
)
def test_heads_that_do_not_exist_are_an_error_that_names_the_valid_range(heads: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head_list(heads, layers=2, per_layer=3)


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [1.0, float("nan")]])
def test_weights_that_do_not_fit_the_heads_are_an_error(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="2 finite numbers"):
        reduce_heads(torch.zeros(1, 2, 2, 3, 3), [(0, 0), (1, 1)], weights=weights)


BOXES = {
    "stretched": (0.0, 0.0, 22.0, 16.0),
    "padded": (0.0, -3.0, 22.0, 19.0),
    "centre-cropped": (3.0, 0.0, 19.0, 16.0),
    "fractional crop": (2.7, 1.3, 19.2, 14.9),
    "fractional padding": (-5.25, -0.4, 30.1, 17.7),
}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_coverage_equals_counting_a_thousand_points_per_patch(box: tuple[float, float, float, float]) -> None:
    masks = np.random.default_rng(0).random((3, 16, 22)) < 0.4
    rows, cols, fine = 4, 5, 64
    x0, y0, x1, y1 = box
    x = np.floor(x0 + (np.arange(cols * fine) + 0.5) * (x1 - x0) / (cols * fine)).astype(int)
    y = np.floor(y0 + (np.arange(rows * fine) + 0.5) * (y1 - y0) / (rows * fine)).astype(int)
    inside = ((y >= 0) & (y < 16))[:, None] & ((x >= 0) & (x < 22))
    points = masks[:, y.clip(0, 15)][:, :, x.clip(0, 21)] & inside
    counted = points.reshape(3, rows, fine, cols, fine).mean((2, 4))
    np.testing.assert_allclose(coverage(masks, grid_of(rows, cols, box)), counted, atol=0.02)


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_coverage_loses_no_area(box: tuple[float, float, float, float]) -> None:
    x0, y0, x1, y1 = box
    got = coverage(np.ones((1, 16, 22), dtype=bool), grid_of(4, 5, box)).sum() * (x1 - x0) * (y1 - y0) / 20
    expected = (min(x1, 22) - max(x0, 0)) * (min(y1, 16) - max(y0, 0))
    assert float(got) == pytest.approx(expected, rel=1e-6)


def test_coverage_of_half_a_patch_and_of_the_overhang_by_hand() -> None:
    mask = np.zeros((1, 2, 4), dtype=bool)
    mask[0, :, :3] = True
    # two patches of 2 x 4 pixels, of which only the middle two rows lie in the image
    torch.testing.assert_close(coverage(mask, grid_of(1, 2, (0.0, -1.0, 4.0, 3.0))), torch.tensor([[[0.5, 0.25]]]))


def test_coverage_of_a_mean_of_masks_is_the_mean_of_their_coverages() -> None:
    masks = np.random.default_rng(4).random((6, 16, 22)) < 0.4
    grid = grid_of(4, 5, BOXES["fractional padding"])
    torch.testing.assert_close(coverage(masks.mean(0)[None], grid)[0], coverage(masks, grid).mean(0))


def test_coverage_of_no_masks_has_no_phrases() -> None:
    assert coverage(np.zeros((0, 5, 5), dtype=bool), grid_of(2, 3, (0.0, 0.0, 5.0, 5.0))).shape == (0, 2, 3)


@pytest.mark.parametrize("box", [(0.0, 0.0, 0.0, 5.0), (0.0, 5.0, 5.0, 1.0), (0.0, 0.0, float("nan"), 5.0)])
def test_a_box_without_area_is_an_error(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="box"):
        coverage(np.zeros((1, 5, 5), dtype=bool), grid_of(2, 3, box))
    with pytest.raises(ValueError, match="box"):
        to_pixels(torch.zeros(1, 2, 3), grid_of(2, 3, box), (5, 5))


def test_pixels_of_a_padded_image_equal_interpolating_the_square_and_cutting_the_padding() -> None:
    maps = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(2))
    height, width, top = 20, 48, 14
    square = torch.nn.functional.interpolate(maps[None], size=(48, 48), mode="bicubic", align_corners=False)[0]
    got = to_pixels(maps, grid_of(6, 6, (0.0, -float(top), 48.0, 34.0)), (height, width))
    torch.testing.assert_close(got, square[:, top : top + height], rtol=0, atol=1e-5)


def test_pixels_outside_a_centre_crop_are_nan_and_inside_equal_interpolation() -> None:
    maps = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(3))
    got = to_pixels(maps, grid_of(4, 4, (5.0, 0.0, 25.0, 20.0)), (20, 30))
    inside = torch.nn.functional.interpolate(maps[None], size=(20, 20), mode="bicubic", align_corners=False)[0]
    torch.testing.assert_close(got[:, :, 5:25], inside, rtol=0, atol=1e-5)
    assert got[:, :, :5].isnan().all()
    assert got[:, :, 25:].isnan().all()


def test_pixels_above_left_below_and_right_of_a_crop_are_nan_and_only_they() -> None:
    inside = to_pixels(torch.ones(1, 3, 3), grid_of(3, 3, (2.0, 3.0, 8.0, 9.0)), (12, 10))[0].isfinite()
    expected = torch.zeros(12, 10, dtype=torch.bool)
    expected[3:9, 2:8] = True
    assert torch.equal(inside, expected)


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_a_marked_patch_lands_in_its_own_pixels_and_no_other_patchs(box: tuple[float, float, float, float]) -> None:
    rows, cols, height, width = 4, 5, 160, 220
    x0, y0, x1, y1 = (10 * side for side in box)
    grid = grid_of(rows, cols, (x0, y0, x1, y1))
    maps = torch.eye(rows * cols).reshape(-1, rows, cols)
    points = argmax_points(to_pixels(maps, grid, (height, width)))
    patch_width, patch_height = (x1 - x0) / cols, (y1 - y0) / rows
    for i, (x, y) in enumerate(points + 0.5):
        row, col = divmod(i, cols)
        left, top = x0 + col * patch_width, y0 + row * patch_height
        if left >= width:  # the whole patch lies in the padding
            continue
        assert max(left, 0) <= x <= min(left + patch_width, width)
        assert max(top, 0) <= y <= min(top + patch_height, height)


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_a_marker_in_the_image_comes_back_to_where_it_was(box: tuple[float, float, float, float]) -> None:
    """Mask -> patches -> map -> pixels -> point: the point is within one patch of the marker."""
    rows, cols = 8, 11
    x0, y0, x1, y1 = (10 * side for side in box)
    masks = np.zeros((3, 160, 220), dtype=bool)
    centres = np.array([(60, 40), (150, 60), (110, 120)])
    for mask, (x, y) in zip(masks, centres, strict=True):
        mask[y - 5 : y + 5, x - 5 : x + 5] = True
    grid = grid_of(rows, cols, (x0, y0, x1, y1))
    points = argmax_points(to_pixels(coverage(masks, grid), grid, (160, 220)))
    assert (np.abs(points - centres) <= ((x1 - x0) / cols, (y1 - y0) / rows)).all()


def test_one_nan_patch_does_not_hide_the_peak_far_from_it() -> None:
    maps = torch.zeros(1, 9, 9)
    maps[0, 0, 0] = torch.nan
    maps[0, 6, 7] = 1.0
    point = argmax_points(to_pixels(maps, grid_of(9, 9, (0.0, 0.0, 90.0, 90.0)), (90, 90)))
    assert 70 <= point[0, 0] < 80
    assert 60 <= point[0, 1] < 70


def test_point_of_a_constant_or_undefined_map_is_nan_and_never_a_corner() -> None:
    maps = torch.full((3, 4, 4), 0.1234567)
    maps[1] = torch.nan
    maps[2, 1, 2] = 0.2
    points = argmax_points(to_pixels(maps, grid_of(4, 4, (-3.0, -3.0, 40.0, 41.0)), (37, 33)))
    assert np.isnan(points[:2]).all()
    assert np.isfinite(points[2]).all()
    cropped = to_pixels(maps, grid_of(4, 4, (5.0, 5.0, 25.0, 25.0)), (37, 33))
    assert np.isnan(argmax_points(cropped)[:2]).all()


def test_points_are_x_then_y() -> None:
    maps = torch.zeros(1, 3, 4)
    maps[0, 2, 1] = 1
    assert argmax_points(maps).tolist() == [[1.0, 2.0]]


def test_pixels_and_points_of_no_maps_are_empty() -> None:
    pixels = to_pixels(torch.zeros(0, 2, 2), grid_of(2, 2, (0.0, 0.0, 4.0, 4.0)), (4, 6))
    assert pixels.shape == (0, 4, 6)
    assert argmax_points(pixels).shape == (0, 2)


def test_reduction_of_phrase_maps_and_of_their_tensor_agree() -> None:
    maps = phrase_maps(capture_of(random_attention(), (phrase("dog", 1),)))
    assert isinstance(maps, PhraseMaps)
    assert torch.equal(reduce_heads(maps, "released"), reduce_heads(maps.maps, "released"))
