"""Comparing two models: what was planted is found with the right sign, nothing is found where nothing is."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp import cli
from interp.answer.recall import named_targets
from interp.comparison import study as comparing
from interp.comparison.result import CHOICES, NothingToCompare
from interp.datasets import scenes as synthetic
from interp.statistics import contrasts, intervals
from interp.types import Capture, Head, PatchGrid, Phrase, Sample, Target
from interp.work.store import Memory

SIDE, PIXELS = 6, 8
NOUNS = ("dog", "chair")
PLANTED = Head(1, 1)
METRICS = ["pointing_game", "mass_in_mask"]


class FakeTokenizer:
    """A character a token."""

    def __call__(self, text, add_special_tokens):
        return type("Encoding", (), {"input_ids": [ord(c) for c in text]})

    def decode(self, ids, **_):
        return "".join(map(chr, ids))


class FakeLMM:
    """A model in which head 1 of the upper layers gives the share ``planted`` of its attention to the thing named.

    ``sink``: share of every row that goes to one patch of the image, whatever the word. ``own``: how much of
    ``planted`` the word's own row keeps. ``says``: which nouns its own answer names.
    """

    tokenizer = FakeTokenizer()

    def __init__(self, name, planted=0.0, *, sink=0.0, own=1.0, layers=2, heads=4, side=SIDE, says=NOUNS, seed=0):
        self.name, self.layers, self.heads, self.side, self.says = name, layers, heads, side, says
        self.planted, self.sink, self.own, self.seed = planted, sink, own, seed
        self.captured, self.answered, self.words = 0, 0, NOUNS

    def generate_batch(self, images, prompts, max_new_tokens):
        self.answered += len(images)
        return ["There is " + " and ".join(f"a {noun}" for noun in self.says) + "." for _ in images]


def scenes(n, seed=0):
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(n):
        targets = []
        for noun in NOUNS:
            mask = np.zeros((SIDE * PIXELS, SIDE * PIXELS), dtype=bool)
            y, x = rng.integers(0, 32, 2)
            mask[y : y + 16, x : x + 16] = True
            targets.append(Target(noun, mask))
        image = np.full((SIDE * PIXELS, SIDE * PIXELS, 3), i % 256, dtype=np.uint8)
        samples.append(Sample(f"{seed}-{i:04d}", image, "What is there?", "A dog and a chair.", tuple(targets)))
    return samples


def fake_captures(lmm, samples, *, query, **_):
    for sample in samples:
        lmm.captured += 1
        rng = np.random.default_rng([lmm.seed, *sample.id.encode()])
        shape = (5, lmm.layers, lmm.heads, lmm.side, lmm.side)
        attention = rng.gamma(0.5, size=shape)
        attention /= attention.sum((-1, -2), keepdims=True)
        place = rng.integers(lmm.side, size=2)
        for token, target in zip((1, 4), sample.targets, strict=True):
            inside = torch.from_numpy(target.mask[None, None].astype(np.float32))
            inside = torch.nn.functional.adaptive_avg_pool2d(inside, lmm.side)[0, 0].numpy()
            share = lmm.planted * (lmm.own if query == "self" else 1.0)
            looking = attention[token, lmm.layers // 2 :, 1]
            looking *= 1 - share
            looking += share * inside / inside.sum()
        attention *= 1 - lmm.sink
        attention[..., place[0], place[1]] += lmm.sink
        attention = torch.from_numpy((0.5 * attention).astype(np.float32))
        grid = PatchGrid(np.arange(lmm.side**2).reshape(lmm.side, -1), (0.0, 0.0, 48.0, 48.0))
        every = (Phrase("A dog", "dog", "dog", 2, 5, (1,)), Phrase("a chair", "chair", "chair", 12, 17, (4,)))
        yield Capture(
            sample_id=sample.id,
            prompt=sample.prompt,
            answer="A dog and a chair.",
            tokens=("A", "dog", "and", "a", "chair"),
            grid=grid,
            query=query,
            kept=np.arange(5),
            attention=attention,
            mean=attention.mean(0),
            phrases=tuple(p for p in every if p.root in lmm.words),
        )


def score_of(table):
    """The rows that compare scores, without those of specificity."""
    return table[table["quantity"] == "score"]


@pytest.fixture(autouse=True)
def _fake(monkeypatch, request):
    if "folders" not in request.fixturenames:
        monkeypatch.setattr("interp.ranking.measure.captures", fake_captures)


def quick(a, b, dataset, **options):
    return interp.compare(a, b, dataset, **{"metrics": METRICS, "progress": False, "nulls": 4, **options})


@pytest.fixture(scope="module")
def found():
    """B looks at things more than twice as much as A; both have a sink; the own row of B looks half as much."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.ranking.measure.captures", fake_captures)
        a = FakeLMM("hub/llava", 0.3, sink=0.3, says=("dog",))
        b = FakeLMM("hub/difflmm", 0.7, sink=0.3, own=0.3, seed=1)
        return quick(a, b, scenes(50), by="mean")  # these heads look at things, whatever the word


def row(found, contrast, heads, model="", metric="pointing_game"):
    table = score_of(found.differences)
    rows = table[
        (table["metric"] == metric)
        & (table["contrast"] == contrast)
        & (table["heads"] == heads)
        & (table["model"] == model)
    ]
    assert len(rows) == 1
    return rows.iloc[0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("heads", ["top1", "top3"])
def test_the_model_that_looks_more_is_found_better(found, metric, heads):
    one = row(found, "model", heads, metric=metric)
    assert (one["a_is"], one["b_is"], one["favours"]) == ("llava", "difflmm", "b")
    assert one["low"] > 0 and one["p_corrected"] < 0.01 and one["n"] == 100 and one["images"] == 50


def test_a_difference_is_that_of_the_two_means_beside_it(found):
    table = score_of(found.differences).dropna(subset=["difference"])
    np.testing.assert_allclose(table["b"] - table["a"], table["difference"], atol=1e-12)


def test_effects_within_a_model_have_the_planted_sign(found):
    for model in ("llava", "difflmm"):
        assert row(found, "normalise", "top3", model)["favours"] == "b"  # both have a sink
        assert row(found, "heads", "top1", model)["favours"] == "b"
    assert row(found, "query", "top3", "difflmm")["favours"] == "b"
    assert row(found, "query", "top3", "llava")["difference"] == 0  # both rows of A are the same


def test_numbers_are_those_of_rank_and_of_a_plain_bootstrap(found):
    a = FakeLMM("hub/llava", 0.3, sink=0.3)
    ranking = interp.rank(a, scenes(50), METRICS, progress=False, nulls=4, by="mean")
    ours = score_of(found.scores).query("model == 'llava' and normalise == 'answer' and query == 'predicting'")
    joined = ours.merge(ranking.reductions, on=["metric", "heads"], suffixes=("", "_rank"))
    assert len(joined) == len(METRICS) * len(CHOICES)
    for column in ("mean", "low", "high", "null", "chance", "p", "p_corrected"):
        np.testing.assert_allclose(joined[column], joined[f"{column}_rank"], atol=1e-9)
    values = found.phrases.query("metric == 'pointing_game' and heads == 'top1' and normalise == 'answer'")
    values = values[values["query"] == "predicting"].pivot(index=["sample_id", "word"], columns="model", values="value")
    gap = (values["difflmm"] - values["llava"]).to_numpy()[:, None]
    interval = intervals.bootstrap(gap, list(values.index.get_level_values(0)), seed=0, rates=False)
    one = row(found, "model", "top1")
    assert (one["low"], one["high"]) == (pytest.approx(interval.low[0]), pytest.approx(interval.high[0]))


def test_models_that_are_alike_are_told_apart_no_oftener_than_promised():
    """The share of false findings at a level of 5 %, where phrases of one image hang together."""
    wrong, small, repeats = 0, 0, 200
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        images = np.repeat([str(i) for i in range(40)], 3)
        own = np.repeat(rng.normal(size=(40, 1)), 3, axis=0)  # of the image, in this difference
        a, b = rng.normal(size=(120, 1)), rng.normal(size=(120, 1)) + own
        one = contrasts.differences(a, b, list(images), higher_is_better=True, seed=seed).iloc[0]
        wrong, small = wrong + (one["favours"] != ""), small + (one["p"] <= 0.05)
    assert wrong / repeats < 0.1 and small / repeats < 0.1  # more with a probability of 0.2 % at 5 %


def test_a_model_beside_itself_differs_by_nothing():
    same = quick(FakeLMM("x", 0.3), FakeLMM("x", 0.3), scenes(12), effects=())
    gaps = same.differences.query("contrast == 'model'")["difference"].dropna()
    assert len(gaps) and (gaps == 0).all() and same.manifest["names"] == ["x (A)", "x (B)"]
    assert (same.head_differences["difference"].dropna() == 0).all()


def test_heads_and_layers_are_compared_one_by_one_where_both_have_as_many(found):
    heads = score_of(found.head_differences).query("metric == 'mass_in_mask'").set_index(["layer", "head"])
    assert len(heads) == 8 and heads.loc[PLANTED, "favours"] == "b" and heads.loc[PLANTED, "p_corrected"] < 0.05
    others = heads.drop(PLANTED)
    assert (others["p_corrected"].fillna(1) > 0.05).all()
    layers = score_of(found.layer_differences).query("metric == 'mass_in_mask'").set_index("layer")
    assert layers.loc[1, "favours"] == "b" and layers.loc[0, "favours"] == ""
    own = found.layers.query("metric == 'mass_in_mask' and model == 'difflmm' and layer == 1").iloc[0]
    mean = found.heads.query(
        "metric == 'mass_in_mask' and model == 'difflmm' and layer == 1 and normalise == 'answer' "
        "and query == 'predicting'"
    )["mean"]
    assert own["mean"] == pytest.approx(mean.mean(), abs=1e-6) and own["best_low"] > own["high"]


def test_models_of_other_sizes_and_patches_are_compared_all_the_same():
    a, b = FakeLMM("a", 0.1), FakeLMM("b", 0.6, layers=5, heads=3, side=12)
    result = quick(a, b, scenes(40))
    assert row(result, "model", "top1")["favours"] == "b"
    assert result.head_differences.empty and result.layer_differences.empty
    depth = result.layers.groupby("model")["depth"].agg(["min", "max", "size"])
    assert depth.loc["a"].tolist() == [0, 1, 2 * 2] and depth.loc["b"].tolist() == [0, 1, 5 * 2]


def test_noun_recall_counts_what_the_models_say_themselves(found):
    models = found.models.set_index("model")
    assert models.loc["llava", "recall"] == 0.5 and models.loc["difflmm", "recall"] == 1.0
    gap = found.differences.query("contrast == 'recall'").iloc[0]
    assert gap["difference"] == 0.5 and gap["favours"] == "b" and gap["n"] == 100
    # Every image: one of two. A rate is never surer than that of as many phrases by themselves.
    assert models.loc["llava", "recall_low"] < 0.5 < models.loc["llava", "recall_high"]


def test_noun_recall_leaves_out_what_cannot_be_seen():
    (sample,) = scenes(1)
    hidden = Target("cat", np.zeros_like(sample.targets[0].mask))
    sample = replace(sample, targets=(*sample.targets, hidden))
    (named,) = named_targets(FakeLMM("a", says=("dog", "cat")), [sample])
    assert named.tolist() == [True, False]


def test_only_phrases_that_both_models_have_count():
    a, b = FakeLMM("a", 0.2), FakeLMM("b", 0.2)
    b.words = ("dog",)
    result = quick(a, b, scenes(10), recall=False)
    assert set(result.phrases["word"]) == {"a dog"} and row(result, "model", "paper")["n"] == 10
    assert result.models["phrases"].tolist() == [20, 10] and result.models["paired"].tolist() == [10, 10]
    assert result.models["recall"].isna().all()
    b.words = ("chair",)
    a.words = ("dog",)
    with pytest.raises(NothingToCompare, match="a has 10 phrases and b 10"):
        quick(a, b, scenes(10), recall=False)


def test_a_word_said_twice_is_paired_with_its_own_occurrence_or_not_at_all():
    def index(*words):
        return contrasts.keyed(pd.DataFrame({"sample_id": [w[0] for w in words], "word": [w[1:] for w in words]}))

    a = index("1dog", "1dog", "1cat", "2dog", "2dog")
    b = index("2dog", "1cat", "1dog", "1dog", "3dog")
    assert contrasts.shared(a, b).tolist() == [("1", "dog", 0), ("1", "dog", 1), ("1", "cat", 0)]
    assert contrasts.places(b, contrasts.shared(a, b)).tolist() == [2, 3, 1]


def test_a_phrase_that_is_undefined_in_one_model_counts_in_neither():
    a, b = np.array([[1.0], [np.nan], [0.0], [5.0]]), np.array([[2.0], [1.0], [2.0], [np.nan]])
    one = contrasts.differences(a, b, ["x", "x", "y", "z"], higher_is_better=True, seed=0).iloc[0]
    assert (one["n"], one["images"], one["a"], one["b"], one["difference"]) == (2, 2, 0.5, 2.0, 1.5)


def test_lower_is_better_turns_the_verdict_round():
    a, b = np.full((9, 1), 2.0), np.full((9, 1), 1.0)
    images = [str(i) for i in range(9)]
    for higher, better in ((True, "a"), (False, "b")):
        assert contrasts.differences(a, b, images, higher_is_better=higher, seed=0)["favours"].item() == better


def test_a_killed_comparison_goes_on_and_gives_the_same_tables():
    class Killed(Memory):
        left = 16  # all of A, and maps and scores of the first batch of B

        def put(self, key, arrays):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            super().put(key, arrays)

    def models():
        return FakeLMM("hub/llava", 0.3, says=("dog",)), FakeLMM("hub/difflmm", 0.7, own=0.3, seed=1)

    whole = quick(*models(), scenes(12), batch=6)
    store = Killed()
    with pytest.raises(KeyboardInterrupt):
        quick(*models(), scenes(12), batch=6, store=store)
    store.left = 99
    a, b = models()
    again = quick(a, b, scenes(12), batch=6, store=store)
    assert (a.captured, a.answered, b.captured, b.answered) == (0, 0, 6 * 5, 12)
    for name in ("scores", "differences", "models", "layers", "heads", "head_differences", "phrases"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(whole, name), check_exact=True)


def test_large_models_are_loaded_one_after_the_other():
    events = []

    def loader(name):
        def load():
            events.append(name)
            lmm = FakeLMM(name, 0.2)
            lmm.generate_batch = lambda *a: events.append("measured") or FakeLMM.generate_batch(lmm, *a)
            return lmm

        return load

    quick(loader("a"), loader("b"), scenes(4), effects=())
    assert events == ["a", "measured", "b", "measured"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"effects": ("layers",)}, "no effect 'layers'.*normalise, query"),
        ({"names": ("x", "x")}, "both models are called 'x'"),
        ({"samples": 0}, "samples is 0"),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        comparing.compare(FakeLMM("a"), FakeLMM("b"), scenes(2), METRICS, progress=False, **options)


# The command, with real tiny models


@pytest.fixture(scope="module")
def folders(make_tiny_llava, tmp_path_factory):
    made = []
    for name, seed in (("first", 0), ("second", 1)):
        made.append(str(tmp_path_factory.mktemp("models") / name))
        for part in make_tiny_llava(seed):
            part.save_pretrained(made[-1])
    return made


def command(folders, out, *more):
    return [
        "compare",
        *folders,
        "scenes",
        "--samples",
        "4",
        "--batch",
        "2",
        "--metrics",
        METRICS[0],
        "--out",
        str(out),
        *more,
    ]


def test_the_command_leaves_tables_figures_and_one_page_that_agree(folders, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    assert cli.main(command(folders, out)) == 0
    said = capsys.readouterr().out
    assert "first" in said and "second" in said and "95 % interval" in said
    table = pd.read_csv(out / "comparison.csv")
    whole = pd.read_parquet(out / "differences.parquet")
    np.testing.assert_allclose(table["difference"], whole["difference"], rtol=1e-5)
    assert set(whole["contrast"]) >= {"model", "normalise", "query", "heads", "recall"}
    page, text = (out / "report.html").read_text(), (out / "comparison.md").read_text()
    assert page.count('src="data:image/png;base64,') == 3 and not re.search(r"https?:", page)
    from interp.report import html

    for value in whole.loc[whole["contrast"] == "model", "difference"]:
        assert html.number(value) in page and html.number(value) in text
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["finished"] and manifest["models"]["A"]["weights"] != manifest["models"]["B"]["weights"]
    # Again: nothing is computed, and not a byte of a table changes; --force starts over.
    monkeypatch.setattr("interp.ranking.parts.score_batch", None)
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.suffix in (".parquet", ".csv", ".md")}
    assert cli.main(command(folders, out)) == 0
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.suffix in (".parquet", ".csv", ".md")} == before
    monkeypatch.undo()
    assert cli.main(command(folders[::-1], out)) == 2 and "another run" in capsys.readouterr().err
    assert cli.main(command(folders[::-1], out, "--force", "--no-recall", "--effects")) == 0
    assert set(pd.read_csv(out / "comparison.csv")["contrast"]) == {"model", "heads"}


def test_weights_that_changed_since_the_run_began_are_refused(folders, make_tiny_llava, tmp_path, capsys):
    import shutil

    moved = [shutil.copytree(f, tmp_path / name) for f, name in zip(folders, "ab", strict=True)]
    more = ("--effects", "--no-recall")
    assert cli.main(command(map(str, moved), tmp_path / "run", *more)) == 0
    make_tiny_llava(5)[0].save_pretrained(moved[0])
    assert cli.main(command(map(str, moved), tmp_path / "run", *more)) == 2
    assert "another model A: weights" in capsys.readouterr().err


def test_settings_that_changed_since_the_run_began_are_refused(folders, tmp_path, capsys):
    """The weights are the same, but the images reach the model otherwise."""
    import shutil

    moved = [shutil.copytree(f, tmp_path / name) for f, name in zip(folders, "ab", strict=True)]
    more = ("--effects", "--no-recall")
    assert cli.main(command(map(str, moved), tmp_path / "run", *more)) == 0
    _other_colours(moved[1])
    assert cli.main(command(map(str, moved), tmp_path / "run", *more)) == 2
    assert "another model B: setup" in capsys.readouterr().err


def test_one_model_set_up_in_two_ways_is_measured_twice(folders, tmp_path):
    """Same folder name, same weights: what was measured of one must not be taken for the other."""
    import shutil

    places = [tmp_path / side / "model" for side in "ab"]
    for place in places:
        shutil.copytree(folders[0], place)
    _other_colours(places[1])
    a, b = (replace(interp.load(place), name="model") for place in places)
    samples = list(synthetic.load(samples=4))
    found = interp.compare(a, b, samples, ["mass_in_mask"], names=("a", "b"), effects=(), recall=False, progress=False)
    alone = [interp.rank(m, samples, ["mass_in_mask"], progress=False).heads["mean"].mean() for m in (a, b)]
    assert alone[0] != alone[1]
    together = found.heads.groupby("model", sort=False)["mean"].mean()
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def _other_colours(folder):
    path = folder / "processor_config.json"
    about = json.loads(path.read_text())
    about["image_processor"]["image_mean"] = [0.1, 0.2, 0.9]
    path.write_text(json.dumps(about))


# What cannot be answered, and what only looks alike


def test_a_sample_that_breaks_the_answering_costs_no_other_one():
    class Picky(FakeLMM):
        def generate_batch(self, images, prompts, max_new_tokens):
            if "" in prompts:
                raise ValueError("an empty prompt")
            return super().generate_batch(images, prompts, max_new_tokens)

    samples = [replace(s, prompt="" if i == 3 else s.prompt) for i, s in enumerate(scenes(6))]
    result = quick(Picky("a"), FakeLMM("b"), samples, effects=())
    assert result.models.set_index("model")["targets"].to_dict() == {"a": 10, "b": 12}
    assert result.models["recall"].tolist() == [1.0, 1.0]
    ((model, skip),) = result.skipped
    assert model == "a" and skip.sample_id == samples[3].id and "an empty prompt" in skip.reason


def test_a_longer_name_does_not_count_for_the_shorter_one_in_noun_recall():
    (sample,) = scenes(1)
    dog, chair = (t.mask for t in sample.targets)
    sample = replace(sample, targets=(Target("teddy bear", dog), Target("bear", chair)))
    for said, named in ((("big teddy bear",), [True, False]), (("bear",), [False, True])):
        assert named_targets(FakeLMM("a", says=said), [sample])[0].tolist() == named


def test_answers_that_share_a_word_are_paired_only_where_they_name_the_same_thing():
    from interp.comparison.tables import _shared

    both = [_measured(area) for area in ([0.1, 0.2, 0.3], [0.1, 0.25, 0.3])]
    assert _shared(*both).tolist() == [("0", "dog", 0), ("2", "dog", 0)]


def _measured(area):
    from interp.comparison.result import Measured

    words = pd.DataFrame({"sample_id": ["0", "1", "2"], "word": ["dog"] * 3, "area": area})
    return Measured("m", 1, 1, {}, {}, {}, words, {}, ())


@pytest.mark.parametrize("images", [3, 5, 10])
def test_few_images_favour_nobody_more_often_than_promised(images):
    """Four phrases an image, no difference: the interval alone is wrong in 24, 16 and 10 % of cases."""
    rng, favoured = np.random.default_rng(0), 0
    names = [str(i) for i in range(images) for _ in range(4)]
    for trial in range(300):
        own = np.repeat(rng.normal(size=images), 4)[:, None] + rng.normal(size=(4 * images, 1))
        one = contrasts.differences(0 * own, own, names, higher_is_better=True, seed=trial).iloc[0]
        favoured += bool(one["favours"])
        assert not one["favours"] or one["p"] < 0.05
    assert favoured / 300 < 0.08
