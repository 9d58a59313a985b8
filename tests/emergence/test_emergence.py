"""Onsets are found where they were planted, for those heads alone, and nowhere else beyond the stated rate."""

import numpy as np
import pytest

from interp.emergence.lags import half_way, lags
from interp.emergence.result import Measurement
from interp.emergence.tables import emergence, first_lasting, onsets
from interp.statistics.scores import HeadScores
from interp.types import Head

STEPS = (0, 5, 20, 100, 400)
LAYERS, HEADS, IMAGES = 2, 4, 30
PLANTED = Head(1, 2)


def scores(rng, gain, higher=True, noise=None):
    """Two phrases an image that hang together; one head does better on its own masks by ``gain``."""
    shape = (IMAGES * 2, LAYERS, HEADS)
    null = 0.3 + 0.05 * rng.standard_normal(shape)
    drawn = np.repeat(rng.standard_normal((IMAGES, LAYERS, HEADS)), 2, 0) + 0.5 * rng.standard_normal(shape)
    values = null + 0.1 * (drawn if noise is None else noise)
    values[:, PLANTED.layer, PLANTED.head] += gain
    sign = 1 if higher else -1
    ids = tuple(f"image {i // 2}" for i in range(IMAGES * 2))
    return HeadScores("m", higher, ids, ids, sign * values, sign * null, np.full(len(ids), 0.3))


def planted_series(seed, onset, higher=True):
    rng = np.random.default_rng(seed)
    return [
        Measurement(
            step, "projector" if step < 100 else "language model", {"m": scores(rng, 0.2 * (step >= onset), higher)}
        )
        for step in STEPS
    ]


@pytest.mark.parametrize("seed", range(10))
def test_a_planted_head_has_its_onset_where_it_was_planted_and_no_other_head_has_one(seed):
    onset = STEPS[1 + seed % 4]
    found = emergence(planted_series(seed, onset, higher=seed % 2 == 0))
    table = found.onsets.set_index(["layer", "head"])
    assert table.loc[PLANTED, "onset"] == onset
    assert table.drop(index=[PLANTED]).onset.isna().all()
    assert table.loc[PLANTED, "stage"] == ("projector" if onset < 100 else "language model")
    assert found.leaders.query("step == 400 and place == 1")[["layer", "head"]].to_numpy().tolist() == [list(PLANTED)]
    layers = found.layers.set_index("layer")
    assert layers.loc[1, "onset"] == onset and np.isnan(layers.loc[0, "onset"])
    assert list(layers.heads) == [0, 1] and list(layers.of) == [HEADS, HEADS]


def test_series_without_grounding_have_no_onsets_beyond_the_stated_rate():
    """The worst case: what chance makes of the last step it makes of all. At 0.05, P(more than 6 of 40) = 0.003."""
    with_onset = 0
    for seed in range(40):
        rng = np.random.default_rng(1000 + seed)
        noise = np.repeat(rng.standard_normal((IMAGES, LAYERS, HEADS)), 2, 0)
        series = [Measurement(step, "", {"m": scores(rng, 0.0, noise=noise)}) for step in STEPS[:2]]
        with_onset += int(emergence(series).onsets.onset.notna().any())
    assert with_onset <= 6


def test_an_onset_must_last_to_the_end():
    sure = np.array([[1, 0, 0, 1], [1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 0, 1]], dtype=bool)
    np.testing.assert_array_equal(first_lasting(sure, np.array([0.0, 5, 20, 100])), [0, 100, np.nan, 100])


def test_half_way_is_read_between_checkpoints():
    curve = np.array([[0.0, 0.4, 0.6, 1.0], [1.0, 0.5, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, np.nan, 1.0, 1.0]])
    found = half_way(curve, np.array([0.0, 10.0, 30.0, 100.0]))
    np.testing.assert_allclose(found, [20.0, 10.0, np.nan, np.nan])
    assert np.isnan(half_way(np.ones((1, 1)), np.array([3.0]))).all()


@pytest.mark.parametrize("loss_step, sign", [(5, 1), (400, -1)])
def test_grounding_after_or_before_the_loss_has_a_lag_of_that_sign(loss_step, sign):
    series, rng = [], np.random.default_rng(3)
    for m in planted_series(0, 100):
        losses = {f"image {i}": 3.0 - 2.0 * (m.step >= loss_step) + 0.1 * rng.standard_normal() for i in range(IMAGES)}
        series.append(Measurement(m.step, m.stage, m.scores, losses))
    found = emergence(series)
    row = found.lags.iloc[0]
    assert row.heads == 1 and np.sign([row.low, row.lag, row.high]).tolist() == [sign] * 3
    assert row.comes == ("after" if sign > 0 else "before")
    assert 20 < row.grounding_half < 100 and row.loss_half == pytest.approx(2.5 if loss_step == 5 else 250, rel=0.1)
    assert found.steps.loss.iloc[0] == pytest.approx(3.0, abs=0.1) and found.steps.recall.isna().all()
    rising = [Measurement(m.step, m.stage, m.scores, {k: -v for k, v in m.losses.items()}) for m in series]
    assert np.isnan(lags(rising, onsets(found.heads, {"m": True}), 0).lag).all()


def test_a_lag_whose_interval_holds_0_has_no_direction_and_one_of_few_images_no_interval():
    series, rng = [], np.random.default_rng(4)
    fall = rng.choice([15, 60, 60, 300], IMAGES)  # images differ; on average the loss falls where the head rises
    for m in planted_series(0, 100):
        losses = {f"image {i}": 3.0 - 2.0 * (m.step >= fall[i]) + 0.5 * rng.standard_normal() for i in range(IMAGES)}
        series.append(Measurement(m.step, m.stage, m.scores, losses))
    found = emergence(series)
    row = found.lags.iloc[0]
    assert row.low < 0 < row.high and row.comes == ""
    few = [Measurement(m.step, m.stage, m.scores, dict(list(m.losses.items())[:4])) for m in series]
    row = lags(few, found.onsets, 0).iloc[0]
    assert np.isnan([row.low, row.high]).all() and row.comes == ""


def test_noun_recall_is_the_share_of_all_targets_that_answers_name():
    (m,) = planted_series(0, 0)[:1]
    named = {"image 0": (1, 2), "image 1": (3, 3), "image 2": (0, 1), "image 3": (1, 1), "image 4": (1, 2)}
    row = emergence([Measurement(m.step, m.stage, m.scores, {}, named)]).steps.iloc[0]
    assert row.recall == pytest.approx(6 / 9) and row.recall_low < 6 / 9 < row.recall_high and np.isnan(row.loss)


def test_agreement_of_a_step_with_a_later_one_is_that_of_scipy():
    from scipy.stats import kendalltau

    series = planted_series(0, 20)
    found = emergence(series)
    means = [m.scores["m"].mean().ravel() for m in series]
    row = found.agreement.query("step_a == 5 and step_b == 400").iloc[0]
    assert row.tau == pytest.approx(kendalltau(means[1], means[4])[0])
    tops = [set(np.argsort(-mean)[:2]) for mean in means]
    assert row.k == 2 and row.overlap == len(tops[1] & tops[4]) / 2 and len(found.agreement) == 10


def test_a_metric_without_masks_has_curves_but_no_onsets():
    series = [
        Measurement(m.step, m.stage, {"m": HeadScores("m", True, s.sample_ids, s.phrases, s.values)})
        for m in planted_series(0, 0)
        for s in m.scores.values()
    ]
    found = emergence(series)
    assert found.onsets.onset.isna().all() and found.heads["mean"].notna().all()


def test_steps_that_do_not_belong_together_are_refused():
    series = planted_series(0, 5)
    for wrong in ([], [series[0], series[0]], [series[0], Measurement(9, "", {})]):
        with pytest.raises(ValueError, match="expected at least one, each once, and the same metrics"):
            emergence(wrong)
