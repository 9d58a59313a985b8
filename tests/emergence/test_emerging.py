"""A series is measured checkpoint by checkpoint, can be killed and can grow, and shows when a planted head appears."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from planted import PLANTED, plant, scenes
from test_series import add_checkpoint

import interp
from interp.cli import main
from interp.emergence import batch as measuring
from interp.emergence import study as emerging
from interp.ranking.result import NothingToRank
from interp.report.run import Run
from interp.work.store import Memory

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
SAMPLES = scenes(44)
OPTIONS = {"normalise": "none", "progress": False, "metrics": ["mass_in_mask"], "batch": 12, "examples": 2}


@pytest.fixture(scope="module")
def planted_run(make_tiny_llava, tmp_path_factory):
    """Whole checkpoints at steps 0, 10, 20, 40; from step 20 on one head looks at the things named."""
    folder = tmp_path_factory.mktemp("planted")
    for step in (0, 10, 20, 40):
        lmm = interp.wrap(*make_tiny_llava())
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():  # training goes on elsewhere
            head = lmm.model.lm_head.weight
            head += 0.05 * torch.randn(head.shape, generator=generator)
        if step >= 20:
            plant(lmm, SAMPLES[:20])
        lmm.model.save_pretrained(folder / f"checkpoint-{step}")
        lmm.processor.save_pretrained(folder / f"checkpoint-{step}")
    return folder


@pytest.fixture(scope="module")
def found(planted_run):
    series, store = interp.series(planted_run), Memory()
    lmm = series.load()
    return emerging.emerge(lmm, series, SAMPLES[20:], store=store, **OPTIONS), store


def test_a_head_planted_in_the_weights_has_its_onset_at_that_checkpoint_and_no_other_head_does(found):
    onsets = found[0].tables.onsets.set_index(["layer", "head"]).onset
    assert onsets[PLANTED] == 20
    assert onsets[onsets == 20].index.to_list() == [PLANTED]


def test_each_step_has_the_scores_and_the_loss_of_that_checkpoint_loaded_and_ranked_alone(found, planted_run):
    for step in (10, 40):
        lmm = interp.load(str(planted_run / f"checkpoint-{step}"))
        alone = interp.rank(lmm, SAMPLES[20:], ["mass_in_mask"], normalise="none", progress=False, batch=12).heads
        own = found[0].tables.heads.query("step == @step")
        for column in ("layer", "head", "n", "mean", "low", "high", "null", "p_corrected"):
            np.testing.assert_array_equal(own[column], alone[column], err_msg=column)
        logprobs = [c.logprobs.mean(dtype=float) for c in interp.captures(lmm, SAMPLES[20:], batch=12)]
        assert found[0].tables.steps.set_index("step").loss[step] == pytest.approx(-np.mean(logprobs), rel=1e-12)


def test_a_finished_series_is_not_computed_again_and_a_new_checkpoint_costs_only_itself(
    found, planted_run, tmp_path, monkeypatch
):
    before, store = found
    again = Memory()
    again.entries = dict(store.entries)
    grown = tmp_path / "grown"
    shutil.copytree(planted_run, grown)
    shutil.copytree(grown / "checkpoint-40", grown / "checkpoint-80")
    (grown / "checkpoint-15").mkdir()
    (grown / "checkpoint-15" / "model.safetensors").write_bytes(b"cut")
    series = interp.series(grown)
    assert [p.step for p in series.sound] == [0, 10, 20, 40, 80]
    scored, real = [], measuring.score_batch
    monkeypatch.setattr(measuring, "score_batch", lambda *a: scored.append(1) or real(*a))
    after = emerging.emerge(series.load(), series, SAMPLES[20:], store=again, **OPTIONS)
    assert not scored and after.computed == 0  # step 80 is the same checkpoint as step 40, by its bytes
    pd.testing.assert_frame_equal(after.tables.heads.query("step < 80"), before.tables.heads)
    assert [name for name, _ in after.skipped] == ["checkpoint 15"] and "damaged" in after.skipped[0][1]
    lmm = interp.load(str(grown / "checkpoint-80"))
    with torch.no_grad():
        lmm.model.lm_head.weight *= 1.1
    lmm.model.save_pretrained(grown / "checkpoint-80")
    more = interp.series(grown)
    result = emerging.emerge(more.load(), more, SAMPLES[20:], store=again, **OPTIONS)
    assert len(scored) == 2 and result.computed == 1  # 24 samples in batches of 12, one checkpoint


def test_examples_hold_each_heads_map_at_each_step(found, planted_run):
    examples = found[0].examples
    assert len(examples) == 2
    for example in examples:
        assert list(example.maps) == [0, 10, 20, 40] and example.phrase == "A brown dog"
        lmm = interp.load(str(planted_run / "checkpoint-20"))
        one = interp.capture(lmm, example.sample.image, example.sample.prompt, example.sample.answer)
        own = one.attention[list(one.kept).index(one.phrases[0].tokens[0])].numpy()
        if len(one.phrases[0].tokens) == 1:
            np.testing.assert_allclose(example.maps[20], own, rtol=2e-3, atol=1e-6)


def test_a_series_of_which_nothing_can_be_measured_says_why(tiny_lmm, planted_run):
    series = interp.series(planted_run)
    without = [interp.Sample(s.id, s.image, s.prompt, None, s.targets) for s in SAMPLES[:3]]
    with pytest.raises(NothingToRank, match=r"no checkpoint could be measured.*no reference answer"):
        emerging.emerge(series.load(), series, without, **OPTIONS)


@pytest.fixture(scope="module")
def lora_run(make_tiny_llava, tmp_path_factory):
    """A folder as mini-llava's."""
    folder = tmp_path_factory.mktemp("lora")
    model, processor = make_tiny_llava()
    model.save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    for step, adapter in ((0, False), (5, False), (20, True)):
        add_checkpoint(model, folder / f"checkpoint-{step}", step, adapter)
    return folder


def test_features_of_a_frozen_tower_are_computed_once_for_all_checkpoints(lora_run, monkeypatch):
    series = interp.series(lora_run)
    lmm, caches, real = series.load(), [], emerging.vision_cache

    def watched(model):
        context = real(model)
        caches.append(context)
        return context

    monkeypatch.setattr(emerging, "vision_cache", watched)
    calls = []
    hook = lmm.model.model.vision_tower.encoder.layers[0].register_forward_hook(lambda *a: calls.append(1))
    emerging.emerge(lmm, series, SAMPLES[:6], **{**OPTIONS, "examples": 0})
    hook.remove()
    assert caches and len(calls) == 1  # one batch, once, for three checkpoints


def command(lora_run, out, *more):
    return ["emerge", str(lora_run), "scenes", "--samples", "6", "--batch", "2", "--metric", "mass_in_mask",
            "--device", "cpu", "--out", str(out), *more]  # fmt: skip


def test_a_killed_run_ends_with_the_same_tables_and_a_grown_series_is_taken_up(lora_run, tmp_path, capsys):
    assert main(command(lora_run, tmp_path / "whole", "--recall")) == 0
    assert "mass in mask" in capsys.readouterr().out.lower()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    arguments = command(lora_run, tmp_path / "killed", "--recall")
    process = subprocess.Popen(
        [sys.executable, "-m", "interp.cli", *arguments], env=environment, stderr=subprocess.DEVNULL
    )
    parts, deadline = tmp_path / "killed" / "parts", time.time() + 400
    while process.poll() is None and len(list(parts.glob("*.npz"))) < 4:
        assert time.time() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list(parts.glob("*.npz")))
    assert 4 <= done < 3 * (3 + 3 + 1)
    assert main(arguments) == 0
    for table in ("emergence", "onsets", "steps", "lags", "agreement", "leaders", "layers"):
        whole, resumed = (Run.read(tmp_path / name).folder / f"{table}.parquet" for name in ("whole", "killed"))
        assert whole.read_bytes() == resumed.read_bytes(), table
    grown = tmp_path / "grown"
    shutil.copytree(lora_run, grown)
    shutil.copytree(grown / "checkpoint-5", grown / "checkpoint-7")
    (grown / "checkpoint-7" / "projector.safetensors").write_bytes(b"cut")
    out = tmp_path / "of grown"
    assert main(command(grown, out)) == 0
    assert "step 7 is damaged" in capsys.readouterr().err
    assert [skip["sample_id"] for skip in Run.read(out).manifest["skipped"]][-1] == "checkpoint 7"
    shutil.rmtree(grown / "checkpoint-7")
    shutil.copytree(grown / "checkpoint-20", grown / "checkpoint-40")
    assert main(command(grown, out)) == 0
    frame = pd.read_parquet(out / "emergence.parquet")
    assert sorted(frame.step.unique()) == [0, 5, 20, 40]
    assert {"step", "stage", "metric", "layer", "head", "mean", "low", "high", "null"} <= set(frame)
    panels = json.loads((out / "explorer.json").read_text())["panels"]
    assert {panel["step"] for panel in panels} == {0, 5, 20, 40}
    assert 'id="explorer"' in (out / "report.html").read_text()
    with Image.open(out / "figures" / "maps_mass_in_mask.gif") as gif:
        assert gif.n_frames == 4
