"""Four heads planted in the weights of a real LLaVA are called by their names: what looks at this word's thing, before
or after its first token is read, is told from what looks at any thing, and from what looks at one corner."""

import pytest
from planted import CORNER, KNOWS, LEARNS, THINGS, plant_words, things

import interp
from interp.ranking.study import rank

METRICS = ["pointing_game", "mass_in_mask", "nss"]


def names(heads):
    """Head -> (looks at things, at this word's thing), by one metric's rows of a table of heads."""
    found = heads.set_index(["layer", "head"])
    return {h: (found.loc[h, "p_corrected"] < 0.05, found.loc[h, "p_specific"] < 0.05) for h in ALL}


ALL = (KNOWS, LEARNS, THINGS, CORNER)
SEEN = {KNOWS: (True, True), LEARNS: (True, True), THINGS: (True, False), CORNER: (False, False)}
BEFORE = {KNOWS: (True, True), LEARNS: (False, False), THINGS: (True, False), CORNER: (False, False)}


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(s, marks=pytest.mark.slow) for s in range(2, 10))])
def test_a_head_that_knows_its_word_is_told_from_one_that_looks_at_any_thing(make_tiny_llava, seed):
    lmm = interp.wrap(*make_tiny_llava(seed))
    plant_words(lmm, things(40, seed=100 + seed))
    ranking = rank(lmm, things(40, seed=seed), metrics=METRICS, progress=False)
    assert not ranking.skipped and ranking.manifest["phrases"] == 120 and ranking.phrases.tokens.min() > 1
    for metric, heads in ranking.heads.groupby("metric"):
        assert names(heads) == SEEN, metric
    rows = ranking.rows[ranking.rows.tokens == "all"]
    assert names(rows[rows.rows == "mean"]) == SEEN
    assert names(rows[rows.rows == "first"]) == BEFORE
    assert set(ranking.top(2)) == {KNOWS, LEARNS}
    assert all(set(ranking.top(2, metric=metric)) == {KNOWS, LEARNS} for metric in METRICS)


def test_a_head_that_learns_its_word_from_its_first_token_is_not_called_one_that_knew(make_tiny_llava):
    lmm = interp.wrap(*make_tiny_llava())
    plant_words(lmm, things(40, seed=100))
    ranking = rank(lmm, things(40), metrics=METRICS, rows="first", progress=False)
    for metric, heads in ranking.heads.groupby("metric"):
        assert names(heads) == BEFORE, metric
    assert ranking.top(1) == [KNOWS]
    spread = ranking.heads.set_index(["metric", "layer", "head"])["specificity"]["pointing_game"]
    assert spread[KNOWS] == 1 and spread[THINGS] == spread[LEARNS] == 0


def test_a_ranking_by_the_mean_score_is_another_one_and_both_can_be_had(make_tiny_llava):
    """By specificity the head at all things is among the worst; by its mean score it is better than chance."""
    lmm = interp.wrap(*make_tiny_llava())
    plant_words(lmm, things(40, seed=100))
    samples = things(24)
    by_mean = rank(lmm, samples, metrics=["pointing_game"], by="mean", progress=False)
    by_word = rank(lmm, samples, metrics=["pointing_game"], progress=False)
    for ranking, column in ((by_mean, "mean"), (by_word, "specificity")):
        heads = ranking.heads.sort_values("rank", kind="stable")
        assert heads[column].is_monotonic_decreasing, column
        assert ranking.manifest["by"] == {"pointing_game": column}
    assert by_mean.heads.drop(columns="rank").equals(by_word.heads.drop(columns="rank"))
    mean = by_word.heads.set_index(["layer", "head"])["mean"]
    assert [*by_word.top(12, by="mean")] == [*mean.sort_values(ascending=False, kind="stable").index]
    assert by_word.top(12, by="mean").index(THINGS) == 2 < by_word.top(12).index(THINGS)
