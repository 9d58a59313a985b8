"""Which rounds a training has, and which of its checkpoints ship."""

import json

import numpy as np
import torch
from safetensors.torch import save_file

from training import stages
from training.export import export_checkpoints
from training.pictures import Rendered
from training.stages import Round

SHARES = {"free": 1.0}


def test_checkpoints_that_ship_are_counted_over_the_rounds_and_end_where_training_ended(tmp_path, monkeypatch):
    rounds = {"a": Round((0, 1, 2, 4), 1, 1.0, 0, (1, 1), SHARES), "b": Round((3, 6), 1, 1.0, 9, (1, 1), SHARES)}
    monkeypatch.setattr(stages, "ROUNDS", rounds | {"c": rounds["b"]})
    monkeypatch.setattr("training.export.ROUNDS", rounds)
    for name, how in rounds.items():
        for step in how.saves:
            (tmp_path / name / f"checkpoint-{step}").mkdir(parents=True)
            save_file({"weight": torch.ones(2)}, tmp_path / name / f"checkpoint-{step}" / "projector.safetensors")
    for until, expected in (("b", {0, 1, 2, 4, 7, 10}), ("a", {0, 1, 2, 4})):
        out = tmp_path / f"to {until}"
        out.mkdir()
        export_checkpoints(tmp_path, out, until)
        assert {int(f.name.removeprefix("checkpoint-")) for f in out.iterdir()} == expected


def test_plain_pictures_come_as_often_as_asked_and_the_others_once(tmp_path):
    thing = {"noun": "cup", "x": 0.5, "y": 0.5, "size": 0.3, "count": 1, "hides": []}
    colours = ["red", "", "blue", "", "green"]
    np.save(tmp_path / "scenes.npy", np.zeros((5, 4, 4, 3), np.uint8))
    (tmp_path / "scenes.json").write_text(json.dumps([[{**thing, "colour": c}] for c in colours]))
    once, often = Rendered(tmp_path), Rendered(tmp_path, plain=3)
    assert once.numbers == [0, 1, 2, 3, 4], "the order of trainings that ran before stays"
    assert sorted(often.numbers) == [0, 1, 1, 1, 2, 3, 3, 3, 4]
    assert [t[0].colour for t in often.things] == [colours[k] for k in often.numbers]
