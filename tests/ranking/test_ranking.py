"""The ranking finds a head that was planted, finds nothing where nothing is, and can be killed and resumed."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from interp import plugins
from interp.ranking.result import NothingToRank
from interp.ranking.study import rank
from interp.statistics.nulls import half
from interp.statistics.scores import HeadScores
from interp.types import Capture, Head, PatchGrid, Phrase, Sample, Skip, Target

LAYERS, HEADS, ROWS, COLS, PIXELS = 2, 4, 8, 8, 8
PLANTED = Head(1, 2)
NOUNS = ("dog", "chair")


class FakeLMM:
    """Stands for a model; ``planted`` says how much of a head's attention goes to the word's object."""

    name, layers, heads = "fake", LAYERS, HEADS

    def __init__(self, planted=0.0, seed=0, broken=()):
        self.planted, self.seed, self.broken = planted, seed, broken
        self.captured = []


def scenes(n, seed=0):
    """Images with two rectangles each, more often in the middle than at the edge, as in photographs."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(n):
        targets = []
        for noun in NOUNS:
            height, width = rng.integers(12, 28, 2)
            y, x = (int(np.clip(rng.normal(32, 12) - s / 2, 0, 64 - s)) for s in (height, width))
            mask = np.zeros((ROWS * PIXELS, COLS * PIXELS), dtype=bool)
            mask[y : y + height, x : x + width] = True
            targets.append(Target(noun, mask))
        image = np.full((ROWS * PIXELS, COLS * PIXELS, 3), i % 256, dtype=np.uint8)
        samples.append(Sample(f"scene-{seed}-{i:04d}", image, "What is there?", "A dog and a chair.", tuple(targets)))
    return samples


def fake_captures(lmm, samples, *, query, **_):
    """Attention of a model in which half of the heads prefer the centre and one may look at the object."""
    for sample in samples:
        lmm.captured.append(sample.id)
        if sample.id in lmm.broken:
            yield Skip(sample.id, "CaptureError: broken on purpose")
            continue
        rng = np.random.default_rng([lmm.seed, *sample.id.encode()])
        noise = rng.gamma(0.5, size=(5, LAYERS, HEADS, ROWS, COLS))
        rows, cols = np.mgrid[:ROWS, :COLS]
        centre = np.exp(-((rows - 3.5) ** 2 + (cols - 3.5) ** 2) / rng.uniform(2, 20, (LAYERS, 1, 1, 1)))
        noise[:, :, ::2] *= 0.2 + centre
        attention = noise / noise.sum((-1, -2), keepdims=True)
        for token, target in zip((1, 4), sample.targets, strict=True):
            inside = target.mask.reshape(ROWS, PIXELS, COLS, PIXELS).mean((1, 3))
            own = attention[token, PLANTED.layer, PLANTED.head]
            own *= 1 - lmm.planted
            own += lmm.planted * inside / inside.sum()
        attention = torch.from_numpy((0.5 * attention).astype(np.float32))
        yield Capture(
            sample_id=sample.id,
            prompt=sample.prompt,
            answer=sample.answer,
            tokens=("A", "dog", "and", "a", "chair"),
            grid=PatchGrid(np.arange(ROWS * COLS).reshape(ROWS, COLS), (0.0, 0.0, 64.0, 64.0)),
            query=query,
            kept=np.arange(5),
            attention=attention,
            mean=attention.mean(0),
            phrases=(Phrase("A dog", "dog", "dog", 2, 5, (1,)), Phrase("a chair", "chair", "chair", 12, 17, (4,))),
        )


@pytest.fixture(autouse=True)
def _fake(monkeypatch, request):
    if "real" not in request.keywords:
        monkeypatch.setattr("interp.ranking.measure.captures", fake_captures)


def quick(lmm, dataset, **options):
    return rank(lmm, dataset, **{"progress": False, **options})


@pytest.fixture(scope="module")
def planted():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.ranking.measure.captures", fake_captures)
        return quick(FakeLMM(planted=0.3), scenes(60))


GROUNDING = [n for n in plugins.names("metrics") if plugins.get("metrics", n).uses_mask]


@pytest.mark.parametrize("metric", GROUNDING)
def test_a_planted_head_comes_first_with_a_small_p(planted, metric):
    heads = planted.heads[planted.heads.metric == metric].set_index(["layer", "head"])
    assert planted.scores[metric].top(1) == [PLANTED]
    assert heads.loc[PLANTED, "rank"] == 1
    assert heads.loc[PLANTED, "p_corrected"] < 0.05
    assert heads.loc[PLANTED, "low"] > heads.loc[PLANTED, "null"]
    assert (heads.drop(PLANTED).p_corrected > 0.05).all()


@pytest.mark.parametrize("metric", GROUNDING)
def test_the_best_head_of_one_half_is_as_good_on_the_other(planted, metric):
    """top1 is the planted head wherever it is reported: it scores what the head does, but for precision."""
    row = planted.reductions.set_index(["metric", "heads"]).loc[(metric, "top1")]
    head = planted.heads.set_index(["metric", "layer", "head"]).loc[(metric, *PLANTED)]
    assert row["n"] == head["n"] == 120
    for column in ("mean", "null", "half_a", "half_b"):
        assert row[column] == pytest.approx(head[column], abs=2e-3)
    assert row["chance"] == pytest.approx(head["chance"], nan_ok=True)


def test_nothing_is_found_in_a_model_without_a_grounding_head():
    """Ten models, five kinds of metric each: any corrected p below 0.05 at most as often as chance allows.

    Half of the heads prefer the centre, where objects are: they score above area-matched chance, which fools a
    comparison with chance, but not the one with masks of other images.
    """
    metrics, found, above_chance = ["average_precision", "auc_shuffled", "pointing_game", "mass_in_mask", "nss"], 0, 0
    for seed in range(10):
        ranking = quick(FakeLMM(seed=seed), scenes(40, seed=seed), metrics=metrics)
        # Bonferroni over the metrics: one family of all tests of a model.
        found += bool((ranking.heads.p_corrected * len(metrics) <= 0.05).any())
        raw = ranking.heads[ranking.heads.metric == "mass_in_mask"]
        above_chance += int((raw.low > raw.chance).sum())
    assert found <= 2  # P(more than 2 of 10 at 0.05) = 0.011
    assert above_chance > 20


def test_tables_have_one_row_per_head_reduction_and_phrase(planted):
    n = len(plugins.names("metrics"))
    assert len(planted.heads) == n * LAYERS * HEADS
    assert len(planted.reductions) == n * 5
    assert len(planted.phrases) == n * 5 * 120
    assert planted.reductions.heads.unique().tolist() == ["paper", "released", "top1", "top3", "top10"]
    shared = {"n", "images", "mean", "low", "high", "chance", "null", "p", "p_corrected", "half_a", "half_b"}
    assert shared < set(planted.heads.columns)
    assert shared < set(planted.reductions.columns)
    ordinary = planted.heads[planted.heads.metric == "nss"]
    assert (ordinary.n == 120).all()
    assert (ordinary.images == 60).all()
    assert (ordinary.low < ordinary["mean"]).all()
    assert (ordinary["mean"] < ordinary.high).all()
    json.dumps(planted.manifest)


def test_head_scores_equal_the_metric_on_maps_made_by_hand(planted):
    """Sample by sample without batches, store or half precision: raw for mass, minus the answer's mean for the rest."""
    samples = scenes(60)
    for i, capture in enumerate(
        fake_captures(FakeLMM(0.3), samples[:3], answers="", batch=1, tokens="", query="predicting", max_new_tokens=1)
    ):
        raw = capture.attention[[1, 4]]
        masks = np.stack([t.mask.reshape(ROWS, PIXELS, COLS, PIXELS).mean((1, 3)) for t in samples[i].targets])
        masks = torch.from_numpy(masks).float()
        for name, maps in (("mass_in_mask", raw), ("nss", raw - capture.mean), ("iou_at_best", raw - capture.mean)):
            metric = plugins.get("metrics", name)
            expected = metric.score(maps, masks, masks).numpy()
            np.testing.assert_allclose(planted.scores[name].values[2 * i : 2 * i + 2], expected, atol=1e-5)
            np.testing.assert_allclose(planted.scores[name].chance[2 * i : 2 * i + 2], metric.chance(masks), atol=1e-6)


def test_paper_and_released_reductions_are_the_mean_maps(planted):
    capture = next(
        fake_captures(FakeLMM(0.3), scenes(1), answers="", batch=1, tokens="", query="self", max_new_tokens=1)
    )
    maps = (capture.attention - capture.mean)[[1, 4]]
    masks = np.stack([t.mask.reshape(ROWS, PIXELS, COLS, PIXELS).mean((1, 3)) for t in scenes(1)[0].targets])
    masks = torch.from_numpy(masks).float()
    both = torch.stack([maps.mean((1, 2)), maps[:, :, HEADS - 2].mean(1)], 1)[:, None]
    expected = plugins.get("metrics", "nss").score(both, masks, masks)[:, 0].numpy()
    frame = planted.phrases.query("metric == 'nss' and sample_id == 'scene-0-0000'")
    found = frame[frame.heads.isin(["paper", "released"])].value.to_numpy().reshape(2, 2)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_agreement_and_mask_free_ranking(planted):
    agreement = planted.agreement.set_index("metric")
    assert ((agreement.halves.abs() <= 1) & agreement.halves.notna()).all()
    assert agreement.loc["image_mass"].mask_free != agreement.loc["nss"].mask_free
    assert len(planted.localization) == LAYERS * HEADS
    assert planted.localization.frequency.max() > 0


def test_the_ranking_without_masks_is_made_only_where_its_metrics_were_asked_for():
    """Its spatial entropy would be paid for in every run."""
    found = quick(FakeLMM(0.3), scenes(4), metrics=["nss"])
    assert list(found.scores) == ["nss"]
    assert not len(found.localization)
    assert found.agreement.mask_free.isna().all()


def test_metrics_without_a_mask_have_no_null_and_no_p(planted):
    rows = planted.heads[planted.heads.metric.isin(["image_mass", "spatial_entropy"])]
    assert rows[["null", "p", "p_corrected", "chance"]].isna().all().all()
    assert np.allclose(planted.heads[planted.heads.metric == "image_mass"]["mean"], 0.5)


class Killed(RuntimeError):
    pass


class Disk(dict):
    """A store that survives; ``puts`` counts what was written, ``die_after`` kills the run."""

    def __init__(self, die_after=None):
        super().__init__()
        self.puts, self.die_after = 0, die_after

    def put(self, key, arrays):
        if self.puts == self.die_after:
            raise Killed
        self.puts += 1
        assert all(isinstance(a, np.ndarray) and not a.dtype.hasobject for a in arrays.values())
        self[key] = arrays


def same(a, b):
    for name in ("heads", "reductions", "phrases", "localization", "agreement"):
        left, right = getattr(a, name), getattr(b, name)
        assert left.equals(right), name
    assert a.skipped == b.skipped
    assert a.manifest == b.manifest


def test_a_killed_run_resumes_with_identical_results_and_computes_nothing_twice():
    samples, options = scenes(14), {"metrics": ["nss", "pointing_game"], "batch": 4}
    whole = quick(FakeLMM(0.3), samples, **options)
    disk, lmm = Disk(die_after=4), FakeLMM(0.3)  # maps and scores of two batches
    with pytest.raises(Killed):
        quick(lmm, samples, store=disk, **options)
    disk.die_after = None
    again = FakeLMM(0.3)
    same(quick(again, samples, store=disk, **options), whole)
    assert again.captured == [s.id for s in samples[8:]]
    once_more = FakeLMM(0.3)
    same(quick(once_more, samples, store=disk, **options), whole)
    assert once_more.captured == []


def test_a_run_folder_is_a_store(tmp_path):
    from interp.report.run import Run

    samples, options = scenes(6), {"metrics": ["nss"], "batch": 4}
    run = Run.open(tmp_path / "run", {"samples": 6})
    first = quick(FakeLMM(0.3), samples, store=run, **options)
    lmm = FakeLMM(0.3)
    same(quick(lmm, samples, store=Run.open(tmp_path / "run", {"samples": 6}), **options), first)
    assert lmm.captured == []


def test_a_store_of_another_question_is_not_believed():
    samples, disk = scenes(4), Disk()
    options = {"metrics": ["nss"], "store": disk}
    quick(FakeLMM(0.3), samples, **options)
    for change in ({"seed": 1}, {"normalise": "none"}, {"query": "self"}, {"metrics": ["pointing_game"]}):
        lmm = FakeLMM(0.3)
        quick(lmm, samples, **(options | change))
        assert lmm.captured, change
    lmm = FakeLMM(0.3)
    brighter = [replace(s, image=s.image + 1) for s in samples]
    quick(lmm, brighter, **options)
    assert lmm.captured


def test_other_weights_of_the_same_name_have_another_fingerprint():
    from interp.models._identity import fingerprint

    model = torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.Linear(20, 3))
    before = fingerprint(model)
    assert fingerprint(model) == before
    with torch.no_grad():
        model[1].weight += 1e-3
    assert fingerprint(model) != before


def test_a_model_with_a_pruned_head_does_not_get_the_whole_models_ranking(tiny_lmm):
    from interp.models._identity import fingerprint

    model = tiny_lmm.model
    seen = [fingerprint(model)]
    projection = model.model.language_model.layers[1].self_attn.o_proj.weight
    for change in (lambda w: w[:, 8:16].zero_(), lambda w: w.copy_(w.flip(0)), lambda w: w[-1, -1].neg_()):
        change(projection.data)
        seen.append(fingerprint(model))
    model.get_buffer("model.vision_tower.embeddings.position_ids").add_(1)
    seen.append(fingerprint(model))
    assert len(set(seen)) == 5


@pytest.mark.parametrize("size", [0, 1, 4 * 65536, 4 * 65536 + 3, 1000003])
def test_the_sums_that_stand_for_weights_on_a_gpu_see_one_bit_and_a_change_of_places(size):
    from interp.models._identity import WORDS, mixed

    data = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = mixed(data)
    assert found.shape == (2, -(-size // (4 * WORDS)))
    padded = np.pad(data.numpy(), (0, -size % (4 * WORDS))).view(np.int32).reshape(-1, WORDS)
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(1 << 62), 1 << 62, (2, WORDS), generator=generator).numpy() * 2 + 1
    np.testing.assert_array_equal(found.numpy(), factors @ padded.T.astype(np.int64))
    for change in (lambda x: x[-1:].bitwise_xor_(128), lambda x: x[: size // 8 * 8].copy_(x[: size // 8 * 8].flip(0))):
        other = data.clone()
        change(other)
        assert torch.equal(other, data) == torch.equal(mixed(other), found)


@pytest.mark.gpu
def test_weights_on_a_gpu_are_told_apart_without_being_moved(tiny_lmm):
    from interp.models._identity import fingerprint, mixed

    data = torch.randint(0, 256, (1000003,), dtype=torch.uint8)
    assert torch.equal(mixed(data), mixed(data.cuda()).cpu())
    model = tiny_lmm.model.cuda()
    before = fingerprint(model)
    model.model.language_model.layers[1].self_attn.o_proj.weight.data[:, 8:16].zero_()
    assert fingerprint(model) != before


def test_offloaded_weights_of_two_checkpoints_are_told_apart(make_tiny_llava):
    from accelerate import cpu_offload

    from interp.models._identity import fingerprint

    def offloaded(change):
        model, _ = make_tiny_llava()
        model.model.language_model.layers[1].self_attn.o_proj.weight.data[:, 8:16] += change
        return cpu_offload(model, torch.device("cpu"))

    assert fingerprint(offloaded(0)) == fingerprint(offloaded(0)) != fingerprint(offloaded(1))


def test_another_precision_kernel_configuration_or_processor_is_another_model(tiny_lmm):
    from interp.models._identity import fingerprint, setup

    model, processor = tiny_lmm.model, tiny_lmm.processor
    weights, before = fingerprint(model), setup(tiny_lmm)
    assert setup(tiny_lmm) == before
    kernel = model.config._attn_implementation
    model.set_attn_implementation("eager" if kernel != "eager" else "sdpa")
    assert setup(tiny_lmm) != before
    model.set_attn_implementation(kernel)
    assert setup(tiny_lmm) == before
    mean, processor.image_processor.image_mean = processor.image_processor.image_mean, [0.1, 0.1, 0.1]
    assert setup(tiny_lmm) != before
    processor.image_processor.image_mean = mean
    model.config.vision_feature_layer = -3
    assert setup(tiny_lmm) != before
    assert fingerprint(model) == weights != fingerprint(model.bfloat16())


def test_batches_and_the_order_of_the_data_set_do_not_matter():
    samples = scenes(12)
    one = quick(FakeLMM(0.3), samples, batch=5, metrics=["average_precision"])
    two = quick(FakeLMM(0.3), samples[::-1], batch=3, metrics=["average_precision"])
    columns = ["mean", "low", "high", "chance", "null", "p", "p_corrected", "half_a", "half_b"]
    np.testing.assert_allclose(one.heads[columns], two.heads[columns], atol=1e-6)


def test_a_generator_is_as_good_as_a_list_and_samples_cuts_it():
    samples = scenes(10)
    same(
        quick(FakeLMM(0.3), (s for s in samples), samples=6, metrics=["nss"]),
        quick(FakeLMM(0.3), samples, samples=6, metrics=["nss"]),
    )


def test_a_failed_sample_is_recorded_and_the_others_stay():
    samples = scenes(6)
    wrong = replace(samples[2].targets[0], mask=np.ones((3, 3), dtype=bool))
    samples[2] = replace(samples[2], targets=(wrong, samples[2].targets[1]))
    samples[4] = replace(samples[4], targets=(Target("umbrella", samples[4].targets[0].mask),))
    lmm = FakeLMM(0.3, broken=(samples[0].id,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.ranking.measure.captures", forgiving)
        ranking = quick(lmm, samples, metrics=["nss"])
    assert [s.sample_id for s in ranking.skipped] == [samples[i].id for i in (0, 2, 4)]
    reasons = [s.reason for s in ranking.skipped]
    assert "broken on purpose" in reasons[0]
    assert "(3, 3)" in reasons[1]
    assert "'umbrella'" in reasons[2]
    assert ranking.heads.images.unique().tolist() == [3]
    assert ranking.manifest["skipped"] == 3


def test_phrases_that_name_nothing_are_counted_and_the_commonest_told():
    samples = scenes(6)
    for i in (1, 3):
        samples[i] = replace(samples[i], targets=(Target("umbrella", samples[i].targets[0].mask),))
    samples[4] = replace(samples[4], targets=(samples[4].targets[1],))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.ranking.measure.captures", forgiving)
        ranking = quick(FakeLMM(0.3), samples, metrics=["nss"])
    assert ranking.manifest["phrases"] == 7
    assert ranking.manifest["unmatched"] == {"phrases": 5, "commonest": [["dog", 3], ["chair", 2]]}


def forgiving(lmm, samples, **options):
    """Captures whose attention does not depend on the targets, which are wrong here."""
    plain = {s.id: s for s in scenes(6)}
    return fake_captures(lmm, [plain[s.id] for s in samples], **options)


def test_nothing_to_rank_says_why():
    samples = scenes(3)
    with pytest.raises(NothingToRank, match="3 x CaptureError: broken on purpose"):
        quick(FakeLMM(broken=[s.id for s in samples]), samples)


def test_bad_arguments_are_refused():
    with pytest.raises(plugins.UnknownName, match="pointing_game"):
        quick(FakeLMM(), scenes(2), metrics=["pointing_gam"])
    with pytest.raises(ValueError, match="batch is 0"):
        quick(FakeLMM(), scenes(2), batch=0)
    with pytest.raises(ValueError, match="occurs twice"):
        quick(FakeLMM(), scenes(2) * 2)
    with pytest.raises(ValueError, match="samples is 0"):
        quick(FakeLMM(), scenes(2), samples=0)


def test_one_image_gives_scores_but_no_interval_and_no_p():
    ranking = quick(FakeLMM(0.3), scenes(1), metrics=["nss", "auc_shuffled"])
    nss = ranking.heads[ranking.heads.metric == "nss"]
    assert nss["mean"].notna().all()
    assert nss[["low", "high", "null", "p", "p_corrected"]].isna().all().all()
    assert ranking.heads[ranking.heads.metric == "auc_shuffled"]["mean"].isna().all()  # no other image to draw from


def test_halves_are_about_equal_and_depend_on_the_seed():
    ids = [f"image {i}" for i in range(1000)]
    halves = np.array([half(0, i) for i in ids])
    assert 430 < halves.sum() < 570
    assert (halves != [half(1, i) for i in ids]).mean() > 0.4


def test_images_of_different_grids_in_one_batch_keep_their_order(monkeypatch):
    def mixed(lmm, samples, **options):
        for i, capture in enumerate(fake_captures(lmm, samples, **options)):
            if i % 2:
                half_map = capture.attention.unflatten(-1, (COLS // 2, 2)).sum(-1)
                grid = PatchGrid(capture.grid.token_index[:, ::2], capture.grid.box)
                capture = replace(capture, attention=half_map, mean=half_map.mean(0), grid=grid)
            yield capture

    samples = scenes(9)
    alone = quick(FakeLMM(0.3), samples, metrics=["nss"])
    monkeypatch.setattr("interp.ranking.measure.captures", mixed)
    ranking = quick(FakeLMM(0.3), samples, metrics=["nss"])
    assert ranking.scores["nss"].sample_ids == alone.scores["nss"].sample_ids
    for i, sample_id in enumerate(ranking.scores["nss"].sample_ids):
        number = int(sample_id[-4:]) % 8  # the place in its batch of eight
        assert np.allclose(ranking.scores["nss"].values[i], alone.scores["nss"].values[i]) == (number % 2 == 0)
    top = ranking.phrases.query("heads == 'top1'").value.to_numpy()
    undefined = np.isnan(ranking.scores["nss"].values).all((1, 2))  # a mask that covers no wide patch by half
    assert (np.isnan(top) == undefined).all()
    assert undefined.mean() < 0.2


def test_words_of_several_tokens_do_not_flatter_a_head_unseen():
    """Rows of a word's later tokens have read its beginning: the tables tell both kinds of words apart, and weigh rare
    nouns and small things as a reviewer asks."""
    from interp.ranking.subsets import subsets

    table = pd.DataFrame(
        {
            "image_id": ["a", "a", "b", "b", "c", "d"],
            "root": ["dog", "cat", "Dog", "cup", "dog", "dog"],
            "tokens": [1, 3, 1, 2, 1, 1],
            "area": [0.01, 0.02, 0.03, 0.04, 0.05, 0.06],
            "mention": [1, 1, 1, 1, 2, 1],
            "kind": [""] * 6,
        }
    )
    both = np.array([[0.0, 1.0, 0.0, 1.0, 1.0, 0.0], [0.5, 0.25, 0.5, 0.75, np.nan, np.nan]])[:, :, None, None]
    scores = HeadScores("pointing_game", True, tuple("aabbcd"), ("a thing",) * 6, both[0], specificity=both[1])
    found = subsets(table, scores, ["paper"], 0).set_index("subset")
    assert found.loc["one token", ["n", "mean", "specificity"]].tolist() == [4, 0.25, 0.5]
    assert found.loc["several tokens", ["n", "mean", "specificity"]].tolist() == [2, 1.0, 0.5]
    assert (
        found.loc["small", "mean"] == 0.5 and found.loc["large", "mean"] == 0.5 and found.loc["first mention", "n"] == 5
    )
    assert found.loc["image-weighted", "mean"] == pytest.approx((0.5 + 0.5 + 1 + 0) / 4)
    assert found.loc["noun-weighted", "mean"] == pytest.approx((0.25 + 1 + 1) / 3)
    assert found.loc["all", ["low", "high"]].isna().all()  # four images say too little of others
