"""`interp segment`: what a user types, sees and finds in the folder."""

from __future__ import annotations

import json
import re
from argparse import Namespace

import numpy as np
import pytest
from PIL import Image

import interp
from interp import cli
from interp.commands._masks import method_options
from interp.report.run import Run

ANSWER = "A brown dog sits on a red chair in the image."


@pytest.fixture(scope="module")
def model(make_tiny_llava, tmp_path_factory):
    """Folder of a tiny LLaVA with random weights."""
    folder = tmp_path_factory.mktemp("model")
    for part in make_tiny_llava():
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def image(tmp_path, photo):
    path = tmp_path / "42.png"
    Image.fromarray(photo).save(path)
    return str(path)


def command(model, image, out, *more):
    return ["segment", model, image, "Describe the image.", "--answer", ANSWER, "--out", str(out), *more]


def test_the_folder_holds_overlay_tables_masks_and_report(model, image, tmp_path, photo, monkeypatch, capsys):
    monkeypatch.setenv("INTERP_DATA", str(tmp_path / "nothing"))
    out = tmp_path / "run"
    assert cli.main(command(model, image, out, "--drop-invisible", "--heads", "0:1,2:3")) == 0
    said = capsys.readouterr()
    assert "segmenter: threshold, since mini-sam is not in" in said.err
    assert "left out: 'the image'" in said.err
    assert f"answer: {ANSWER}" in said.out
    page = (out / "report.html").read_text()
    assert "A brown dog" in page and "data:image/png;base64," in page
    assert not re.search(r"https?:|@import|url\(", page)
    assert (out / "figures" / "overlay.png").stat().st_size > 5000
    arrays = np.load(out / "masks.npz")
    expected = interp.segment(
        interp.load(model),
        photo,
        "Describe the image.",
        answer=ANSWER,
        heads=[(0, 1), (2, 3)],
        segmenter="threshold",
        phrases=["A brown dog", "a red chair"],
    )
    assert np.array_equal(arrays["masks"], expected.masks)
    released = json.loads((out / "gcg" / "42.json").read_text())
    assert released["image_id"] == "42"
    assert released["phrases"] == ["A brown dog", "a red chair"]
    assert [entry["image_id"] for entry in json.loads((out / "coco.json").read_text())] == [42, 42]
    manifest = Run.read(out).manifest
    assert "the image" in manifest["skipped"][0]["reason"]
    assert Run.read(out).read_table("phrases")["phrase"].tolist() == ["A brown dog", "a red chair"]
    assert cli.main(command(model, image, out, "--drop-invisible", "--heads", "all")) == 2
    assert "another run" in capsys.readouterr().err
    assert cli.main(command(model, image, out, "--heads", "all", "--force")) == 0
    assert len(Run.read(out).read_table("phrases")) == 2, "a picture is no thing to segment"
    assert cli.main(command(model, image, out, "--heads", "all", "--keep-invisible", "--force")) == 0
    assert len(Run.read(out).read_table("phrases")) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--segmenter", "tresholt"], "did you mean 'threshold'"),
        (["--heads", "best"], "L14H24"),
        (["--heads", "top3"], "--ranking"),
        (["--preset", "paper", "--heads", "released"], "settles heads"),
        (["--image-id", "../42"], "file name"),
    ],
)
def test_bad_input_is_one_clear_message_before_a_model_is_loaded(image, tmp_path, capsys, more, message):
    assert cli.main(command("/no/such/model", image, tmp_path / "run", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_options_left_out_stay_the_methods_own():
    bare = dict.fromkeys(("prompting", "choice", "min_confidence", "merge", "weights", "heads", "ranking"))
    options = Namespace(**bare, remove_corners=False, drop_invisible=False, end=False)
    assert method_options(options) == {}
    options.choice, options.remove_corners = 1, True
    assert method_options(options) == {"choice": 1, "remove_corners": True}
