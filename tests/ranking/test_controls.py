"""Controls and choices do what their names say, in cases worked out by hand: sinks, rows, mentions, images, halves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from interp.ranking.controls import other_images, sinks_of, without
from interp.statistics.nulls import halves
from interp.types import Capture, PatchGrid, Phrase, Sample, Skip, Target

SIDE, PIXELS = 4, 8
NAMES = ("dog", "chair", "table")


class Fake:
    """Stands for a model of one layer and two heads: the first knows the word, the second looks at (0, 0)."""

    name, layers, heads = "fake", 1, 2


def cell(row, col):
    """The mask of one patch."""
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[row, col] = True
    return mask.repeat(PIXELS, 0).repeat(PIXELS, 1)


def sample(name, answer, image_id="", cells=((1, 1), (2, 3), (3, 0)), names=NAMES):
    image = np.full((SIDE * PIXELS, SIDE * PIXELS, 3), sum(name.encode()) % 256, dtype=np.uint8)
    targets = tuple(Target(n, cell(*at)) for n, at in zip(names, cells, strict=True))
    return Sample(name, image, "What is it?", answer, targets, image_id)


def hand_made(lmm, samples, **how):
    """A token a word, whose map depends on the image and the word alone; with ``sink``, (0, 3) outshines all."""
    for s in samples:
        words = s.answer.split()
        where = {t.phrase: t.mask[::PIXELS, ::PIXELS] for t in s.targets}
        maps = np.zeros((len(words), 1, 2, SIDE, SIDE))
        for i, word in enumerate(words):
            rng = np.random.default_rng([*s.image_id.encode(), *word.encode()])
            maps[i] = rng.uniform(0, 0.4, (1, 2, SIDE, SIDE))
            maps[i, 0, 0] += where.get(word, 0) * rng.uniform(0, 1)
            maps[i, 0, 1, 0, 0] += 1
            maps[i, ..., 0, 3] += getattr(lmm, "sink", 0)
        starts = np.cumsum([0, *(len(w) + 1 for w in words)])
        phrases = tuple(
            Phrase(w, w, w, int(starts[i]), int(starts[i]) + len(w), (i,)) for i, w in enumerate(words) if w in NAMES
        )
        attention = torch.from_numpy(maps / 100).float()
        grid = PatchGrid(np.arange(SIDE * SIDE).reshape(SIDE, SIDE), (0.0, 0.0, 32.0, 32.0))
        whole = (s.id, s.prompt, s.answer, tuple(words), grid, how["query"])
        yield Capture(*whole, np.arange(len(words)), attention, attention.mean(0), phrases)


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    monkeypatch.setattr("interp.ranking.measure.captures", hand_made)


def quick(samples, lmm=None, **options):
    return interp.rank(lmm or Fake(), samples, **({"progress": False, "normalise": "none"} | options))


def test_the_sinks_are_the_patches_that_all_heads_attend_to_most():
    """Not the one at which a single head peaks; one in a hundred, rounded up."""
    mean = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)) / 100
    mean[0, 1, 5, 5] = 0.2
    mean[:, :, 0, 7] += 0.1
    mean[:, :, 11, 2] += 0.05
    assert sorted(sinks_of(mean).tolist()) == [7, 11 * 12 + 2]
    assert len(sinks_of(mean[..., :10, :10])) == len(sinks_of(mean[..., :4, :4])) == 1


def test_only_the_sinks_are_lowered_each_map_to_its_own_least_value():
    maps = torch.tensor([[[[[5.0, 1.0], [2.0, 9.0]]]], [[[[-1.0, 4.0], [-3.0, 0.0]]]]])
    lowered = without(maps, torch.tensor([0, 3]))
    assert lowered.flatten(1).tolist() == [[1.0, 1.0, 2.0, 1.0], [-3.0, 4.0, -3.0, -3.0]]
    assert maps[0, 0, 0, 0, 0] == 5.0


@pytest.mark.parametrize("normalise", ["none", "answer"])
def test_without_its_sink_a_map_shows_what_its_word_adds(normalise):
    """One patch outshines all, so that every map points at it; the control takes that patch away and no other."""
    lmm, samples = Fake(), [sample(f"image {i}", "dog and chair and table") for i in range(12)]
    lmm.sink = 3.0
    found = {c: quick(samples, lmm, control=c, normalise="none").scores for c in ("none", "sinks")}
    assert (found["none"]["pointing_game"].values == 0).all()
    assert found["sinks"]["pointing_game"].values[:, 0, 0].mean() > 0.6
    capture = next(hand_made(lmm, samples[:1], query="predicting"))
    maps = interp.phrase_maps(capture, normalise).maps
    maps[..., 0, 3] = maps.amin((-1, -2))
    by_hand = [[[_nss(m, t.mask) for m in maps[i, 0]]] for i, t in enumerate(samples[0].targets)]
    again = quick(samples, lmm, control="sinks", normalise=normalise)
    np.testing.assert_allclose(again.scores["nss"].values[:3], by_hand, atol=1e-4)


def _nss(patch_map, mask):
    flat = patch_map.double()
    return float(((flat - flat.mean()) / flat.std(correction=0))[torch.from_numpy(mask[::PIXELS, ::PIXELS])].mean())


def test_a_word_is_read_in_the_row_that_was_asked_for():
    """Tokens 2, 3 and 4 are one word, 7 is another; the capture kept no other row."""
    attention = torch.rand(4, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    phrases = (
        Phrase("a doghouse", "doghouse", "doghouse", 2, 10, (2, 3, 4)),
        Phrase("a cat", "cat", "cat", 20, 23, (7,)),
    )
    capture = next(hand_made(Fake(), [sample("image", "dog")], query="predicting"))
    mean = attention.mean(0) / 2
    capture = replace(capture, kept=np.array([2, 3, 4, 7]), attention=attention, mean=mean, phrases=phrases)
    for rows, expected in (("first", attention[0]), ("last", attention[2]), ("mean", attention[:3].mean(0))):
        raw, less = (interp.phrase_maps(capture, how, rows=rows).maps for how in ("none", "answer"))
        assert torch.allclose(raw, torch.stack([expected, attention[3]]), atol=1e-7), rows
        assert torch.allclose(less, raw - mean, atol=1e-7), rows
    with pytest.raises(ValueError, match="rows is 'second'; expected one of 'mean', 'first', 'last'"):
        interp.phrase_maps(capture, rows="second")


def long_words(lmm, samples, **how):
    """Every word has the two tokens of its place and the next: only the first knows it, the last looks at (0, 0)."""
    for capture in hand_made(lmm, samples, **how):
        phrases = tuple(replace(p, tokens=(p.tokens[0], p.tokens[0] + 1)) for p in capture.phrases)
        yield replace(capture, phrases=phrases)


def test_the_rows_of_a_ranking_are_those_of_its_maps(monkeypatch):
    monkeypatch.setattr("interp.ranking.measure.captures", long_words)
    samples = [sample(f"image {i}", "dog and chair and table and") for i in range(12)]
    mean = quick(samples, metrics=["nss"])
    for rows in ("mean", "first", "last"):
        own = quick(samples, metrics=["nss"], rows=rows)
        table = mean.rows.query("rows == @rows and tokens == 'several'").reset_index(drop=True)
        columns = ["mean", "low", "high", "p", "specificity", "p_specific", "pairs"]
        np.testing.assert_allclose(table[columns], own.heads[columns], atol=1e-6)
        assert (own.heads.loc[0, "p_specific"] < 0.05) == (rows != "last"), rows


def test_a_second_mention_is_left_out_when_only_first_ones_are_asked_for():
    """A later one may copy; one that names a thing together with others that were named is a later one too."""
    samples = [sample(f"image {i}", "dog and chair and dog and table and chair") for i in range(6)]
    every, first = (quick(samples, metrics=["nss"], mentions=m) for m in ("all", "first"))
    assert every.scores["nss"].phrases[:5] == ("dog", "chair", "dog", "table", "chair")
    assert every.phrases.query("heads == 'paper'").mention.tolist()[:5] == [1, 1, 2, 1, 2]
    assert first.scores["nss"].phrases == ("dog", "chair", "table") * 6
    assert every.scores["nss"].partners.tolist()[:5] == [3, 3, 3, 4, 3]
    assert first.scores["nss"].partners.tolist() == [2] * 18
    kept = [i for i in range(30) if i % 5 in (0, 1, 3)]
    np.testing.assert_array_equal(first.scores["nss"].values, every.scores["nss"].values[kept])
    subset = every.subsets.set_index(["heads", "subset"])["n"]
    assert subset["paper", "first mention"] == 18


def test_samples_of_one_image_are_one_cluster():
    """Else three expressions for one photograph count as three photographs, and every interval is too narrow."""
    rng, one, many = np.random.default_rng(0), [], []
    for i in range(16):
        cells = [divmod(int(k), SIDE) for k in rng.permutation(SIDE * SIDE)[:3]]
        one.append(sample(f"image {i}", "dog chair table", cells=cells))
        parts = [replace(one[-1], id=f"{i} {k}", answer=NAMES[k], targets=(one[-1].targets[k],)) for k in range(3)]
        many += [replace(p, image_id=f"image {i}") for p in parts]
    whole, parts = (quick(s, metrics=["nss", "pointing_game"]) for s in (one, many))
    same = ["n", "images", "mean", "low", "high", "half_a", "half_b"]
    np.testing.assert_allclose(parts.heads[same], whole.heads[same], rtol=1e-12)
    alone = quick([replace(s, image_id=s.id) for s in many], metrics=["nss"]).heads
    assert (alone.images == 48).all() and (whole.heads.images == 16).all()
    assert parts.phrases.groupby("image_id").half.nunique().max() == 1
    assert parts.manifest["images"] == 16 and parts.manifest["samples"] == 48
    mixed = quick([m for k in range(3) for m in many[k::3]], metrics=["nss", "pointing_game"])
    np.testing.assert_allclose(mixed.heads[same], whole.heads[same], rtol=1e-9)


class Kept(dict):
    """A store that shows what is put into it."""

    put = dict.__setitem__


def test_a_mask_is_never_the_null_of_another_sample_of_its_image():
    """Things of one photograph lie in the top row in all of its samples; in the others they never do."""
    top = [sample(f"top {k}", "dog chair table", "photograph", ((0, 0), (0, 1), (0, 2))) for k in range(4)]
    rest = [sample(f"rest {i}", "dog chair table") for i in range(6)]
    store = Kept()
    quick(top + rest, store=store, batch=4, metrics=["auc_shuffled"])
    nulls, usual = (next(iter(store.values()))[f"group0.{name}"] for name in ("nulls", "others"))
    assert nulls.shape[:2] == (12, 8) and nulls[:, :, 1:].sum() > 0
    assert nulls[:, :, 0].max() == 0 and usual[:, 0].max() == 0
    apart = Kept()
    quick([replace(s, image_id=s.id) for s in top] + rest, store=apart, batch=4, metrics=["auc_shuffled"])
    assert next(iter(apart.values()))["group0.nulls"][:, :, 0].max() == 1


def test_halves_are_equal_in_size_and_the_same_in_any_order():
    for count in (2, 7, 40, 101):
        ids = [f"image {i}" for i in range(count)]
        found = halves(3, ids)
        assert abs(2 * sum(found.values()) - count) <= 1
        assert halves(3, ids[::-1] * 3) == found
    assert halves(4, ids) != found
    samples = [sample(f"image {i}", "dog chair table") for i in range(9)]
    halved = [r.phrases.groupby("image_id").half.first() for r in (quick(samples), quick(samples[::-1], batch=2))]
    assert halved[0].equals(halved[1])
    assert sorted(halved[0].value_counts()) == [4, 5]


def test_the_other_image_has_other_things_and_the_size_of_its_own():
    large = replace(sample("large", "dog"), image=np.full((60, 44, 3), 9, np.uint8))
    own = sample("own", "dog", "photograph", names=("cup", "fork", "knife"))
    twin = replace(own, id="twin", image=own.image + 1)
    shown = other_images([own, twin, Skip("gone", "unreadable"), large])
    assert [s.id if isinstance(s, Sample) else s.sample_id for s in shown] == ["own", "twin", "gone", "large"]
    assert (shown[0].image == 9).all() and shown[0].image.shape == own.image.shape
    assert (shown[1].image == 9).all() and shown[1].targets == own.targets and shown[1].answer == own.answer
    assert (shown[3].image == own.image[0, 0]).all() and shown[3].image.shape == (60, 44, 3)
    wet = replace(large, id="wet", targets=(Target("two wet dogs", large.targets[0].mask),))
    assert isinstance(other_images([large, wet])[0], Skip)  # a dog by any name
    alike = other_images([own, twin, replace(large, targets=own.targets)])
    assert all(isinstance(s, Skip) and "no other image of its batch has other things" in s.reason for s in alike)
