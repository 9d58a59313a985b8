"""The correlation of grounding and effect over heads, and how far it holds for other heads and other images."""

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from interp.causation.correlation import correlations
from interp.statistics.scores import HeadScores

LAYERS, PER_LAYER = 6, 8


def scores(x, y):
    """Scores [image head] as `HeadScores` of one phrase an image."""
    ids = tuple(f"image {i:03d}" for i in range(len(x)))
    shape = (len(x), LAYERS, -1)
    return {n: HeadScores(n, True, ids, ids, v.reshape(shape)) for n, v in (("m", x), ("logprob", y))}


def world(rng, r, images, noise, layers=0.0, shared=False):
    """Other heads, and other images of them: true means correlated by r, both higher in some layers (``layers``), and
    noise of each image, which heads share (``shared``) or not."""
    heads = LAYERS * PER_LAYER
    x, other = rng.normal(size=(2, heads))
    y = r * x + np.sqrt(1 - r**2) * other
    of_layer = layers * np.repeat(rng.normal(size=(2, LAYERS)), PER_LAYER, axis=1)
    own = rng.normal(size=(2, images, heads))
    if shared:
        own = 0.3 * own + rng.normal(size=(images, 3)) @ rng.normal(size=(2, 3, heads)) / np.sqrt(3)
    return x + of_layer[0] + noise * own[0], y + of_layer[1] + noise * own[1]


def coverage(trials, *about):
    """Share of intervals, over all heads and within layers, that hold the mean correlation of all trials."""
    found = [correlations(scores(*world(np.random.default_rng([7, t]), *about)), "m", t).iloc[0] for t in range(trials)]
    return [
        np.mean([row[f"low{kind}"] <= np.mean([r[f"rho{kind}"] for r in found]) <= row[f"high{kind}"] for row in found])
        for kind in ("", "_within")
    ]


def test_both_correlations_by_another_way():
    x, y = world(np.random.default_rng(0), 0.6, 30, 1.0, 1.0)
    row = correlations(scores(x, y), "m", 0).iloc[0]
    assert row["rho"] == pytest.approx(spearmanr(x.mean(0), y.mean(0)).statistic) and row["heads"] == 48
    ranks = [rankdata(v.mean(0).reshape(LAYERS, -1), axis=1).ravel() for v in (x, y)]
    assert row["rho_within"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert row["low"] < row["rho"] < row["high"] and row["low_within"] < row["rho_within"] < row["high_within"]
    # Fisher's half-width for 48 heads is the least that the interval may be.
    half = 1.96 * np.sqrt((1 + row["rho"] ** 2 / 2) / 45)
    assert np.arctanh(row["high"]) - np.arctanh(row["low"]) > 2 * half


def test_reliability_is_the_highest_correlation_that_noise_leaves():
    """Both means have a variance of 1 for heads and 3^2 / 30 for images: 1 / 1.3 is left of a correlation of 1."""
    found = []
    for t in range(20):
        rng = np.random.default_rng(t)
        found.append(correlations(scores(*world(rng, 1.0, 30, 3.0)), "m", t).iloc[0])
    assert np.mean([r["reliability"] for r in found]) == pytest.approx(1 / 1.3, abs=0.04)
    assert np.mean([r["rho"] for r in found]) == pytest.approx(1 / 1.3, abs=0.05)


@pytest.mark.parametrize("layers, shared", [(0.0, False), (0.0, True), (1.0, False)])
def test_the_interval_holds_for_other_heads_and_images_as_often_as_it_says(layers, shared):
    """An interval over images alone holds in .57 of the cases to none."""
    over, within = coverage(60, 0.5, 20, 2.0, layers, shared)
    assert min(over, within) > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 60)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("layers", [0.0, 1.0])
@pytest.mark.parametrize("images, noise", [(12, 1.0), (12, 4.0), (40, 1.0), (40, 5.0)])
@pytest.mark.parametrize("r", [0.0, 0.5, 0.8])
def test_the_interval_holds_in_many_trials(r, images, noise, layers, shared):
    over, within = coverage(200, r, images, noise, layers, shared)
    print(f"| {r} | {images} | {noise} | {layers} | {shared} | {over:.3f} | {within:.3f} |")
    assert min(over, within) > 0.92 - 3 * np.sqrt(0.95 * 0.05 / 200)


def test_few_heads_have_no_interval_and_equal_ranks_have_one():
    x = np.arange(6.0) + np.zeros((10, 1))
    row = correlations(scores(x, 2 * x), "m", 0).iloc[0]
    assert row["rho"] == row["high"] == 1 and row["low"] < 1
    assert np.isnan(row["rho_within"]) and np.isnan(row["low_within"])
    y = np.where(np.arange(6) < 4, np.nan, x)
    assert np.isnan(correlations(scores(x, y), "m", 0).iloc[0][["rho", "low", "high"]].astype(float)).all()
