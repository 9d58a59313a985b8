"""A sample that the model itself cannot take costs itself, in every study; what concerns all is raised."""

import numpy as np
import pytest
import torch

import interp
from interp.emergence.timeline import series
from interp.evaluation.study import collect
from interp.types import Sample, Target
from interp.work.halves import NotForThisModel, in_halves

BAD = "white"


def samples():
    mask = np.zeros((40, 52), dtype=bool)
    mask[:20, :20] = True
    images = {n: np.random.default_rng(i).integers(0, 200, (40, 52, 3), np.uint8) for i, n in enumerate("abcd")}
    images = {"a": images["a"], BAD: np.full((40, 52, 3), 255, np.uint8)} | images
    return [
        Sample(n, image, "Hi", "A dog beside a small table.", (Target("dog", mask),)) for n, image in images.items()
    ]


@pytest.fixture
def lmm(tiny_lmm):
    """A model that fails on a white image, as real ones do on a thin one: an error from deep inside."""

    def fail(module, args, options):
        pixels = options.get("pixel_values")
        if pixels is not None and (pixels.flatten(1).min(1).values > 1).any():
            raise RuntimeError("shape '[1, -1, 0]' is invalid for input of size 32")

    tiny_lmm.model.register_forward_pre_hook(fail, with_kwargs=True)
    return tiny_lmm


def only_the_bad_one(skipped):
    pairs = [s if isinstance(s, tuple) else (s.sample_id, s.reason) for s in skipped]
    ids, reasons = zip(*pairs, strict=True)
    return set(ids) == {BAD} and all("RuntimeError: shape '[1, -1, 0]' is invalid" in r for r in reasons)


def test_an_image_that_the_model_cannot_take_costs_a_ranking_only_itself(lmm):
    found = interp.rank(lmm, samples(), ["pointing_game"], batch=3, progress=False)
    assert only_the_bad_one(found.skipped) and found.manifest["phrases"] == 4
    left = [s for s in samples() if s.id != BAD]
    alone = interp.rank(lmm, left, ["pointing_game"], batch=1, nulls=0, progress=False)
    again = interp.rank(lmm, samples(), ["pointing_game"], batch=5, nulls=0, progress=False)
    np.testing.assert_array_equal(again.scores["pointing_game"].values, alone.scores["pointing_game"].values)


def test_it_costs_effects_only_itself(lmm):
    found = interp.effects(lmm, samples(), "layers", batch=3, draws=1, progress=False)
    assert only_the_bad_one(found.skipped) and set(found.phrases["sample_id"]) == set("abcd")
    left = interp.effects(lmm, [s for s in samples() if s.id != BAD], "layers", batch=3, draws=1, progress=False)
    np.testing.assert_allclose(
        found.scores["logprob"].values, left.scores["logprob"].values, rtol=1e-4, atol=1e-5, equal_nan=True
    )


def test_it_costs_a_comparison_only_itself(lmm):
    how = {"metrics": ["pointing_game"], "effects": (), "names": ("x", "y"), "batch": 3, "progress": False}
    found = interp.compare(lmm, lmm, samples(), **how)
    assert only_the_bad_one([s for _, s in found.skipped])


def test_it_costs_emergence_only_itself(lmm, tmp_path):
    for name in ("base", "checkpoint-1", "checkpoint-2"):
        lmm.model.save_pretrained(tmp_path / name)
    lmm.processor.save_pretrained(tmp_path / "base")
    how = {"recall": True, "examples": 2, "batch": 3, "progress": False}
    found = interp.emerge(lmm, series(tmp_path), samples(), ["pointing_game"], **how)
    assert only_the_bad_one(found.skipped) and len(found.skipped) == 2


def test_it_costs_an_evaluation_only_itself(lmm):
    found = collect(lmm, interp.load_segmenter("threshold"), samples(), "referring", batch=3, progress=False)
    assert only_the_bad_one(found.skipped) and len(found.records) == 5  # and counts as a miss


def test_one_image_alone_is_told_what_the_model_cannot_take(lmm):
    with pytest.raises(ValueError, match="cannot take this image of 40 x 52 pixels"):
        interp.capture(lmm, samples()[1].image, "Hi", "A dog.")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("full"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: device-side assert triggered"),
        NotForThisModel("no such attention"),
        KeyboardInterrupt(),
    ],
)
def test_what_no_sample_is_to_blame_for_ends_the_run_and_marks_no_sample_as_done(error):
    def work(some):
        raise error

    with pytest.raises(type(error)):
        in_halves([1, 2, 3], work)


@pytest.mark.parametrize("error", [ValueError, KeyError, IndexError, RuntimeError, AssertionError, ZeroDivisionError])
def test_whatever_one_sample_raises_the_others_are_computed(error):
    def work(some):
        if 2 in some:
            raise error("two")
        return [x * 10 for x in some]

    found = in_halves([1, 2, 3, 4, 5], work)
    assert isinstance(found[1], error) and found[0::2] == [10, 30, 50] and found[3] == 40
