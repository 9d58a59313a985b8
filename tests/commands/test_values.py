"""What a command's words may be is checked in one place, before anything is loaded; and what the library says of its
arguments is said of the options."""

from __future__ import annotations

import argparse
import os

import pytest
from told import said

import interp
from interp.commands import _values
from interp.report.folder import RunConflict
from interp.report.run import Run


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch):
    monkeypatch.setattr(interp, "load", lambda *a, **k: pytest.fail("loaded a model for nothing"))
    monkeypatch.setattr(interp, "load_segmenter", lambda *a, **k: pytest.fail("loaded a segmenter for nothing"))


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (_values.positive, "1", 1),
        (_values.positive, "+7", 7),
        (_values.positive, "1000000000", 10**9),
        (_values.natural, "0", 0),
        (_values.seed, str(2**63 - 1), 2**63 - 1),
        (_values.share, "0", 0.0),
        (_values.share, "1", 1.0),
        (_values.share, "0.25", 0.25),
        (_values.choice, "last", "last"),
        (_values.choice, "2", 2),
    ],
)
def test_a_value_that_can_be_comes_as_it_is(kind, text, value):
    assert kind(text) == value and type(kind(text)) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((_values.positive, text) for text in ("0", "-1", "1.5", "nan", "", "two", "1e3", "٢", "²", "1" * 5000)),
        *((_values.positive, text) for text in (str(10**9 + 1), "9" * 30)),
        *((_values.natural, text) for text in ("-1", "", "x", "9" * 30)),
        *((_values.seed, text) for text in ("-1", str(2**63), "9" * 5000)),
        *((_values.share, text) for text in ("nan", "inf", "-0.1", "1.1", "", "x", "1e400")),
        *((_values.choice, text) for text in ("", "x", "-1", "²", "٢", "9" * 5000, "1000", "LAST")),
    ],
)
def test_a_value_that_cannot_be_is_refused_in_a_line_that_can_be_read(kind, text):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        kind(text)
    assert len(str(caught.value)) < 200 and "int_max_str_digits" not in str(caught.value)


EMPTY = ["--out", "--split", "--root", "--device-map", "--segmenter", "--checkpoint", "--heads", "--ranking"]
EMPTY += ["--encoder", "--predictions"]


@pytest.mark.parametrize("option", EMPTY)
@pytest.mark.parametrize(
    ("given", "told"), [("", "is empty"), ("  ", "is empty"), ("a\0b", "NUL"), ("\udcff", "UTF-8")]
)
def test_an_option_that_says_nothing_is_not_taken_for_one_that_was_left_out(capsys, tmp_path, option, given, told):
    words = ["evaluate", "gcg", "mini-llava", "gcg", "--out", tmp_path / "run", f"{option}={given}"]
    assert told in (message := said(capsys, *words)) and option in message


@pytest.mark.parametrize("place", ["model", "image"])
def test_an_empty_model_or_image_is_named(capsys, tmp_path, place):
    given = {"model": "mini-llava", "image": "a.png"} | {place: ""}
    message = said(capsys, "capture", given["model"], given["image"], "Hi", "--out", tmp_path / "run")
    assert message.startswith(f"interp: {place} is empty")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--by", "mean"], "--by says by what the best heads of a ranking"),
        (["--ranking", "{run}"], "say how many to take"),
        (["--ranking", "{run}", "--heads", "0:1"], "needs no --ranking"),
        (["--heads", "top3"], "not of which ranking"),
        (["--heads", "٠:١"], "cannot read heads from"),
        (["--heads", "9" * 5000 + ":0"], "cannot read heads from"),
        (["--heads", "top" + "9" * 5000, "--ranking", "{run}"], "cannot read heads from"),
        (["--encoder", "words"], "--encoder is of the task gcg"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(capsys, tmp_path, monkeypatch, words, told):
    from interp.commands import _session

    monkeypatch.setattr(_session, "samples", lambda *a, **k: [])
    words = [word.format(run=tmp_path) for word in words]
    assert told in said(capsys, "evaluate", "instances", "mini-llava", "coco", "--out", tmp_path / "run", *words)


def test_a_root_that_is_not_read_is_refused(capsys, tmp_path):
    message = said(capsys, "rank", "mini-llava", "scenes", "--root", tmp_path, "--out", tmp_path / "run")
    assert "takes no --root" in message


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("no answer; use answers='generated'", "no answer; use --answers generated"),
        ("name words with phrases=[...], or use tokens='all'", "name words with --phrases ..."),
        ("end=True goes with query='predicting'", "--end goes with --query predicting"),
        ("leave out min_confidence='x'", "leave out --min-confidence x"),
        ("the key a='b' is no option", "the key a='b' is no option"),
        ("weights=[1, 2]", "weights=[1, 2]"),
        ("give base=FOLDER or a hub id", "give --base FOLDER or a hub id"),
        ("two of step 3; give each its own with steps=[...]", "two of step 3; give each its own"),
        (
            "a.gif has 2 frames; say which one with frame=0..1, or save one as PNG",
            "a.gif has 2 frames; save one as PNG",
        ),
    ],
)
def test_what_the_library_says_of_arguments_is_said_of_options(message, told):
    known = dict.fromkeys(("answers", "phrases", "end", "query", "min_confidence", "weights", "base"))
    assert _values.in_options(message, known) == told


def test_a_name_of_thousands_of_letters_is_shortened(capsys, tmp_path):
    assert len(said(capsys, "capture", "mini-llava", "x" * 5000, "Hi", "--out", tmp_path / "run")) < 300


@pytest.mark.parametrize("number", sorted(_values.FILES))
def test_an_error_of_the_operating_system_says_what_to_do(number):
    told = _values.explained(OSError(number, os.strerror(number), "/some/file"))
    assert told.startswith("'/some/file': ") and "[Errno" not in told and _values.FILES[number] in told


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda out: out.write_text("x"), "is a file"),
        (lambda out: out.symlink_to("/nonexistent/place"), "is a link to /nonexistent/place"),
        (lambda out: (out.mkdir(), (out / "parts").write_text("x")), "parts is a file, where a run has a folder"),
        (lambda out: (out.mkdir(), (out / "figures").write_text("x")), "figures is a file, where"),
        (lambda out: (out / "report.html").mkdir(parents=True), "report.html is a folder, where a run has a file"),
        (lambda out: (out / "parts" / "a.npz").mkdir(parents=True), "a.npz is a folder, where a run has a file"),
    ],
    ids=["file", "link", "parts", "figures", "report", "part"],
)
def test_a_place_that_cannot_hold_a_run_is_refused_before_it_is_begun(tmp_path, make, told):
    make(tmp_path / "run")
    with pytest.raises(RunConflict, match=told):
        Run.open(tmp_path / "run", {"n": 1})
    assert not (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.parametrize(("place", "told"), [("file/run", "file is a file"), ("x" * 300, "File name too long")])
def test_a_path_that_cannot_be_is_refused(tmp_path, place, told):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunConflict, match=told):
        Run.open(tmp_path / place, {"n": 1})


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda path: path.unlink(), "holds no finished ranking"),
        (lambda path: path.write_bytes(b""), "is not as `interp rank` writes it"),
        (lambda path: path.write_bytes(path.read_bytes()[:-50]), "is not as `interp rank` writes it"),
        (lambda path: (path.parent / "manifest.json").write_text("{"), "is not as `interp rank` writes it"),
        (lambda path: (path.parent / "manifest.json").write_text("[" * 100_000), "is not as `interp rank` writes it"),
    ],
    ids=["gone", "empty", "cut", "manifest", "deep"],
)
def test_a_damaged_ranking_is_named_without_advice_to_throw_it_away(tmp_path, harm, told):
    import pandas as pd

    from interp.heads import top_of

    run = Run.open(tmp_path / "run", {"n": 1})
    run.manifest["about"] = {"headline": "nss", "metrics": {"nss": {"higher_is_better": True}}}
    run.write_table("heads", pd.DataFrame({"metric": ["nss"], "layer": [0], "head": [1], "mean": [0.5], "rank": [1]}))
    run.finish()
    assert [tuple(head) for head in top_of(str(tmp_path / "run"), 1)] == [(0, 1)]
    harm(tmp_path / "run" / "heads.parquet")
    with pytest.raises((ValueError, OSError), match=told) as caught:
        top_of(str(tmp_path / "run"), 1)
    assert "--force" not in str(caught.value)
