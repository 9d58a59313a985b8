"""What a ranking keeps of its batches: with maps or without, in memory or in files, the tables are the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted import scenes

import interp
from interp.emergence.study import METRICS
from interp.ranking import gathered, parts
from interp.statistics import intervals, summary
from interp.statistics import scores as statistics_scores
from interp.statistics.scores import HeadScores
from interp.work import room as rooms
from interp.work.store import Memory

HOW = {"progress": False, "metrics": [*METRICS], "batch": 3}


@pytest.fixture
def passes(monkeypatch):
    """How many samples the model has read, a number each pass over a batch."""
    found, measure = [], parts.score_batch

    def counted(plan, group, *more):
        found.append(len(group))
        return measure(plan, group, *more)

    monkeypatch.setattr(parts, "score_batch", counted)
    return found


def alike(one, other):
    for name, table in one.tables().items():
        assert other[name].equals(table), name
    assert {**one.scores} == {**other.scores}


def test_a_lean_run_ends_with_the_same_tables_and_keeps_no_maps(tiny_lmm, passes):
    samples, kept, lean = scenes(8), Memory(), Memory()
    usual = interp.rank(tiny_lmm, samples, **HOW, store=kept)
    assert passes == [3, 3, 2] and sum(key.startswith("maps-") for key in kept.entries) == 3
    alike(interp.rank(tiny_lmm, samples, **HOW, store=lean, lean=True), usual)
    assert passes[3:] == [3, 3, 2] * 2, "a second pass for the best heads' maps"
    assert not any(key.startswith("maps-") for key in lean.entries)
    alike(interp.rank(tiny_lmm, samples, **HOW, store=lean, lean=True), usual)
    assert len(passes) == 9, "what is there is not read again"
    best = [key for key in lean.entries if key.startswith("best-")]
    del lean.entries[best[1]]  # a second pass that was cut off goes on where it was
    alike(interp.rank(tiny_lmm, samples, **HOW, store=lean, lean=True), usual)
    assert passes[9:] == [3]
    alike(interp.rank(tiny_lmm, samples, **HOW, store=kept, lean=True), usual)
    assert len(passes) == 10 and not any(key.startswith("maps-") for key in kept.entries)


def test_scores_in_files_make_the_tables_of_scores_in_memory(tiny_lmm, monkeypatch, tmp_path):
    samples, store = scenes(8), Memory()
    usual = interp.rank(tiny_lmm, samples, **HOW, store=store)
    monkeypatch.setattr(rooms, "SMALL", 0)
    monkeypatch.setattr(gathered, "TOGETHER", 4)
    store.folder = tmp_path
    filed = interp.rank(tiny_lmm, samples, **HOW, store=store)
    assert rooms._file(filed.scores["pointing_game"].values) is not None and list(tmp_path.iterdir()) == []
    alike(filed, usual)


def made(rng, phrases=90, layers=4, heads=6):
    values, null, specific = rng.normal(size=(3, phrases, layers, heads)).astype(np.float32)
    values[rng.random(values.shape) < 0.05] = np.nan
    values[:, 0, 0], values[:, 1, 1], specific[rng.random(phrases) < 0.2] = np.nan, 1.0, np.nan
    images = tuple(f"image {i}" for i in rng.integers(0, 30, phrases))
    return HeadScores(
        "x", True, images, images, values, null, rng.random(phrases).astype(np.float32),
        specificity=specific, partners=rng.integers(0, 3, phrases), image_ids=images,
    )  # fmt: skip


def test_statistics_head_block_by_head_block_are_those_of_all_heads_at_once(monkeypatch):
    """The ends of intervals up to the rounding of their sums, all else to the bit."""
    score, rows = made(np.random.default_rng(0)), np.random.default_rng(1).random(90) < 0.7
    whole = [summary.summarise({"x": score}, 0), summary.summarise({"x": score.of(rows)}, 0)]
    top = score.of(rows).top(7)
    monkeypatch.setattr(statistics_scores, "BLOCK", 90 * 5)
    monkeypatch.setattr(intervals, "PIECE", 7000)
    monkeypatch.setattr(rooms, "SMALL", 0)
    for drawn in (intervals._drawn, intervals._flips):
        drawn.cache_clear()
    assert len(list(score.blocks())) == 5
    filed = {}
    for name in ("values", "null", "specificity"):
        filed[name] = rooms.by_column(90, (4, 6), np.float32)
        rooms.put(filed[name], getattr(score, name))
    for own in (score, replace(score, **filed)):
        parts_of = [summary.summarise({"x": own}, 0), summary.summarise({"x": own}, 0, rows=rows)]
        for found, expected in zip(parts_of, whole, strict=True):
            ends = [name for name in found if name.endswith(("low", "high"))]
            assert found.drop(columns=ends).equals(expected.drop(columns=ends))
            np.testing.assert_allclose(found[ends], expected[ends], rtol=1e-11, equal_nan=True)
        assert own.top(7, rows=rows) == top and own["image 3"] == score["image 3"]
    for drawn in (intervals._drawn, intervals._flips):
        drawn.cache_clear()
