"""After a command that failed before anything was scored, the corrected one goes through in the same folder."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import interp
from interp import cli
from interp.datasets import coco, scenes
from interp.report.run import Run


@pytest.fixture
def series(whole, tmp_path):
    for name in ("base", "checkpoint-1"):
        shutil.copytree(whole, tmp_path / "series" / name)
    return tmp_path / "series"


def command(name, model, series, out):
    few = ["--samples", "2", "--batch", "1", "--out", str(out)]
    return {
        "rank": ["rank", str(model), "coco", *few, "--metrics", "pointing_game"],
        "effects": ["effects", str(model), "coco", *few, "--draws", "2"],
        "emerge": ["emerge", str(series), "coco", *few, "--metric", "pointing_game"],
        "compare": ["compare", str(model), str(model), "coco", *few, "--metrics", "pointing_game", "--effects"],
    }[name]


def without_answers(root):
    """Captions that name nothing: every sample is skipped, after the model has read it."""
    path = root / "annotations" / "captions_val2017.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "annotations": [{**a, "caption": "Look."} for a in told["annotations"]]}))


@pytest.mark.parametrize("name", ["rank", "effects", "emerge", "compare"])
def test_a_run_in_which_every_sample_was_skipped_does_not_refuse_the_corrected_command(
    name, whole, series, tmp_path, capsys
):
    made = [scenes.sample("test", i, size=48) for i in range(2)]
    coco.write(made, tmp_path / "good", "val2017")
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    without_answers(tmp_path / "bad")
    words = command(name, whole, series, tmp_path / "run")
    assert cli.main([*words, "--root", str(tmp_path / "bad")]) == 2
    assert "scored" in capsys.readouterr().err
    assert not list((tmp_path / "run").iterdir())
    assert cli.main([*words, "--root", str(tmp_path / "good")]) == 0


@pytest.mark.parametrize("name", ["rank", "effects", "emerge", "compare"])
def test_a_data_set_without_masks_is_refused_before_a_model_has_read_it(name, whole, series, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    words = command(name, whole, series, tmp_path / "run")
    words = ["folder" if word == "coco" else word for word in words]
    monkeypatch.setattr(interp.models._lmm.LMM, "inputs", lambda *a: pytest.fail("read an image for nothing"))
    assert cli.main([*words, "--root", str(tmp_path / "images")]) == 2
    assert not list((tmp_path / "run").iterdir())


def test_a_run_with_one_scored_batch_beside_skipped_ones_is_kept(whole, tmp_path, monkeypatch):
    from interp.ranking import tables

    def fails(*arguments, **named):
        raise ValueError("the disk is full")

    words = ["rank", str(whole), "scenes", "--samples", "2", "--batch", "1", "--metrics", "pointing_game"]
    words += ["--out", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(tables.summary, "summarise", fails)
        assert cli.main(words) == 2
    assert len(list((tmp_path / "run" / "parts").glob("scores-*"))) == 2
    assert cli.main(words) == 0 and Run.read(tmp_path / "run").manifest["resumed"]


def test_a_comparison_whose_second_model_is_broken_goes_on_with_a_good_one_from_elsewhere(whole, tmp_path, capsys):
    few = ["scenes", "--samples", "2", "--metrics", "pointing_game", "--effects", "--no-recall"]
    few += ["--out", str(tmp_path / "run")]
    broken = shutil.copytree(whole, tmp_path / "broken")
    stored = load_file(broken / "model.safetensors")
    name = next(k for k in stored if k.endswith("q_proj.weight"))
    save_file({k: v * float("nan") if k == name else v for k, v in stored.items()}, broken / "model.safetensors")
    good = shutil.copytree(whole, tmp_path / "good")
    assert cli.main(["compare", str(whole), str(broken), *few]) == 2 and "NaN" in capsys.readouterr().err
    before = {p.name for p in (tmp_path / "run" / "parts").iterdir()}
    assert before
    assert cli.main(["compare", str(whole), str(good), *few]) == 0
    after = Run.read(tmp_path / "run")
    assert before <= {p.name for p in (tmp_path / "run" / "parts").iterdir()}
    assert after.manifest["arguments"]["model_b"] == str(good)
    swapped = ["compare", str(good), str(whole), *few]
    assert cli.main(swapped) == 2 and "another run" in capsys.readouterr().err
    assert Run.read(tmp_path / "run").manifest == after.manifest  # a refused command changes nothing
