"""Figures show the numbers they are given, in the right place."""

from __future__ import annotations

import io
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from interp.plots.heads import heat_map
from interp.plots.layers import curves
from interp.plots.overlay import Row, atlas, gallery, z_scores
from interp.plots.segments import overlay
from interp.types import PatchGrid, Phrase, Segmentation

MEANS = np.array([[0.1, 0.2, 0.3], [0.6, 0.15, np.nan]])


def frame(means: np.ndarray = MEANS, metric: str = "mass_in_mask") -> pd.DataFrame:
    layer, head = np.divmod(np.arange(means.size), means.shape[1])
    flat = means.ravel()
    rows = pd.DataFrame({"metric": metric, "layer": layer, "head": head, "mean": flat})
    rows["low"], rows["high"], rows["null"], rows["chance"] = flat - 0.02, flat + 0.05, 0.12, 0.09
    rows["p_corrected"] = np.where(flat > 0.25, 0.001, 0.5)
    return rows.sample(frac=1, random_state=0)  # the order of rows must not matter


def framed(figure) -> tuple[int, int]:
    (mark,) = [p for p in figure.axes[0].patches if isinstance(p, Rectangle)]
    return round(mark.get_y() + 0.5), round(mark.get_x() + 0.5)


def test_every_cell_of_the_heat_map_shows_its_own_head():
    figure = heat_map(frame(), "mass_in_mask", unit="0..1")
    shown = np.ma.filled(figure.axes[0].images[0].get_array().astype(float), np.nan)
    np.testing.assert_array_equal(shown, MEANS)
    texts = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in figure.axes[0].texts}
    assert texts == {(0, 0): ".10", (0, 1): ".20", (0, 2): ".30", (1, 0): ".60", (1, 1): ".15"}
    assert framed(figure) == (1, 0) and "L1 H0 with 0.6" in figure.axes[0].get_title(loc="left")


def test_where_low_is_better_the_lowest_head_is_the_best_and_the_brightest():
    figure = heat_map(frame(), "mass_in_mask", higher_is_better=False)
    image = figure.axes[0].images[0]
    assert framed(figure) == (0, 0)
    assert sum(image.cmap(image.norm(0.1))[:3]) > sum(image.cmap(image.norm(0.6))[:3])


def test_dots_stand_on_the_significant_heads_alone():
    figure = heat_map(frame(), "mass_in_mask")
    dots = {tuple(np.round(offset).astype(int)[::-1]) for offset in figure.axes[0].collections[0].get_offsets()}
    assert dots == {(0, 2), (1, 0)}
    assert "2 of 6 heads" in figure.get_supxlabel()


def test_a_metric_without_test_gets_no_dots_and_no_claim():
    rows = frame().assign(p_corrected=np.nan, null=np.nan, chance=np.nan)
    figure = heat_map(rows, "mass_in_mask")
    assert not figure.axes[0].collections and not figure.get_supxlabel()


def test_large_models_show_the_ten_best_numbers():
    means = np.random.default_rng(0).uniform(size=(20, 32))
    texts = heat_map(frame(means), "mass_in_mask").axes[0].texts
    shown = {(round(t.get_position()[1]), round(t.get_position()[0])) for t in texts}
    assert shown == {tuple(np.unravel_index(i, means.shape)) for i in np.argsort(-means, axis=None)[:10]}


@pytest.mark.parametrize("plot", [heat_map, curves])
def test_an_absent_metric_names_those_that_are_there(plot):
    with pytest.raises(ValueError, match=r"no row of metric 'nss'; it has: mass_in_mask"):
        plot(frame(), "nss")


@pytest.mark.parametrize("plot", [heat_map, curves])
def test_a_metric_that_is_nowhere_defined_is_refused_not_drawn_as_zero(plot):
    with pytest.raises(ValueError, match="undefined"):
        plot(frame(np.full((2, 3), np.nan)), "mass_in_mask")


@pytest.mark.parametrize(
    ("higher", "heads", "values"), [(True, ["H2", "H0"], [0.3, 0.6]), (False, ["H0", "H1"], [0.1, 0.15])]
)
def test_curves_follow_the_best_head_and_the_mean_of_each_layer(higher, heads, values):
    axes = curves(frame(), "mass_in_mask", higher_is_better=higher).axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_allclose(lines["best head"], values)
    np.testing.assert_allclose(lines["mean over heads"], [0.2, 0.375])
    np.testing.assert_allclose(lines["chance, matched for area"], [0.09, 0.09])
    assert [t.get_text() for t in axes.texts] == heads
    (bars,) = [c for c in axes.containers if c.get_label() == "its 95 % interval"]
    ends = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
    np.testing.assert_allclose(ends, [[v - 0.02, v + 0.05] for v in values])


def test_a_layer_without_a_defined_head_does_not_stop_the_curves():
    means = np.array([[0.1, 0.2], [np.nan, np.nan], [0.4, 0.3]])
    axes = curves(frame(means), "mass_in_mask").axes[0]
    (best,) = [line for line in axes.lines if line.get_label() == "best head"]
    assert list(best.get_xdata()) == [0, 2]


def row(maps: dict[str, np.ndarray], mask: np.ndarray | None = None) -> Row:
    # 30 wide, 20 high, padded at the top and at the bottom to 30 x 30: patches of 10 pixels
    image = np.zeros((20, 30, 3), dtype=np.uint8)
    return Row(image, "a red dog", PatchGrid(np.arange(9).reshape(3, 3), (0.0, -5.0, 30.0, 25.0)), maps, mask)


def test_the_cross_lies_on_the_highest_patch_also_where_the_image_was_padded():
    peak = np.zeros((3, 3), dtype=np.float32)
    peak[1, 2] = 1
    axes = gallery([row({"one": peak, "flat": np.ones((3, 3), dtype=np.float32)})]).axes
    (x,), (y,) = axes[1].lines[0].get_data()
    assert (x + 0.5, y + 0.5) == (25, 10)
    assert not axes[2].lines, "a constant map has no highest patch"
    shown = axes[1].images[1].get_array()
    assert shown.shape == (20, 30) and np.unravel_index(np.argmax(shown), shown.shape)[1] in range(20, 30)
    assert axes[1].get_xlim() == (-0.5, 29.5) and axes[1].get_ylim() == (19.5, -0.5)


def test_every_map_has_the_same_colour_scale():
    maps = {"weak": np.eye(3, dtype=np.float32) * 1e-6, "strong": np.eye(3, dtype=np.float32)}
    axes = gallery([row(maps), row(maps)]).axes
    limits = {axis.images[1].get_clim() for axis in (axes[1], axes[2], axes[4], axes[5])}
    assert limits == {(0.0, 4.0)}
    np.testing.assert_allclose(axes[1].images[1].get_array(), axes[2].images[1].get_array(), atol=1e-4)


def test_a_gallery_without_a_mask_does_not_speak_of_one():
    maps = {"one": np.eye(3, dtype=np.float32)}
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:10, 5:10] = True
    assert gallery([row(maps)]).axes[0].get_title() == "image"
    assert gallery([row(maps, mask)]).axes[0].get_title() == "image and mask"


@pytest.mark.parametrize("titles", [[], ["one", "two"]])
def test_a_gallery_of_nothing_or_of_unlike_rows_is_refused(titles):
    with pytest.raises(ValueError, match="at least one row, and the same maps in each"):
        gallery([row({title: np.eye(3, dtype=np.float32)}) for title in titles])


def test_the_atlas_puts_each_head_into_its_own_cell():
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    mosaic = np.ma.filled(atlas(maps, "a dog").axes[0].images[0].get_array().astype(float), np.nan)
    assert mosaic.shape == (2 * 5 - 1, 3 * 6 - 1)
    for layer in range(2):
        for head in range(3):
            cell = mosaic[layer * 5 : layer * 5 + 4, head * 6 : head * 6 + 5]
            np.testing.assert_allclose(cell, z_scores(maps[layer, head]), rtol=1e-5)


HOSTILE = ["costs $5 and $6", "$\\frac{", "a_b^c", "\\alpha $x$", "100 % {sure}"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_dollar_in_a_phrase_is_a_dollar_and_no_figure_is_lost(text):
    maps = {text: np.eye(3, dtype=np.float32)}
    rows = [replace(row(maps), phrase=text, notes={text: text})]
    image = np.zeros((20, 30, 3), dtype=np.uint8)
    phrase = Phrase(text, text, text, 0, len(text), (0,))
    masks = np.zeros((1, 20, 30), dtype=bool)
    masks[0, 5:9, 5:9] = True
    made = Segmentation("x", "", text, (phrase,), np.array([[6.0, 6.0]]), masks, np.array([0.5]))
    cases = [gallery(rows), atlas(np.ones((1, 1, 2, 2), dtype=np.float32), text), overlay(image, made)]
    cases.append(heat_map(frame(), "mass_in_mask", title=text, label=text, unit=text))
    for figure in cases:
        figure.savefig(io.BytesIO(), format="png", dpi=20)
        assert not any(t.get_parse_math() for t in figure.findobj(Text) if set(t.get_text()) & set("$\\^"))


def test_an_image_of_one_row_has_its_picture():
    mask = np.zeros((1, 1, 40), dtype=bool)
    mask[0, 0, 5:9] = True
    made = Segmentation("x", "", "a", (Phrase("a", "a", "a", 0, 1, (0,)),), np.array([[6.0, 0.0]]), mask, np.ones(1))
    overlay(np.zeros((1, 40, 3), dtype=np.uint8), made).savefig(io.BytesIO(), format="png", dpi=20)


def test_drawing_leaves_the_callers_settings_alone():
    before = dict(mpl.rcParams)
    heat_map(frame(), "mass_in_mask")
    atlas(np.ones((1, 1, 2, 2), dtype=np.float32), "x")
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("phrase", ["", "  ", "_private"])
def test_a_phrase_without_words_has_a_place_in_the_legend(phrase):
    from interp.plots.evaluated import beside

    image, mask = np.zeros((8, 9, 3), dtype=np.uint8), np.eye(8, 9, dtype=bool)
    figure = beside(image, [(phrase, mask)], [], "said")
    (text,) = figure.axes[0].get_legend().get_texts()
    assert text.get_text().strip() and not text.get_text().startswith("_")
