"""A set of heads is told from random sets of its layers by its rank among them."""

import numpy as np
import pytest
from scipy import stats

from interp.causation.harm import _among_random
from interp.causation.units import units_of
from interp.statistics.contrasts import differences


def test_all_sets_of_the_layers_are_taken_where_they_are_few_enough():
    heads = {"top": [(0, 1), (2, 3), (2, 5)]}
    units = units_of(heads, 3, 8, draws=300, seed=0)
    assert len({*units.all}) == len(units.all) == 8 * 28 and len(units.nulls[0]) == 8 * 28 - 1
    many = units_of({"top": [(0, h) for h in range(5)] + [(1, 1)]}, 2, 32, draws=200, seed=0)
    assert len(set(many.nulls[0])) == 200 and many == units_of({"top": many.all[0]}, 2, 32, draws=200, seed=0)


@pytest.mark.parametrize("strong", [0, 4])
def test_a_set_of_heads_that_nothing_sets_apart_is_seldom_out_of_the_ordinary(strong):
    """Sets of heads chosen blindly, in models where ``strong`` heads of 32 do nearly all. Their effects differ, so that
    the difference from the mean of eight random sets is sure far more often than one time in twenty."""
    rng, found, sure, trials = np.random.default_rng(0), [], 0, 60
    for trial in range(trials):
        single = rng.exponential(size=(2, 16))
        single.flat[rng.permutation(32)[:strong]] += 10
        own = [(layer, int(h)) for layer in range(2) for h in rng.permutation(16)[: 2 - layer]]
        units = units_of({"own": own}, 2, 16, draws=199, seed=trial)
        effect = np.array([sum(single[h] for h in unit) for unit in units.all])
        values = effect + rng.normal(size=(60, len(effect)))
        row = _among_random(values, units).iloc[0]
        assert row["random"] == 199 and row["p_random"] == row["rank_among_random"] / 200
        found.append(row["p_random"] <= 0.05)
        gap = differences(values[:, 1:9].mean(1)[:, None], values[:, :1], [f"{i}" for i in range(60)],
                          higher_is_better=True, seed=trial)  # fmt: skip
        sure += gap["favours"].iloc[0] != ""
    assert stats.binom.cdf(sum(found), trials, 0.05) < 0.999
    assert sure > 0.5 * trials
