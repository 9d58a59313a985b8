"""Intervals hold what they promise and the permutation test finds nothing where there is nothing."""

import numpy as np
import pytest
from scipy import stats

from interp.statistics.intervals import bootstrap, cluster_sums, mean, sign_flip

HEADS = 12


def clustered(rng, images=40, per_image=(1, 5), heads=HEADS, shift=0.0):
    """Values that hang together within an image and across heads; mean ``shift``. Returns values and image names."""
    sizes = rng.integers(*per_image, images)
    image = np.repeat(np.arange(images), sizes)
    shared = rng.normal(size=(images, 1)) + 0.5 * rng.normal(size=(images, heads))
    values = shared[image] + 0.5 * rng.normal(size=(len(image), heads)) + shift
    return values, [f"image {i:03d}" for i in image]


def test_mean_over_images_by_hand():
    values = np.array([[1.0, np.nan], [3.0, 4.0], [10.0, np.nan]])
    sums = cluster_sums(values, ["b", "b", "a"])
    assert sums.total.tolist() == [[10, 0], [4, 4]]
    assert sums.number.tolist() == [[1, 0], [2, 1]]
    assert mean(values).tolist() == [14 / 3, 4.0]


def test_bootstrap_of_two_images_by_hand():
    """Two images with sums 0 (one phrase) and 6 (two phrases): the mean of a draw is 0, 6/3 or 12/4."""
    values = np.array([[0.0], [2.0], [4.0]])
    low, high = bootstrap(values, ["a", "b", "b"], seed=0, repeats=4000, level=0.40)
    assert (low[0], high[0]) == (2.0, 2.0)  # aa and bb are a quarter each: the middle 40 % are ab
    low, high = bootstrap(values, ["a", "b", "b"], seed=0, repeats=4000, level=0.90)
    assert (low[0], high[0]) == (0.0, 3.0)


def test_sign_flip_of_three_images_by_hand():
    """Of the eight flips of (1, 2, 3) only the unflipped one reaches the seen mean: p is near 1/8."""
    p, corrected = sign_flip(np.array([[1.0], [2.0], [3.0]]), ["a", "b", "c"], seed=0, repeats=20000)
    assert p[0] == pytest.approx(1 / 8, abs=0.01)
    assert corrected[0] == p[0]


def test_interval_equals_scipys_bootstrap_for_one_phrase_per_image():
    values = np.random.default_rng(0).gamma(2, size=60)
    ours = bootstrap(values[:, None], [str(i) for i in range(60)], seed=0, repeats=20000)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20000, rng=1).confidence_interval
    np.testing.assert_allclose([ours.low[0], ours.high[0]], [theirs.low, theirs.high], rtol=0.01)


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
def test_p_equals_scipys_permutation_test_for_one_phrase_per_image(alternative):
    values = np.random.default_rng(3).normal(0.4, 1, 30)
    ours = sign_flip(values[:, None], [str(i) for i in range(30)], seed=0, repeats=20000, alternative=alternative)
    theirs = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=20000, alternative=alternative, rng=1
    )
    assert ours.p[0] == pytest.approx(theirs.pvalue, abs=0.005)


def test_interval_covers_the_true_mean_as_often_as_it_says():
    """A bootstrap over phrases, blind to images, would cover far less: about 0.75 here."""
    rng, covered, blind = np.random.default_rng(0), [], []
    for seed in range(150):
        values, clusters = clustered(rng, images=60, per_image=(2, 6), heads=4)
        for names, into in ((clusters, covered), ([str(i) for i in range(len(values))], blind)):
            low, high = bootstrap(values, names, seed=seed, repeats=400)
            into.append((low <= 0) & (high >= 0))
    assert 0.90 < np.mean(covered) < 0.98
    assert np.mean(blind) < 0.85


def test_family_wise_error_stays_at_alpha_without_an_effect():
    """400 simulated studies of 12 correlated heads: the count of any false finding obeys the binomial's bounds."""
    rng, found, single = np.random.default_rng(1), 0, []
    for seed in range(400):
        result = sign_flip(*clustered(rng), seed=seed, repeats=300)
        found += bool((result.p_corrected <= 0.05).any())
        single.append(result.p)
    assert stats.binom.ppf(0.001, 400, 0.05) <= found <= stats.binom.ppf(0.999, 400, 0.05)
    # Uncorrected, each head alone is right and the family is not.
    assert np.mean(np.array(single) <= 0.05) == pytest.approx(0.05, abs=0.025)
    assert (np.array(single) <= 0.05).any(1).mean() > 0.1


def test_correction_still_finds_a_real_effect():
    values, clusters = clustered(np.random.default_rng(2))
    values[:, 3] += 2.0
    result = sign_flip(values, clusters, seed=0)
    assert result.p_corrected[3] < 0.01
    assert (np.delete(result.p_corrected, 3) > 0.05).all()
    assert (result.p_corrected >= result.p).all()


def test_p_is_never_zero():
    result = sign_flip(np.ones((50, 2)), [str(i) for i in range(50)], seed=0, repeats=99)
    assert (result.p == 1 / 100).all()
    assert (result.p_corrected == 1 / 100).all()


def test_same_seed_same_result_and_row_order_does_not_matter():
    values, clusters = clustered(np.random.default_rng(4))
    order = np.random.default_rng(5).permutation(len(values))
    shuffled = values[order], [clusters[i] for i in order]
    for function in (bootstrap, sign_flip):
        first, again, moved = (
            function(values, clusters, seed=7),
            function(values, clusters, seed=7),
            function(*shuffled, seed=7),
        )
        np.testing.assert_array_equal(first, again)
        np.testing.assert_allclose(first, moved, atol=1e-12)
        assert not np.array_equal(first, function(values, clusters, seed=8))


def test_undefined_values_are_left_out_and_undefined_heads_are_nan():
    values, clusters = clustered(np.random.default_rng(6), heads=5)
    values[:, 1] = np.nan
    values[:, 2] = 0.0
    one = np.array(clusters) == clusters[0]
    values[~one, 3] = np.nan
    values[one, 4] = np.nan
    low, high = bootstrap(values, clusters, seed=0)
    assert np.isnan(low).tolist() == [False, True, False, True, False]
    assert (low[2], high[2]) == (0.0, 0.0)
    p, corrected = sign_flip(values, clusters, seed=0)
    assert np.isnan(p).tolist() == np.isnan(corrected).tolist() == [False, True, True, True, False]
    kept = [c for c, left_out in zip(clusters, one, strict=True) if not left_out]
    alone = bootstrap(values[~one][:, 4:], kept, seed=0, repeats=4000)
    np.testing.assert_allclose([low[4], high[4]], [alone.low[0], alone.high[0]], atol=0.1)


def test_axes_of_the_heads_are_kept():
    values, clusters = clustered(np.random.default_rng(0))
    flat, square = (bootstrap(v, clusters, seed=0) for v in (values, values.reshape(-1, 3, 4)))
    np.testing.assert_array_equal(flat.low, square.low.ravel())
    assert sign_flip(values.reshape(-1, 3, 4), clusters, seed=0).p.shape == (3, 4)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="2 clusters for 3 rows"):
        bootstrap(np.zeros((3, 1)), ["a", "b"], seed=0)
    with pytest.raises(ValueError, match=r"level=95"):
        bootstrap(np.zeros((3, 1)), ["a", "b", "c"], seed=0, level=95.0)
    with pytest.raises(ValueError, match="repeats=0"):
        sign_flip(np.zeros((3, 1)), ["a", "b", "c"], seed=0, repeats=0)
    empty = bootstrap(np.zeros((0, 2)), [], seed=0)
    assert np.isnan(empty.low).all()
