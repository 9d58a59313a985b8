"""The study of effects: grounding beside effect, on the planted model; its tables against plain computations."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from scipy.stats import spearmanr
from test_effects import CAUSE, ONLOOKER, identity_scenes, plant_cause

import interp

SEED = 1


@pytest.fixture(scope="module")
def planted(make_tiny_llava):
    lmm = interp.wrap(*make_tiny_llava(SEED))
    samples = identity_scenes(70, SEED)
    plant_cause(lmm, samples[:30])
    return lmm, samples[30:]


@pytest.fixture(scope="module")
def found(planted):
    lmm, samples = planted
    return interp.cause(lmm, samples, metric="mass_in_mask", draws=2, progress=False)


def test_the_study_tells_the_head_that_writes_from_the_one_that_only_looks(found):
    heads = found.heads.set_index(["metric", "layer", "head"])
    for head in (CAUSE, ONLOOKER):
        assert heads.loc[("mass_in_mask", *head), "rank"] <= 2
    assert heads.loc[("logprob", *CAUSE), "p_corrected"] < 0.05
    assert abs(heads.loc[("logprob", *ONLOOKER), "mean"]) < 1e-5


def test_own_patches_hidden_harm_and_others_do_not_in_the_layer_where_the_cause_lies(found):
    edges = found.edges.query("measure == 'logprob'").set_index("keys")
    assert edges.loc["own", "low"] > 0.5 and abs(edges.loc["background", "mean"]) < 0.1 * edges.loc["own", "mean"]
    layers = found.layers.query("measure == 'logprob' and keys == 'own'").set_index("layer")["mean"]
    assert layers.idxmax() == CAUSE.layer and layers.drop(CAUSE.layer).abs().max() < 0.05 * layers.max()
    gap = found.contrasts.query("measure == 'logprob' and keys == 'background'").iloc[0]
    own, other = edges.loc["own"], edges.loc["background"]
    assert gap["difference"] == pytest.approx(own["mean"] - other["mean"], abs=1e-9) and gap["low"] > 0


def test_a_kind_of_patch_that_an_image_does_not_have_is_no_number(found):
    """There is one thing an image: no patches of others, so that nothing can be said of them."""
    assert "others" not in set(found.contrasts.query("n > 0")["keys"])


def test_the_rank_correlation_is_that_of_the_means(found):
    heads = found.heads.set_index(["layer", "head"])
    x, y = (heads[heads["metric"] == m]["mean"] for m in ("mass_in_mask", "logprob"))
    row = found.correlation.set_index("measure").loc["logprob"]
    assert row["rho"] == pytest.approx(spearmanr(x, y.reindex(x.index)).statistic)
    assert row["low"] <= row["rho"] <= row["high"] and row["heads"] == 12


def test_the_command_writes_tables_figures_and_a_report_and_goes_on_after_a_kill(
    planted, tmp_path, monkeypatch, capsys
):
    from interp import cli

    lmm, samples = planted
    monkeypatch.setattr("interp.commands._session.load", lambda options: lmm)
    monkeypatch.setattr("interp.commands._session.samples", lambda options: samples[:8])
    command = ["effects", "tiny", "scenes", "--metric", "mass_in_mask", "--draws", "1", "--batch", "4"]
    command += ["--figures", "all"]
    assert cli.main([*command, "--out", str(tmp_path / "whole")]) == 0
    said = capsys.readouterr().out
    assert "nats of log-probability" in said and "report.html" in said

    calls, measure = [], interp.causation.batch.measure

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr("interp.causation.harm.measure", dies)
    assert cli.main([*command, "--out", str(tmp_path / "killed")]) == 130
    before = len(calls)
    assert cli.main([*command, "--out", str(tmp_path / "killed")]) == 0
    assert len(calls) - before < 14  # 8 studies of 2 batches; 4 were there
    for table in ("heads", "sets", "edges", "layers", "contrasts", "correlation", "phrases"):
        files = [(tmp_path / run / f"{table}.parquet").read_bytes() for run in ("whole", "killed")]
        assert files[0] == files[1], table
    page = (tmp_path / "whole" / "report.html").read_text()
    assert "Spearman" not in page and page.count("<img") >= 8
    manifest = json.loads((tmp_path / "whole" / "manifest.json").read_text())
    assert manifest["finished"] and manifest["arguments"]["intervention"] == "mean"
    assert pd.read_parquet(tmp_path / "whole" / "heads.parquet")["metric"].nunique() >= 3


def test_a_knockout_of_heads_is_refused_because_edges_are_cut_anyway(planted):
    with pytest.raises(ValueError, match="edges are cut"):
        interp.cause(planted[0], planted[1], intervention="knockout")
