"""The figures of a series show the numbers of its tables."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from interp.plots import emergence as plots
from interp.plots.animated import animation

STEPS = (0, 5, 20, 100)


@pytest.fixture
def tables():
    rng, rows = np.random.default_rng(0), []
    for step in STEPS:
        for layer in range(3):
            for head in range(4):
                mean = 0.3 + 0.01 * rng.standard_normal() + 0.4 * ((layer, head) == (1, 2) and step >= 20)
                rows.append(
                    {"step": step, "stage": "projector" if step < 20 else "language model", "metric": "nss",
                     "layer": layer, "head": head, "mean": mean, "low": mean - 0.05, "high": mean + 0.05, "null": 0.3}
                )  # fmt: skip
    heads = pd.DataFrame(rows)
    onsets = heads.drop_duplicates(["layer", "head"])[["metric", "layer", "head"]].copy()
    onsets["onset"] = np.where((onsets.layer == 1) & (onsets["head"] == 2), 20.0, np.nan)
    steps = pd.DataFrame(
        {"step": STEPS, "loss": [3.0, 2, 1, 1], "loss_low": [2.9, 1.9, 0.9, 0.9], "loss_high": [3.1, 2.1, 1.1, 1.1]}
    )
    return heads, onsets, steps


@pytest.mark.parametrize("with_loss", [True, False])
def test_the_leading_heads_curve_is_its_means_and_its_onset_is_ringed(tables, with_loss):
    heads, onsets, steps = tables
    figure = plots.growth(heads, onsets, "nss", steps if with_loss else None)
    axes = figure.axes[0]
    assert len(figure.axes) == 1 + with_loss and "1 of 12 heads" in axes.get_title(loc="left")
    (line,) = [line for line in axes.lines if line.get_label() == "L1H2, from step 20"]
    np.testing.assert_allclose(line.get_ydata(), heads.query("layer == 1 and head == 2")["mean"])
    rings = [tuple(c.get_offsets()[0]) for c in axes.collections if len(c.get_offsets()) == 1 and c.get_zorder() == 4]
    assert len(rings) == 1 and rings[0][0] == 20
    assert len(axes.collections[0].get_segments()) == 12
    assert {text.get_text().strip() for text in axes.texts} == {"projector", "language model"}
    if with_loss:
        np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), steps["loss"])


def test_two_series_stand_side_by_side_on_one_axis_of_steps_each_with_its_own_numbers(tables):
    heads, onsets, steps = tables
    longer = heads[heads["step"] > 0].assign(mean=heads["mean"] / 2, step=lambda rows: rows["step"] * 3)
    figure = plots.side_by_side({"one": tables, "other": (longer, onsets.assign(onset=np.nan), steps)}, "nss")
    first, second = figure.axes[:2]
    assert first.get_xlim() == second.get_xlim() and first.get_ylim() == second.get_ylim()
    titles = [axes.get_title(loc="left") for axes in (first, second)]
    assert titles == ["one: 1 of 12 heads", "other: 0 of 12 heads"]
    (line,) = [line for line in second.lines if line.get_label() == "L1H2, no onset"]
    np.testing.assert_allclose(line.get_ydata(), heads.query("layer == 1 and head == 2 and step > 0")["mean"] / 2)
    np.testing.assert_allclose(line.get_xdata(), [15, 60, 300])


def test_maps_of_all_steps_share_one_scale_and_name_each_steps_best_head(tables):
    figure = plots.small_multiples(tables[0], "nss")
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(images) == 4 and len({image.get_clim() for image in images}) == 1
    assert figure.axes[3].get_title(loc="left").startswith("step 100: L1H2")
    assert images[3].get_array()[1, 2] == pytest.approx(
        tables[0].query("step == 100 and layer == 1 and head == 2")["mean"].item()
    )
    lower = plots.small_multiples(tables[0], "nss", higher_is_better=False)
    assert not lower.axes[3].get_title(loc="left").startswith("step 100: L1H2")


def test_the_animation_has_a_frame_for_each_step_and_rests_on_the_last(tables):
    gif = Image.open(io.BytesIO(animation(tables[0], "nss", seconds=0.5)))
    durations = []
    for i in range(gif.n_frames):
        gif.seek(i)
        durations.append(gif.info["duration"])
    assert durations == [500, 500, 500, 1500]


def test_onsets_are_drawn_at_their_step_and_layer_with_their_number(tables):
    axes = plots.layer_onsets(tables[1], tables[0], "nss").axes[0]
    assert [text.get_text() for text in axes.texts] == ["0 of 4", "1 of 4", "0 of 4"]
    points = np.concatenate([c.get_offsets() for c in axes.collections if len(c.get_offsets())])
    np.testing.assert_allclose(points, [[20, 1], [20, 1]])
    nothing = tables[1].assign(onset=np.nan)
    assert not any(len(c.get_offsets()) for c in plots.layer_onsets(nothing, tables[0], "nss").axes[0].collections)


def test_a_metric_that_is_not_there_is_named(tables):
    with pytest.raises(ValueError, match=r"no row of metric 'iou'"):
        plots.growth(tables[0], tables[1], "iou")
