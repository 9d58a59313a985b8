"""What a user gets wrong: one message that says what came, what was expected and what to do; exit code 2; and the
corrected command goes through in the same folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from told import said

import interp
from interp import cli

ANSWER = "A brown dog sits on a red chair."


@pytest.fixture
def model(whole, tmp_path):
    """A copy that a test may harm."""
    return shutil.copytree(whole, tmp_path / "model")


@pytest.fixture
def image(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def segment(model, image, out, *more):
    return ["segment", model, image, "Hi", "--answer", ANSWER, "--segmenter", "threshold", "--out", out, *more]


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        (["--heads", "99:0"], ["--heads", "1:0"], "99"),
        (["--heads", "0:1", "--weights", "nan"], ["--heads", "0:1", "--weights", "1"], "finite"),
        (["--phrases", "zebra"], ["--phrases", "dog"], "zebra"),
        (["--image-id", "x" * 300], ["--image-id", "x" * 200], "shorter --image-id"),
        (["--image-id", "\udcff"], ["--image-id", "é"], "not UTF-8"),
        (["--device", "foo"], ["--device", "cpu"], "no device 'foo'"),
        (["--device", "cuda:99"], ["--device", "cpu"], "no device 'cuda:99'"),
        (["--device", "meta"], ["--device", "cpu"], "meta"),
    ],
)
def test_after_a_mistake_the_corrected_command_goes_through_in_the_same_folder(
    whole, image, tmp_path, capsys, wrong, right, message
):
    assert message in said(capsys, *segment(whole, image, tmp_path / "run", *wrong))
    assert cli.main([str(word) for word in segment(whole, image, tmp_path / "run", *right)]) == 0


@pytest.mark.parametrize("wrong", [["--nulls", "-1"], ["--seed", "-1"], ["--seed", "x"]])
def test_a_number_that_cannot_be_is_found_before_all_the_attention(whole, tmp_path, capsys, monkeypatch, wrong):
    monkeypatch.setattr(interp, "load", lambda *a, **k: pytest.fail("loaded a model for nothing"))
    for command in (["rank", whole], ["emerge", whole], ["effects", whole], ["compare", whole, whole]):
        if command[0] == "effects" and wrong[0] == "--nulls":
            continue
        assert "not a whole number of at least 0" in said(capsys, *command, "scenes", "--out", tmp_path / "r", *wrong)
    with pytest.raises(ValueError, match="seed is -1"):
        interp.rank(None, [], seed=-1)


def test_a_model_that_is_not_there_is_found_before_the_other_one_is_measured(whole, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(interp, "load", lambda *a, **k: pytest.fail("loaded a model for nothing"))
    message = said(
        capsys, "compare", whole, tmp_path / "no-such", "scenes", "--samples", "2", "--out", tmp_path / "run"
    )
    assert "no-such" in message and not (tmp_path / "run").exists()


def test_a_run_with_finished_work_is_not_taken_away(tmp_path):
    import numpy as np

    from interp.report.run import Run

    run = Run.open(tmp_path / "run", {"n": 1})
    run.put("a", {"x": np.zeros(1)})
    run.withdraw()
    assert Run.read(tmp_path / "run").get("a") is not None
    Run.open(tmp_path / "two", {"n": 1})
    again = Run.open(tmp_path / "two", {"n": 1})  # another process may be at work in it
    again.withdraw()
    assert Run.read(tmp_path / "two")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def other_shapes(path):
    weights = load_file(path)
    name = next(k for k in weights if k.endswith("up_proj.weight"))
    save_file(weights | {name: torch.zeros(3, 5)}, path, {"format": "pt"})


def text(value):
    return lambda path: path.write_text(value)


@pytest.mark.parametrize(
    ("file", "harm", "message"),
    [
        ("model.safetensors", cut, "cut off or damaged"),
        ("model.safetensors", lambda path: path.write_bytes(b""), "cut off or damaged"),
        ("model.safetensors", other_shapes, "up_proj"),
        ("config.json", text("[1, 2]"), "config.json holds a list; expected an object"),
        ("config.json", text("null"), "config.json holds null; expected an object"),
        ("config.json", text('{"model_type": ["llava"]}'), "model_type: Input should be a valid string"),
        ("config.json", text("[" * 100_000), "config.json"),
        ("processor_config.json", text("[" * 100_000), ""),
        ("tokenizer.json", text("{}"), ""),
        ("chat_template.jinja", text("{{ raise_exception('no such role') }}"), "chat template fails"),
        ("chat_template.jinja", text("{% for i in range(10**9) %}a{% endfor %}"), "chat template fails"),
        ("chat_template.jinja", text("{{ ''.__class__.__mro__ }}"), "template"),
        ("chat_template.jinja", text("{% if %}"), "chat template fails"),
    ],
)
def test_a_damaged_model_is_named_with_what_is_wrong_in_it(model, image, tmp_path, capsys, file, harm, message):
    harm(model / file)
    told = said(capsys, *segment(model, image, tmp_path / "run"))
    assert message in told and len(told) > 40


@pytest.mark.parametrize("place", ["prompt", "answer"])
def test_half_a_character_is_named_not_a_tokenizers_riddle(tiny_lmm, photo, place):
    given = {"prompt": "Hi", "answer": "A dog."} | {place: "A dog \ud83d."}
    with pytest.raises(ValueError, match=f"the {place} .* half a character"):
        interp.capture(tiny_lmm, photo, given["prompt"], given["answer"])


def test_a_folder_with_an_equals_sign_in_its_name_is_a_series(make_tiny_llava, tmp_path, capsys, monkeypatch):
    model, processor = make_tiny_llava()
    runs = tmp_path / "runs" / "lr=2e-5,b=8"
    for name in ("base", "checkpoint-1", "checkpoint-2"):
        model.save_pretrained(runs / name)
    processor.save_pretrained(runs / "base")
    more = ["scenes", "--samples", "2", "--metric", "pointing_game"]
    assert cli.main(["emerge", str(runs), *more, "--out", str(tmp_path / "run")]) == 0
    listed = ",".join(f"{step}={runs}/checkpoint-{step}" for step in (1, 2))
    assert cli.main(["emerge", listed, *more, "--base", str(runs / "base"), "--out", str(tmp_path / "two")]) == 0
    assert "no folder" in said(capsys, "emerge", tmp_path / "lr=3", *more, "--out", tmp_path / "three")


@pytest.mark.parametrize("wait", [0.3, 0.8, 1.5, 3.0])
def test_control_c_while_libraries_are_imported_prints_no_traceback(whole, tmp_path, wait):
    command = [sys.executable, "-c", "import sys; from interp.cli import main; print(1, flush=True); sys.exit(main())"]
    command += ["rank", str(whole), "scenes", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    process.stdout.readline()
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in error and "The same command goes on" in error


def test_the_adapter_settings_of_a_series_may_be_anything_and_damage_only_their_checkpoint(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "base")
    for step, content in enumerate(["[1]", "null", "{", "[" * 100_000]):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file({"base_model.model.x.lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(content)
    found = interp.series(tmp_path)
    lmm = found.load()
    with found.swap(lmm) as swap:
        assert not list(swap) and len(swap.skipped) == 4
        assert all("adapter_config.json" in reason for reason in swap.skipped.values())
    assert json.dumps(swap.skipped)


def test_a_step_too_large_for_a_table_is_refused_before_anything_is_measured(whole, tmp_path, capsys):
    words = ["emerge", f"{'9' * 30}={whole}", "scenes", "--samples", "2", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 2 and "no training step" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
