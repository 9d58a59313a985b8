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


def test_interval_equals_a_loop_over_draws():
    """The studentised bootstrap of a ratio of sums, one draw at a time, and Student's ends where they lie farther."""
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(9), rng.integers(1, 5, 9))
    values = rng.gamma(1, size=len(image)) + rng.gamma(1, size=9)[image]

    def estimate(images):
        total = np.array([values[image == i].sum() for i in images])
        number = np.array([(image == i).sum() for i in images])
        m = total.sum() / number.sum()
        return m, ((total - m * number) ** 2).sum() / number.sum() ** 2 * 9 / 8

    mean, variance = estimate(range(9))
    t = [(m - mean) / np.sqrt(v + 0.02 * variance) for m, v in (estimate(rng.integers(0, 9, 9)) for _ in range(20000))]
    spread, plain = np.sqrt(1.02 * variance), stats.t.ppf(0.95, 8) * np.sqrt(variance)
    far, near = np.quantile(t, [0.05, 0.95])
    low, high = bootstrap(values, [str(i) for i in image], seed=0, repeats=20000, level=0.9)
    assert low == pytest.approx(min(mean - near * spread, mean - plain), rel=0.02)
    assert high == pytest.approx(max(mean - far * spread, mean + plain), rel=0.02)


def test_a_rate_has_wilsons_interval_and_one_that_is_always_0_or_1_is_not_sure():
    """One phrase an image: its equation's roots, for fewer phrases than scipy counts; 0 of 8: 0 to z^2 / (8 + z^2)."""
    names = [str(i) for i in range(20)]
    values = np.repeat([[1.0], [0.0]], [5, 15], axis=0)
    low, high = bootstrap(values, names, seed=0)
    z, n = stats.norm.ppf(0.975), 19 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 19)) ** 2
    wanted = stats.binomtest(5, 20).proportion_ci(method="wilson")
    ends = np.sort(np.roots([1 + z**2 / n, -(0.5 + z**2 / n), 0.0625]))  # (p - .25)^2 = z^2 p (1 - p) / n
    np.testing.assert_allclose([low[0], high[0]], ends)
    assert low[0] < wanted.low and high[0] > wanted.high
    never, always = (bootstrap(np.full((8, 1), x), names[:8], seed=0) for x in (0.0, 1.0))
    np.testing.assert_allclose([never.low[0], never.high[0]], [0, z**2 / (8 + z**2)], atol=1e-12)
    np.testing.assert_allclose([1 - always.high[0], 1 - always.low[0]], [0, z**2 / (8 + z**2)], atol=1e-12)
    same = bootstrap(np.array([[0.0, 0.4]] * 8), names[:8], seed=0, rates=False)
    np.testing.assert_allclose(np.stack(same), [[0, 0.4]] * 2, atol=1e-12)


def test_sign_flip_of_five_images_by_hand():
    """Of the 32 flips of (1, 2, 3, 4, 5) only the unflipped one reaches the seen mean: p is near 1/32."""
    p, corrected = sign_flip(np.arange(1.0, 6)[:, None], list("abcde"), seed=0, repeats=20000)
    assert p[0] == pytest.approx(1 / 32, abs=0.005)
    assert corrected[0] == p[0]


@pytest.mark.parametrize("images", [2, 4, 5, 6])
def test_a_head_that_few_images_have_takes_no_other_heads_significance(images):
    """Alike on a few images it has an infinite t; the others' p move by no more than one more head may move them."""
    values, clusters = clustered(np.random.default_rng(2), shift=0.9)
    few = np.full(len(values), np.nan)
    few[np.isin(clusters, sorted(set(clusters))[:images])] = 0.5
    alone = sign_flip(values, clusters, seed=0).p_corrected
    p, beside = sign_flip(np.column_stack([values, few]), clusters, seed=0)
    assert (alone < 0.01).all() and (beside[:-1] < 0.02).all()
    assert np.isnan(p[-1]) == np.isnan(beside[-1]) == (images < 5)
    assert images < 5 or p[-1] == pytest.approx(0.5**images, abs=0.01)


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


KINDS = {
    "rate .1": (lambda z: (z < stats.norm.ppf(0.1)).astype(float), 0.1),
    "rate .3": (lambda z: (z < stats.norm.ppf(0.3)).astype(float), 0.3),
    "rate .5": (lambda z: (z < 0).astype(float), 0.5),
    "uniform": (stats.norm.cdf, 0.5),
    "beta(.5, 2.5)": (lambda z: stats.beta.ppf(stats.norm.cdf(z), 0.5, 2.5), 1 / 6),
    "exponential": (lambda z: -stats.norm.logsf(z), 1.0),
}
"""Scores as functions of a normal deviate, and their mean; the last two are skewed."""


def coverage_of(kind, images, alike, rounds, columns, repeats):
    """Share of intervals that hold the true mean; images have 1 to 5 phrases, correlated by ``alike``."""
    rng, right = np.random.default_rng(images), 0.0
    score, truth = KINDS[kind]
    for seed in range(rounds):
        image = np.repeat(np.arange(images), rng.integers(1, 6, images))
        shared, own = rng.normal(size=(images, columns))[image], rng.normal(size=(len(image), columns))
        values = score(np.sqrt(alike) * shared + np.sqrt(1 - alike) * own)
        low, high = bootstrap(values, [f"{i:03d}" for i in image], seed=seed, repeats=repeats)
        right += ((low <= truth) & (truth <= high)).mean() / rounds
    return right


@pytest.mark.parametrize("images", [8, 16, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_few_images_are_covered_as_often_as_is_said(kind, images):
    """Percentile intervals cover .87 at 8 images. Skewed scores whose phrases hang together are the hardest."""
    least = 0.925 if kind in ("beta(.5, 2.5)", "exponential") else 0.935
    assert coverage_of(kind, images, 0.0, 8, 64, 400) > least - 3 * np.sqrt(0.05 * 0.95 / 512)


@pytest.mark.slow
@pytest.mark.parametrize("alike", [0.0, 0.5])
@pytest.mark.parametrize("images", [8, 16, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_few_images_are_covered_in_many_trials(kind, images, alike):
    found = coverage_of(kind, images, alike, 100, 64, 1000)
    print(f"| {kind} | {images} | {alike} | {found:.3f} |")
    assert found > 0.93 - 3 * np.sqrt(0.05 * 0.95 / 6400)


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
    values[:, 2] = 0.25
    one = np.array(clusters) == clusters[0]
    values[~one, 3] = np.nan
    values[one, 4] = np.nan
    low, high = bootstrap(values, clusters, seed=0)
    assert np.isnan(low).tolist() == [False, True, False, True, False]
    np.testing.assert_allclose([low[2], high[2]], 0.25)
    values[:, 2] = 0.0
    p, corrected = sign_flip(values, clusters, seed=0)
    assert np.isnan(p).tolist() == np.isnan(corrected).tolist() == [False, True, True, True, False]
    kept = [c for c, left_out in zip(clusters, one, strict=True) if not left_out]
    alone = bootstrap(values[~one][:, 4:], kept, seed=0, repeats=4000)
    np.testing.assert_allclose([low[4], high[4]], [alone.low[0], alone.high[0]], atol=0.1)
    four = np.isin(clusters, sorted(set(clusters))[:4])
    assert np.isnan(bootstrap(values[four], [c for c, left in zip(clusters, four, strict=True) if left], seed=0)).all()


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
