"""What is said of the tables' columns, against the tables that the commands write."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from interp import cli, plugins
from interp.commands import _session as session
from interp.datasets import scenes
from interp.evaluation.result import record
from interp.evaluation.study import evaluate
from interp.models._lmm import LMM
from interp.report import emergence
from interp.report.columns import TABLES, apart, matches
from interp.statistics.scores import HeadScores
from interp.statistics.summary import statistics
from interp.types import Phrase, Segmentation

METRICS = ["pointing_game", "nss", "image_mass"]


@pytest.fixture(scope="module")
def models(make_tiny_llava, tmp_path_factory):
    """Two folders of tiny LLaVAs with random weights."""
    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"model{seed}")
        for part in make_tiny_llava(seed):
            part.save_pretrained(folder)
        folders.append(str(folder))
    return folders


@pytest.fixture(scope="module")
def written(models, tmp_path_factory):
    """Command -> file -> table, as the command hands it to the run folder."""
    home = tmp_path_factory.mktemp("runs")
    Image.fromarray(scenes.sample("test", 0, size=48).image).save(home / "scene.png")
    first, second = models
    few = ["scenes", "--samples", "3"]
    words = {
        "rank": ["rank", first, *few, "--metrics", *METRICS],
        "emerge": ["emerge", f"0={first},5={second}", *few, "--base", first, "--recall", "--metric", "pointing_game"],
        "compare": ["compare", first, second, *few, "--names", "A", "B", "--metrics", "pointing_game", "--effects"],
        "effects": ["effects", first, *few, "--draws", "1"],
        "segment": ["segment", first, str(home / "scene.png"), "Is it?", "--answer", "A dog.", "--segmenter=threshold"],
    }
    found = {}
    with pytest.MonkeyPatch.context() as patch:  # tables alone: the figures would take most of the time
        patch.setattr(session, "keep", lambda run, page, tables, *rest, **more: found.update({command: tables}))
        patch.setattr(emergence, "keep_examples", lambda *asked: None)
        patch.setattr(LMM, "generate_batch", lambda lmm, images, *asked: ["A dog and a cup."] * len(images))
        for command, asked in words.items():
            assert cli.main([*asked, "--device", "cpu", "--out", str(home / command)]) == 0
    found["rank"]["phrases"] = pd.read_parquet(home / "rank" / "phrases.parquet")
    found["rank"]["scores"] = pd.read_parquet(home / "rank" / "scores.parquet")
    found["segment"] = {"phrases": pd.read_parquet(home / "segment" / "phrases.parquet")}
    return found | {f"evaluate {task}": scored(task) for task in ("gcg", "instances", "referring", "narrative")}


def scored(task):
    """The tables of a task, for an answer that is right, one that is half right and one that failed."""
    records = []
    for i in range(3):
        scene = scenes.sample("test", i, size=48)
        targets = scene.targets[:1] if task == "referring" else scene.targets
        masks = np.stack([t.mask for t in targets])
        if i == 1:
            masks[:, :20] = False
        phrases = tuple(Phrase(f"a {t.phrase}", t.phrase, t.phrase, 2, 2 + len(t.phrase), (0,)) for t in targets)
        points = np.array([np.argwhere(t.mask)[0][::-1] for t in targets], dtype=float)
        made = Segmentation(scene.id, "", scene.answer, phrases, points, masks, np.full(len(targets), 0.5))
        sample = dataclasses.replace(scene, targets=targets)
        records.append(record(sample, "the answer is empty" if i == 2 else made))
    found = evaluate(task, records, lambda texts: np.eye(len(texts)))
    return {"samples": found.samples, "phrases": found.phrases, "summary": found.measures}


@pytest.mark.parametrize("command", TABLES)
def test_every_column_is_described_and_every_description_has_a_column(command, written):
    assert set(written[command]) == set(TABLES[command])
    for name, table in TABLES[command].items():
        undescribed, gone = apart(table, written[command][name])
        assert not undescribed, f"say in interp/report/columns what {undescribed} of {command}'s {name} mean"
        assert not gone, f"{command}'s {name} has no {gone}; take the lines out of interp/report/columns"


@pytest.mark.parametrize("command", TABLES)
def test_values_lie_in_the_range_that_is_told(command, written):
    for name, table in TABLES[command].items():
        frame = written[command][name]
        for described, about in table.columns.items():
            for column in (c for c in frame if matches(described, c)):
                where = f"{column} of {command}'s {name}"
                if about.range == "":
                    assert not pd.api.types.is_float_dtype(frame[column]), f"{where} holds numbers: give their range"
                    continue
                low, high = limits(about.range, frame)
                values = frame[column].to_numpy(dtype=float)
                inside = np.isnan(values) | ((values >= low - 1e-6) & (values <= high + 1e-6))
                assert inside.all(), f"{where} has {values[~inside][:3]}, told is {about.range}"


def limits(told, frame):
    """The ends of a range; those of each row's metric where it is the metric's."""
    if told == "the metric's":
        names = frame["metric"] if "metric" in frame else ["none"] * len(frame)
        known = plugins.names("metrics")
        ends = [plugins.get("metrics", n).limits if n in known else (-np.inf, np.inf) for n in names]
        return np.array(ends, dtype=float).reshape(-1, 2).T
    low, high = re.fullmatch(r"(-?[\d.]+|-∞)\.\.(-?[\d.]+|∞)", told).groups()
    return float(low.replace("∞", "inf")), float(high.replace("∞", "inf"))


def test_the_measures_of_a_task_are_told_by_name(written):
    for task in ("gcg", "instances", "referring", "narrative"):
        told, found = TABLES[f"evaluate {task}"]["summary"].names, written[f"evaluate {task}"]["summary"]
        assert set(told) == set(found["measure"])


def test_a_new_statistic_without_a_line_is_named():
    score = HeadScores("nss", True, ("1", "2"), ("a", "b"), np.zeros((2, 1, 1)))
    new = {**statistics(score, 0), "brand_new": 0}
    columns = ["metric", "layer", "head", *new, "higher_is_better", "rank"]
    assert apart(TABLES["rank"]["heads"], columns) == (["brand_new"], [])
