"""Specificity is what its definition says, phrase by phrase and head by head, however the samples are put together."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from interp import plugins
from interp.answer.maps import coverage
from interp.datasets import scenes
from interp.ranking.specificity import partners
from interp.statistics.nulls import MaskPool
from interp.types import Sample, Target

MASKED = [name for name in plugins.names("metrics") if plugins.get("metrics", name).uses_mask]

CASES = (
    # things in the image, answer, what its phrases name, and the places of each phrase's partners: all by hand
    ("backpack turtle duck donut airplane ambulance",
     "There is a backpack, a turtle, a duck, a donut, an airplane and an ambulance.",
     "0 1 2 3 4 5", ((1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2), (5,), (4,))),
    ("backpack turtle", "There is a backpack beside a turtle. The backpack is brown.", "0 1 0", ((1,), (0, 2), (1,))),
    ("duck:brown duck:white donut backpack",
     "A brown duck and a white duck stand beside a donut. Each duck is near a backpack.",
     "0 1 2 01 3", ((1, 2, 4), (0, 2, 4), (0, 1, 3, 4), (2, 4), (0, 1, 2, 3))),
    ("duck duck donut", "There is a donut beside a duck.", "2 01", ((1,), (0,))),
    ("backpack turtle", "There is a backpack.", "0", ((),)),
    ("backpack airplane", "There is a backpack and an airplane.", "0 1", ((), ())),
)  # fmt: skip


def case(i):
    """The sample of a case: its things on a photograph."""
    things, answer, _, _ = CASES[i]
    nouns = [thing.split(":")[0] for thing in things.split()]
    scene = scenes.compose(scenes.generator("test", i), nouns)
    called = [" ".join(reversed(thing.split(":"))) for thing in things.split()]
    targets = tuple(Target(name, mask) for name, mask in zip(called, scene.masks, strict=True))
    return Sample(f"case {i}", scene.image, "Describe the image.", answer, targets)


@pytest.fixture(scope="module")
def samples():
    return [case(i) for i in range(len(CASES))]


@pytest.fixture(scope="module")
def mini():
    return interp.load("mini-llava")


@pytest.fixture(scope="module")
def read(mini, samples):
    """The captures, one sample at a time."""
    return [interp.capture(mini, s.image, s.prompt, s.answer, sample_id=s.id) for s in samples]


@pytest.fixture(scope="module")
def ranking(mini, samples):
    return interp.rank(mini, samples, metrics=MASKED, batch=1, progress=False)


def named(i):
    """Places of the targets that each phrase of a case names."""
    return [[int(k) for k in some] for some in CASES[i][2].split()]


def by_definition(metric, maps, masks, others, pairs):
    """d(p, q) = [s(a_p, M_p) - s(a_p, M_q) + s(a_q, M_q) - s(a_q, M_p)] / 2, one pair at a time; its mean over q."""

    def s(p, q):
        return metric.score(maps[p : p + 1], masks[q : q + 1], others[None])[0].numpy().astype(np.float64)

    sign = 1 if metric.higher_is_better else -1
    found = np.full(maps.shape[:3], np.nan)
    for p, some in enumerate(pairs):
        if some:
            found[p] = np.mean([sign * (s(p, p) - s(p, q) + s(q, q) - s(q, p)) / 2 for q in some], axis=0)
    return found


@pytest.mark.parametrize("name", MASKED)
def test_specificity_is_what_the_definition_gives_pair_by_pair(samples, read, ranking, name):
    """Words of another token class, a thing named twice, unions and lonely words included."""
    metric, pool, expected = plugins.get("metrics", name), MaskPool.of(samples), []
    for i, (sample, capture) in enumerate(zip(samples, read, strict=True)):
        assert len(capture.phrases) == len(named(i))
        masks = np.stack([np.any([sample.targets[k].mask for k in some], axis=0) for some in named(i)])
        others = pool.usual_places(sample.image_id, sample.image.shape[:2], capture.grid)
        maps = interp.phrase_maps(capture, "none" if metric.raw else "answer").maps
        expected.append(by_definition(metric, maps, coverage(masks, capture.grid), others, CASES[i][3]))
    together = np.concatenate(expected)
    unit = max(1.0, np.nanmax(np.abs(ranking.scores[name].values)))  # nss has no limits: single precision of its size
    np.testing.assert_allclose(ranking.scores[name].specificity, together, atol=1e-6 * unit, rtol=0)
    heads = ranking.heads[ranking.heads.metric == name]
    np.testing.assert_allclose(heads.specificity, np.nanmean(together, 0).ravel(), atol=1e-6, rtol=0)
    assert np.nanmax(np.abs(together)) > 0.05
    lonely = [not some for _, _, _, pairs in CASES for some in pairs]
    assert (np.isnan(together).all((1, 2)) == lonely).all() and sum(lonely) == 3
    assert ranking.scores[name].partners.tolist() == [len(some) for _, _, _, pairs in CASES for some in pairs]
    assert (heads.pairs == sum(len(some) for _, _, _, pairs in CASES for some in pairs) // 2).all()


def test_a_word_of_several_tokens_is_not_compared_with_one_of_one_token(read):
    """What the cases take for granted: which of the words have one token."""
    for capture in read:
        for phrase in capture.phrases:
            assert (len(phrase.tokens) > 1) == (phrase.root in {"airplane", "ambulance"}), phrase


@pytest.mark.parametrize("turn", [1, -1])
def test_batches_and_the_order_of_the_data_set_do_not_change_specificity(
    mini, samples, read, ranking, monkeypatch, turn
):
    """The same captures in other company: every phrase's number is the same to the last bit, and so is every table."""
    known = dict(zip((s.id for s in samples), read, strict=True))
    monkeypatch.setattr("interp.ranking.measure.captures", lambda lmm, some, **how: [known[s.id] for s in some])
    two, five = (interp.rank(mini, samples[::turn], metrics=MASKED, batch=batch, progress=False) for batch in (2, 5))
    order = sorted(range(len(two.scores[MASKED[0]].sample_ids)), key=lambda i: two.scores[MASKED[0]].sample_ids[i])
    for name in MASKED:
        found = [r.scores[name].specificity.tobytes() for r in (two, five)]
        assert found[0] == found[1]
        assert two.scores[name].specificity[order].tobytes() == ranking.scores[name].specificity.tobytes(), name
    for name, table in two.tables().items():
        assert table.equals(five.tables()[name]), name
    columns = ["specificity", "specificity_low", "specificity_high", "p_specific", "pairs", "rank"]
    np.testing.assert_allclose(two.heads[columns], ranking.heads[columns], rtol=1e-12)


def test_batches_of_the_model_itself_change_specificity_by_rounding_alone(mini, samples, ranking):
    five = interp.rank(mini, samples, metrics=["mass_in_mask", "nss"], batch=5, progress=False)
    for name, scores in five.scores.items():
        np.testing.assert_allclose(scores.specificity, ranking.scores[name].specificity, atol=1e-4)


def test_things_of_two_images_are_never_partners():
    """Not even in one batch, where they have the same names and places."""
    word = {"tokens": 1, "targets": [0]}
    words = [word | {"sample_id": "a"}, word | {"sample_id": "b", "targets": [1]}]
    assert partners(words).shape == (2, 0)
    words += [word | {"sample_id": "a", "targets": [1, 2]}, word | {"sample_id": "a", "targets": [2]}]
    assert partners(words).tolist() == [[2, 3], [-1, -1], [0, -1], [0, -1]]
    assert partners([]).shape == (0, 0)


def test_a_phrase_that_the_text_has_told_is_not_compared_with_a_free_one():
    """Else what a head knows of bound words would depend on what it knows of free ones, and the contrast be lost."""
    kinds = ("free", "relation", "relation", "again", "free", "again")
    words = [{"sample_id": "a", "tokens": 1, "targets": [k], "kind": kind} for k, kind in enumerate(kinds)]
    assert partners(words).tolist() == [[4], [2], [1], [5], [0], [3]]
    unsaid = [{k: v for k, v in word.items() if k != "kind"} for word in words]
    assert partners(unsaid).shape == (6, 5)


def test_what_depends_on_the_map_or_on_the_mask_alone_cancels():
    """A head with one map for all words has specificity 0 in every metric, and so have things with one mask."""
    from interp.ranking.scoring import score_each
    from interp.ranking.specificity import of_partners, specificity

    draw = torch.Generator().manual_seed(0)
    maps = torch.rand(1, 2, 3, 6, 6, generator=draw).expand(4, -1, -1, -1, -1).contiguous()
    masks = (torch.rand(4, 6, 6, generator=draw) > 0.7).float()
    usual, partner = masks.mean(0).expand(4, -1, -1), np.array([[j for j in range(4) if j != i] for i in range(4)])
    for name in MASKED:
        metric = plugins.get("metrics", name)
        cross = score_each(metric, maps, of_partners(masks, partner), usual)
        found = specificity(metric, metric.score(maps, masks, usual), cross, partner)
        assert found.abs().max() < 1e-6, name
        same = masks[:1].expand(4, -1, -1).contiguous()
        free = torch.rand(4, 2, 3, 6, 6, generator=draw)
        cross = score_each(metric, free, of_partners(same, partner), usual)
        found = specificity(metric, metric.score(free, same, usual), cross, partner)
        assert found.abs().max() < 1e-6, name


@pytest.mark.parametrize("size", [3, 40])
def test_a_thing_too_small_for_the_grid_makes_no_pair(mini, samples, read, monkeypatch, size):
    """Else the tables say that a number rests on pairs for which it is not defined."""
    capture, sample = read[3], samples[3]
    mask = np.zeros_like(sample.targets[2].mask)
    mask[4 : 4 + size, 4 : 4 + size] = True
    sample = replace(sample, targets=(*sample.targets[:2], Target("donut", mask)))
    monkeypatch.setattr("interp.ranking.measure.captures", lambda lmm, some, **how: [capture] * len(some))
    ranking = interp.rank(mini, [sample], metrics=["nss", "image_mass"], progress=False)
    seen = int(size > 3)
    assert ranking.scores["nss"].partners.tolist() == [seen, seen]
    assert (ranking.heads[ranking.heads.metric == "nss"].pairs == seen).all()
    assert np.isfinite(ranking.scores["nss"].specificity).any() == bool(seen)


@pytest.mark.parametrize("name", ["pointing_game", "mass_in_mask"])
def test_the_mean_map_of_all_heads_has_its_own_specificity(samples, read, ranking, name):
    """Not the mean of the heads' own: ``phrases`` and ``reductions`` say what the definition gives."""
    metric, expected = plugins.get("metrics", name), []
    for i, (sample, capture) in enumerate(zip(samples, read, strict=True)):
        masks = np.stack([np.any([sample.targets[k].mask for k in some], axis=0) for some in named(i)])
        masks = coverage(masks, capture.grid)
        maps = interp.phrase_maps(capture, "none" if metric.raw else "answer").maps.mean((1, 2))[:, None, None]
        expected.append(by_definition(metric, maps, masks, masks[0], CASES[i][3])[:, 0, 0])
    expected = np.concatenate(expected)
    table = ranking.phrases[(ranking.phrases.metric == name) & (ranking.phrases.heads == "paper")]
    np.testing.assert_allclose(table.specificity, expected, atol=1e-6)
    row = ranking.reductions.set_index(["metric", "heads"]).loc[(name, "paper")]
    assert row.specificity == pytest.approx(np.nanmean(expected), abs=1e-6)
