"""The claims' statistics: planted effects are found over trainings, chance is not, and intervals are honest."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[2] / "analyses" / "compare_claims.py"
SHIFTS = {"null": 0.0, "difflmm": 0.0, "answer": 0.0, "predicting": 0.0, "few": 0.0}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compare_claims", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(seed, images=60, spread=0.0, **planted):
    """A comparison's phrase table: each planted part adds to the score; ``spread``: deviation between trainings."""
    shifts = SHIFTS | planted
    rng = np.random.default_rng([7, seed])
    shifts = {name: shift + spread * rng.normal() for name, shift in shifts.items()}
    rows = []
    place = {(i, p): np.random.default_rng([3, i, p]).normal(0, 0.1) for i in range(images) for p in range(2)}
    for model in ("llava", "difflmm"):
        for normalise, query in (("answer", "predicting"), ("none", "predicting"), ("answer", "self")):
            for heads in ("paper", "top1", "top3", "top10"):
                level = 0.4 + shifts["difflmm"] * (model == "difflmm") + shifts["few"] * (heads != "paper")
                level += shifts["answer"] * (normalise == "answer") + shifts["predicting"] * (query == "predicting")
                rows += [
                    {
                        **{"sample_id": f"{i}-{p}", "image_id": f"{i}", "word": "w", "occurrence": 0},
                        **{"model": model, "heads": heads, "normalise": normalise, "query": query, "metric": "score"},
                        "value": level + own + rng.normal(0, 0.1),
                        "null": level + own - shifts["null"] + rng.normal(0, 0.1),
                    }
                    for (i, p), own in place.items()
                ]
    return pd.DataFrame(rows)


def trainings(count=3, **planted):
    return {f"training {i}": table(i, **planted) for i in range(count)}


EFFECTS = {"a": "null", "b": "difflmm", "c": "answer", "d": "few", "e": "predicting"}


def test_every_planted_effect_holds_and_its_size_is_right(script):
    sizes = dict(zip(SHIFTS, (0.3, 0.1, 0.15, 0.2, 0.25), strict=True))
    found = script.claims(trainings(**sizes), "score", True).query("training == 'all'")
    assert set(found["claim"]) == set(script.CLAIMS) and (found["verdict"] == "holds").all()
    for row in found.to_dict("records"):
        assert row["low"] < sizes[EFFECTS[row["claim"]]] < row["high"] and row["trainings"] == 3
        assert row["images"] == 60 and row["phrases"] == 120


@pytest.mark.parametrize("claim", EFFECTS)
def test_each_claim_answers_to_its_own_effect_alone(script, claim):
    found = script.claims(trainings(**{EFFECTS[claim]: 0.2}), "score", True).query("training == 'all'")
    assert (found.loc[found["claim"] == claim, "verdict"] == "holds").all()
    others = found[found["claim"] != claim]
    assert (others["mean"].abs() < 0.08).all() and (others["verdict"] == "holds").sum() <= 1


def test_effects_the_other_way_are_reported_as_reversed(script):
    found = script.claims(trainings(difflmm=-0.2, few=-0.2), "score", True).query("training == 'all'")
    assert (found[found["claim"].isin(["b", "d"])]["verdict"] == "reversed").all()
    lower = script.claims(trainings(difflmm=-0.2), "score", False).query("training == 'all' and claim == 'b'")
    assert (lower["verdict"] == "holds").all()


def test_one_training_says_nothing_about_others(script):
    found = script.claims(trainings(1, difflmm=0.3), "score", True).query("claim == 'b'")
    assert set(found.loc[found["training"] == "all", "verdict"]) == {"needs more trainings"}
    assert set(found.loc[found["training"] != "all", "verdict"]) == {"holds"}


def gap(rng, images, training, both, noise):
    """Gaps of one training: zero on average, with a part of the training, one of each image, and noise; an image has
    two captions with a phrase each."""
    values = training + np.repeat(both, 2) + rng.normal(0, noise, 2 * images)
    names = np.repeat([f"{i}" for i in range(images)], 2)
    captions = [f"{name}-{k % 2}" for k, name in enumerate(names)]
    index = pd.MultiIndex.from_arrays([names, captions], names=["image_id", "sample_id"])
    return pd.Series(values, index=index)


@pytest.mark.parametrize(("spread", "of_images"), [(0.0, 1.0), (0.3, 1.0), (1.0, 0.2), (0.1, 0.0)])
def test_the_interval_over_trainings_covers_zero_as_often_as_it_says_with_two_captions_an_image(
    script, spread, of_images
):
    rng, covered, repeats = np.random.default_rng(0), 0, 250
    for _ in range(repeats):
        both = rng.normal(0, of_images, 30)
        each = [gap(rng, 30, rng.normal(0, spread), both, 0.5) for _ in range(3)]
        estimate = script.over_trainings(each)
        covered += estimate.low <= 0 <= estimate.high
    assert covered / repeats > 0.95 - 3 * (0.95 * 0.05 / repeats) ** 0.5


def test_intervals_over_images_alone_would_be_too_narrow_where_trainings_differ(script):
    rng, missed = np.random.default_rng(1), 0
    for _ in range(60):
        each = [gap(rng, 30, rng.normal(0, 1.0), np.zeros(30), 0.5) for _ in range(3)]
        one = script.one_training(pd.concat(each, axis=1).mean(axis=1))
        missed += not one.low <= 0 <= one.high
    assert missed > 30


def test_effects_that_trainings_agree_on_are_found_with_three_of_them(script):
    rng, found = np.random.default_rng(2), 0
    for _ in range(60):
        both = rng.normal(0, 0.3, 60)
        each = [gap(rng, 60, 0.3 + rng.normal(0, 0.05), both, 0.5) for _ in range(3)]
        found += script.verdict(script.over_trainings(each)) == "holds"
    assert found > 50


def test_the_written_table_says_every_number_and_the_figure_is_drawn(script, tmp_path):
    found = script.claims(trainings(2, null=0.3), "score", True)
    text = script.markdown(found)
    for row in found.to_dict("records"):
        assert f"{row['mean']:+.3f}" in text
    assert text.count("**holds**") >= 2 and "training 1" in text
    script.draw(found, tmp_path / "claims.png")
    assert (tmp_path / "claims.png").read_bytes().startswith(b"\x89PNG")


def test_only_a_finished_comparison_is_read(script, tmp_path):
    from interp.report.run import Run

    run = Run.open(tmp_path, {})
    with pytest.raises(FileNotFoundError, match="not finished"):
        script.read(tmp_path)
    run.manifest["comparison"] = {"names": ["x", "y"]}
    run.write_table("phrases", pd.DataFrame({"model": ["x", "y"], "value": [0.0, 1.0]}))
    run.finish()
    assert script.read(tmp_path)["model"].tolist() == ["llava", "difflmm"]
    assert script.read(tmp_path, single=True)["model"].tolist() == ["llava"]


def test_a_metric_that_was_not_measured_is_named(script):
    with pytest.raises(SystemExit, match="training 0 has score; expected nss"):
        script.claims(trainings(), "nss", True)


def test_a_comparison_in_the_other_order_does_not_turn_the_claim_round(script, tmp_path):
    from interp.report.run import Run

    run = Run.open(tmp_path / "run", {})
    run.manifest["comparison"] = {"names": ["mini-difflmm", "mini-llava"]}
    run.finish()
    with pytest.raises(SystemExit, match="mini-difflmm with mini-llava; expected LLAVA DIFFLMM"):
        script.read(tmp_path / "run")
