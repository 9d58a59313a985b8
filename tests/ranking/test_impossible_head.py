"""What cannot be known is not found: in layer 0 the row that predicts a noun has read "a" and nothing else; and a model
that is shown another image cannot know where the words' things lie in this one."""

import numpy as np
import pytest

import interp
from interp.datasets import bound_scenes, scenes
from interp.types import Sample, Target
from interp.work.samples import of_kinds

SCENES = 60


@pytest.fixture(scope="module")
def mini():
    return interp.load("mini-llava")


def short_nouns(lmm):
    """Nouns of one token behind the article "a"."""
    tokens = lmm.processor.tokenizer
    article = [n for n in scenes.nouns() if scenes.article(n) == f"a {n}"]
    return [n for n in article if len(tokens.tokenize(f"There is a {n},")) == len(tokens.tokenize("There is a,")) + 1]


@pytest.fixture(scope="module")
def captioned(mini):
    """Scenes of three such things, named in random order, each behind one and the same token."""
    nouns, samples = short_nouns(mini), []
    assert len(nouns) > 40
    for i in range(SCENES):
        rng = scenes.generator("test", i, seed=7)
        chosen = [nouns[k] for k in rng.permutation(len(nouns))[:3]]
        said = [chosen[k] for k in rng.permutation(3)]
        scene = scenes.compose(rng, chosen)
        targets = tuple(Target(noun, mask) for noun, mask in zip(scene.nouns, scene.masks, strict=True))
        answer = f"There is a {said[0]}, a {said[1]} and a {said[2]}."
        samples.append(Sample(f"scene {i:02d}", scene.image, scenes.DESCRIBE[0], answer, targets))
    return samples


@pytest.fixture(scope="module")
def ranking(mini, captioned):
    metrics = ["pointing_game", "mass_in_mask", "average_precision"]
    return interp.rank(mini, captioned, metrics=metrics, nulls=4, progress=False)


def test_no_head_of_the_first_layer_is_said_to_know_a_word_that_it_cannot_have_read(ranking):
    """Although nearly all of them look at things, which is all that masks of other images can show."""
    assert ranking.manifest["phrases"] == 3 * SCENES and (ranking.phrases.tokens == 1).all()
    first = ranking.heads[ranking.heads.layer == 0]
    assert (first.pairs == 3 * SCENES).all() and len(first) == 3 * 8
    for metric, heads in first.groupby("metric"):
        assert (heads.p_corrected < 0.05).sum() >= 5, metric
        assert (heads.p_specific > 0.05).all(), metric
        assert ((heads.specificity_low <= 0) & (heads.specificity_high >= 0)).sum() >= 7, metric


def test_the_test_finds_heads_of_the_first_layer_that_have_read_what_tells_the_word(mini):
    """In "a red cup" the row that predicts the noun is that of "red": the same test must not be blind to it."""
    told = of_kinds(bound_scenes.load(samples=400), ["attribute"])
    metrics = ["pointing_game", "mass_in_mask", "average_precision"]
    ranking = interp.rank(mini, list(told), metrics=metrics, rows="first", nulls=4, progress=False)
    first = ranking.heads[(ranking.heads.layer == 0) & (ranking.heads.p_specific < 0.05)]
    assert set(first.metric) == set(metrics)


def test_the_first_of_the_named_things_cannot_be_known_by_any_head_before_it_is_said(mini, captioned):
    """The order of mention is random: against the things that are not yet named, no row knows which one comes.

    The maps of the row before the first noun are scored on all three things' masks: the first named gets no more.
    """
    from interp import plugins
    from interp.answer.maps import coverage
    from interp.statistics import intervals

    metric, differences = plugins.get("metrics", "mass_in_mask"), []
    for sample in captioned[:40]:
        capture = interp.capture(mini, sample.image, sample.prompt, sample.answer)
        masks = coverage(np.stack([t.mask for t in sample.targets]), capture.grid)
        maps = interp.phrase_maps(capture, "none").maps[:1].expand(3, -1, -1, -1, -1)
        score = metric.score(maps, masks, masks).numpy()
        own = [t.phrase for t in sample.targets].index(capture.phrases[0].root)
        differences.append(score[own] - np.delete(score, own, 0).mean(0))
    test = intervals.sign_flip(np.stack(differences), [s.id for s in captioned[:40]], seed=0)
    assert (test.p_corrected > 0.05).all()


def test_with_another_image_the_words_find_nothing(mini):
    """`--control image`: the best head's specificity goes, and so does what heads have above the null masks."""
    samples = [scenes.sample("test", i) for i in range(40)]
    options = {"metrics": ["mass_in_mask"], "batch": 10, "nulls": 4, "progress": False}
    plain, control = (interp.rank(mini, samples, control=c, **options) for c in ("none", "image"))
    best = plain.top(1)[0]
    one, other = (r.heads.set_index(["layer", "head"]) for r in (plain, control))
    assert one.loc[best, "p_specific"] < 0.05 and one.loc[best, "specificity_low"] > 0
    assert other.loc[best, "specificity_low"] <= 0 <= other.loc[best, "specificity_high"]
    assert abs(other.loc[best, "specificity"]) < one.loc[best, "specificity"] / 3
    assert (other.p_specific > 0.05).all()
    assert (one.p_corrected < 0.05).sum() > 15 and (other.p_corrected < 0.05).sum() <= 1
    above = [(r["mean"] - r["null"]).abs().mean() for r in (one, other)]
    assert above[1] < above[0] / 3
    assert len(control.skipped) <= 3 and control.manifest["control"] == "image"
