"""Heads in all the forms that people write them in."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from interp.answer.maps import head_list, reduce_heads
from interp.attention.chosen import Chosen
from interp.heads import read_heads
from interp.types import Head

BOTH = [Head(14, 24), Head(3, 1)]


@pytest.mark.parametrize(
    "given",
    [
        "L14H24 L3H1",
        "L14 H24, L3 H1",
        "l14h24;l3h1",
        "14:24,3:1",
        "14:24 3:1",
        "(14, 24), (3, 1)",
        ["L14H24", "3:1"],
        [(14, 24), (3, 1)],
        [[14, 24], Head(3, 1)],
        np.array([[14, 24], [3, 1]]),
        torch.tensor([[14, 24], [3, 1]]),
        pd.DataFrame({"layer": [14, 3], "head": [24, 1]}),
        BOTH,
        (str(BOTH[0]), str(BOTH[1])),
    ],
    ids=repr,
)
def test_a_head_is_read_in_every_form_in_which_it_is_written(given):
    assert read_heads(given) == BOTH


@pytest.mark.parametrize("given", ["L14H24", "14:24", (14, 24), Head(14, 24), [14, 24], np.array([14, 24])], ids=repr)
def test_a_single_head_needs_no_list(given):
    assert read_heads(given) == [Head(14, 24)]


def test_what_depends_on_the_model_stays_a_name():
    assert read_heads("all") == "all" and read_heads("released") == "released"


@pytest.mark.parametrize(
    "given",
    [
        "",
        "best",
        "L14",
        "14",
        "14:24:3",
        "１:２",
        "9999999:0",
        "0:1 " * 400 + "x",
        14,
        (14,),
        (14.5, 2),
        ["all", "L1H2"],
        b"L1H2",
    ],
)
def test_what_is_no_head_is_said_with_the_forms_there_are(given):
    with pytest.raises(ValueError, match=r"L14H24|stands among"):
        read_heads(given)


def test_heads_in_words_reduce_maps_and_are_taken_away_as_pairs_are():
    maps = torch.rand(2, 3, 4, 5, 5)
    assert torch.equal(reduce_heads(maps, "L1H2 2:0"), reduce_heads(maps, [(1, 2), (2, 0)]))
    assert head_list("L1H2", 3, 4) == [Head(1, 2)]
    assert Chosen("L1H2, 2:0").each == Chosen([(1, 2), (2, 0)]).each == [[Head(1, 2), Head(2, 0)]]
    assert Chosen([["L1H2"], [(2, 0)]]).each == [[Head(1, 2)], [Head(2, 0)]]  # one list per sample


@pytest.fixture
def folder(tmp_path):
    """A ranking's folder: by entropy, of which less is better; by specificity the order is another."""
    rows = [("nss", 0, 0, 9.0, 0.9, 1.0), ("entropy", 0, 0, 3.0, 0.1, 3.0), ("entropy", 0, 1, 1.0, 0.2, 1.0)]
    rows += [("entropy", 1, 0, 2.0, 0.3, 2.0), ("entropy", 1, 1, np.nan, np.nan, np.nan)]
    table = pd.DataFrame(rows, columns=["metric", "layer", "head", "mean", "specificity", "rank"])
    table.assign(higher_is_better=table["metric"] == "nss").to_parquet(tmp_path / "heads.parquet")
    (tmp_path / "manifest.json").write_text(json.dumps({"about": {"headline": "entropy"}}))
    return tmp_path


def test_top_heads_are_those_of_the_ranking_best_first(folder):
    assert read_heads("top2", folder) == [Head(0, 1), Head(1, 0)]
    assert read_heads(f"top2 of {folder}") == [Head(0, 1), Head(1, 0)]
    assert read_heads("top2", str(folder), "specificity") == [Head(1, 0), Head(0, 1)]
    assert read_heads("top2", folder, "mean") == [Head(0, 1), Head(1, 0)]
    table = folder / "heads.parquet"
    assert read_heads(f"top1 of {table}") == [Head(0, 1)]
    assert read_heads("top1", pd.read_parquet(table).query("metric == 'entropy'")) == [Head(0, 1)]
    assert reduce_heads(torch.rand(1, 2, 2, 3, 3), f"top2 of {folder}").shape == (1, 3, 3)


def test_top_heads_that_are_not_there_are_said_to_be_missing(folder, tmp_path_factory):
    with pytest.raises(ValueError, match="3 heads"):
        read_heads("top4", folder)
    with pytest.raises(ValueError, match="of which ranking"):
        read_heads("top3")
    with pytest.raises(FileNotFoundError, match="no finished ranking"):
        read_heads("top1", tmp_path_factory.mktemp("empty"))
    for about in ([], {"about": []}):
        (folder / "manifest.json").write_text(json.dumps(about))
        with pytest.raises(ValueError, match="not as `interp rank` writes it"):
            read_heads("top1", folder)
    (folder / "heads.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="not as `interp rank` writes it"):
        read_heads("top1", folder)
