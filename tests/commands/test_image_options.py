"""Which view of the image maps are made of, and how the processor cuts it, are said on the command line."""

import json

import numpy as np
import pytest
import tiny_models
from PIL import Image

from interp import cli
from interp.types import Capture


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    """Folder of a tiny Gemma 3, and an image twice as wide as high."""
    folder = tmp_path_factory.mktemp("gemma")
    for part in tiny_models.build("gemma3"):
        part.save_pretrained(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "wide.png")
    return folder


def capture(folder, out, *more):
    image = str(folder / "wide.png")
    command = ["capture", str(folder), image, "What is it?", "--answer", "A brown dog.", "--out", str(out), *more]
    assert cli.main(command) == 0
    return Capture.load(out / "capture.safetensors")


def test_crops_are_seen_when_pan_and_scan_is_switched_on(gemma, tmp_path):
    plain = capture(gemma, tmp_path / "plain")
    assert plain.elsewhere is None and plain.grid.box == (0, 0, 90, 40)
    on = ("--processor", "do_pan_and_scan=true", "pan_and_scan_min_crop_size=20")
    cut = capture(gemma, tmp_path / "cut", *on)
    assert cut.elsewhere.shape == cut.attention.shape[:3]
    assert {view.name: view.box for view in cut.grid.others}["crop 2"] == (45, 0, 90, 40)
    crop = capture(gemma, tmp_path / "crop", *on, "--view", "crop 2")
    assert crop.grid.box == (45, 0, 90, 40) and crop.grid.name == "crop 2"
    arguments = json.loads((tmp_path / "crop" / "manifest.json").read_text())["arguments"]
    assert arguments["view"] == "crop 2" and arguments["processor"][0] == ["do_pan_and_scan", True]
    capture(gemma, tmp_path / "crop", *on, "--view", "crop 2")  # the same run again is no other run


@pytest.mark.parametrize(
    "wrong, said",
    [
        (("--processor", "pan=true"), "no option 'pan'"),
        (("--view", "thumbnail"), "no view 'thumbnail'; it has: main"),
        (("--processor", "pan"), "not KEY=VALUE"),
    ],
)
def test_options_that_there_are_not_are_named(gemma, tmp_path, wrong, said, capsys):
    image = str(gemma / "wide.png")
    try:
        code = cli.main(["capture", str(gemma), image, "What?", "--answer", "A dog.", "--out", str(tmp_path), *wrong])
    except SystemExit as stop:
        code = stop.code
    assert code != 0 and said in capsys.readouterr().err
