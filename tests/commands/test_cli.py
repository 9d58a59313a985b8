"""The command line: what a user types, sees and finds in the folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps

import interp
from interp import cli, plugins
from interp.commands import _session as session
from interp.commands import demo
from interp.datasets import coco, scenes
from interp.handle import same
from interp.images import read_image
from interp.models import _identity as identity
from interp.report import html
from interp.report import ranking as report
from interp.report.run import Run
from interp.types import Head

METRICS = ["pointing_game", "mass_in_mask", "image_mass"]
TABLES = ("heads", "reductions", "phrases", "rows", "subsets", "localization", "agreement")


@pytest.fixture(scope="module")
def model(make_tiny_llava, tmp_path_factory) -> str:
    """Folder of a tiny LLaVA with random weights."""
    folder = tmp_path_factory.mktemp("model")
    for part in make_tiny_llava():
        part.save_pretrained(folder)
    return str(folder)


def rank(model: str, out: Path, *more: str, samples: int = 6) -> list[str]:
    command = ["rank", model, "scenes", "--samples", str(samples), "--batch", "2", "--out", str(out)]
    return [*command, "--metrics", *METRICS, *more]


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory) -> Path:
    """A folder with a finished ranking."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert cli.main(rank(model, out)) == 0
    return out


def test_help_costs_less_than_a_second_and_loads_nothing_heavy():
    code = (
        "import sys, contextlib\nfrom interp.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "which" in output.lower() and output.endswith("[]\n")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1  # not wall time: machines are busy


def test_list_has_a_line_for_every_plug_in_without_loading_torch():
    code = "import sys; from interp.cli import main; main(['list']); print('torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for kind in plugins.KINDS:
        for name in plugins.names(kind):
            assert re.search(rf"^  {name} +\S+", output, re.M), name
    assert output.endswith("False\n") and "(no docstring)" not in output


def test_rank_leaves_tables_figures_manifest_and_report(finished, model):
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["arguments"]["model"] == model and manifest["arguments"]["metrics"] == METRICS
    assert manifest["arguments"]["samples"] == 6 and manifest["seed"] == 0 and manifest["finished"]
    assert manifest["weights"] == identity.hash_weights(interp.load(model).model)
    heads = pd.read_parquet(finished / "heads.parquet")
    assert len(heads) == 3 * 12 and set(heads["metric"]) == set(METRICS)
    assert {f"{name}.parquet" for name in TABLES} <= {p.name for p in finished.iterdir()}
    figures = {p.name for p in (finished / "figures").iterdir()}
    assert figures == {f"{kind}_pointing_game.png" for kind in ("heads", "layers", "specific")} | {"gallery.png"}


def test_the_report_is_one_file_that_asks_for_nothing_else(finished):
    page = (finished / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 4
    assert page.count("Not drawn yet: <code>interp redraw</code>") == 2  # the other two metrics
    assert not re.findall(r'(?:src|href)="(?!data:)|@import|url\(|https?://', page)


def test_the_report_says_the_numbers_of_the_tables(finished):
    page = (finished / "report.html").read_text()
    heads = pd.read_parquet(finished / "heads.parquet")
    best = heads[heads["metric"] == "pointing_game"].sort_values("specificity", ascending=False, kind="stable").iloc[0]
    name = str(Head(int(best["layer"]), int(best["head"])))
    text = report.headline(Run.read(finished))
    said = f"{best['specificity']:.3f} ({best['specificity_low']:.3f} to {best['specificity_high']:.3f})"
    assert f"The most specific is {name}: specificity {said}" in text
    assert f"pointing game {best['mean']:.3f} (95 % interval {best['low']:.3f} to {best['high']:.3f})" in text
    assert f"{best['null']:.3f} on masks of other images and {best['chance']:.3f} by chance" in text
    assert text.replace("<", "&lt;") in page
    for _, row in pd.read_parquet(finished / "reductions.parquet").iterrows():
        assert html.number(row["mean"]) in page and html.number(row["specificity"]) in page


@pytest.mark.parametrize(
    ("specific", "things", "said"),
    [
        (2, 3, "2 of 12 heads of {} tell the named thing from the others; 3 look at things at all"),
        (1, 0, "1 of 12 heads of {} tells the named thing from the others; none look at things at all"),
        (0, 1, "None of 12 heads of {} tell the named thing from the others; 1 looks at things at all"),
    ],
)
def test_the_report_never_gives_heads_that_look_at_things_for_heads_that_know_the_word(
    finished, model, tmp_path, specific, things, said
):
    heads = pd.read_parquet(finished / "heads.parquet")
    pointing = heads.index[heads["metric"] == "pointing_game"]
    heads["p_corrected"] = np.where(heads.index.isin(pointing[:things]), 0.001, 0.9)
    heads["p_specific"] = np.where(heads.index.isin(pointing[-specific:] if specific else []), 0.001, 0.9)
    run = Run(tmp_path, Run.read(finished).manifest)
    run.write_table("heads", heads)
    run.write_table("reductions", pd.read_parquet(finished / "reductions.parquet"))
    assert report.headline(run).startswith(said.format(model))


def test_the_report_names_what_was_skipped_and_escapes_it(finished):
    run = Run.read(finished)
    run.manifest["skipped"] = [{"sample_id": str(i), "reason": "no <b>noun</b> phrase"} for i in range(7)]
    page = html.template  # the same template, into another folder
    assert page("ranking")
    written = report.page(Run(finished, run.manifest)).read_text()
    assert "no &lt;b&gt;noun&lt;/b&gt; phrase" in written and "<b>noun" not in written and "<td>7</td>" in written


def test_a_run_killed_with_9_ends_with_the_same_bytes_and_computes_nothing_twice(finished, model, tmp_path):
    out = tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        [sys.executable, "-m", "interp.cli", *rank(model, out)], env=environment, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not list(out.glob("parts/scores-*.npz")):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("parts/*.npz")}
    assert before and not (out / "report.html").exists(), "it was to be killed midway"
    assert cli.main(rank(model, out)) == 0
    after = {p.name: p.stat().st_mtime_ns for p in out.glob("parts/*.npz")}
    assert before.items() <= after.items() and len(after) == 7  # 3 x scores and maps, the gallery
    assert same_files(finished, out)


def same_files(one: Path, other: Path) -> bool:
    """Whether two folders have the same tables and figures, byte for byte."""
    files = [*(f"{name}.parquet" for name in TABLES), *(f"figures/{path.name}" for path in (one / "figures").iterdir())]
    return all((one / file).read_bytes() == (other / file).read_bytes() for file in files)


def test_parts_of_a_command_are_finished_by_the_command_itself_with_the_same_bytes(
    finished, model, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "parts"
    assert cli.main(rank(model, out, "--shard", "0/2")) == 0
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    assert cli.main(rank(model, out, "--shard", "auto")) == 0
    assert "part 1 of 2 is there (1 batches computed now)" in capsys.readouterr().err
    assert len(list(out.glob("parts/scores-*.npz"))) == 3 and not (out / "report.html").exists()
    with monkeypatch.context() as patch:
        patch.setattr("interp.ranking.measure.captures", lambda *a, **k: pytest.fail("captured again"))
        assert cli.main(rank(model, out)) == 0
    assert same_files(finished, out) and not (out / "claims").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shard", "2/2"], "expected i/n with i from 0"),
        (["--shard", "0/2", "--workers", "2"], "--shard and --workers both divide the work"),
        (["--shard", "0/2", "--force"], "--force would throw away what other processes compute"),
        (["--workers", "2"], "pip install interp[ray]"),
    ],
)
def test_work_that_cannot_be_divided_as_asked_is_refused(model, tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(rank(model, tmp_path / "run", *words)) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.glob("run/*"))


@pytest.mark.slow
def test_workers_on_ray_that_are_killed_leave_the_same_bytes(finished, model, tmp_path):
    pytest.importorskip("ray")
    out, killed, said = tmp_path / "workers", set(), []
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "interp.cli", *rank(model, out, "--workers", "2", "--device", "cpu")]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(killed) < 2:
        for claim in out.glob("claims/*-0*"):
            with contextlib.suppress(OSError):  # it ends while it is looked at
                said = claim.read_text().split()
            worker = int(said[1]) if len(said) > 1 else process.pid
            if worker != process.pid and worker not in killed and len(killed) < 2:
                killed.add(worker)
                os.kill(worker, signal.SIGKILL)
    error = process.communicate()[1]
    assert process.returncode == 0 and "died; another takes its place" in error, error[-2000:]
    assert same_files(finished, out)


def test_a_finished_run_is_not_computed_again(finished, model, monkeypatch):
    monkeypatch.setattr("interp.ranking.measure.captures", lambda *a, **k: pytest.fail("captured again"))
    monkeypatch.setattr("interp.ranking.examples.captures", lambda *a, **k: pytest.fail("captured again"))
    before = (finished / "heads.parquet").read_bytes()
    assert cli.main(rank(model, finished)) == 0
    assert (finished / "heads.parquet").read_bytes() == before


def test_pictures_follow_the_data_when_images_change_under_the_same_command(model, tmp_path):
    root, out = tmp_path / "data", tmp_path / "run"
    coco.write(scenes.load(samples=4, size=48), root, "val2017")
    command = ["rank", model, "coco", "--root", str(root), "--batch", "2", "--metrics", "pointing_game", "--nulls", "2"]
    assert cli.main([*command, "--out", str(out)]) == 0
    old = (out / "figures" / "gallery.png").read_bytes()
    for path in (root / "val2017").iterdir():
        with Image.open(path) as image:
            changed = ImageOps.invert(image)
        changed.save(path)
    assert cli.main([*command, "--out", str(out)]) == 0
    assert cli.main([*command, "--out", str(tmp_path / "anew")]) == 0
    new = (out / "figures" / "gallery.png").read_bytes()
    assert new != old and new == (tmp_path / "anew" / "figures" / "gallery.png").read_bytes()


def test_another_run_in_the_folder_is_refused_with_the_difference(finished, model, capsys):
    assert cli.main(rank(model, finished, "--seed", "5")) == 2
    error = capsys.readouterr().err
    assert "seed was 0, now 5" in error and "--force" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "no-such-model"}, "'no-such-model' is no folder"),
        ({"dataset": "scene"}, "did you mean 'scenes'?"),
        ({"metrics": ["pointing"]}, "did you mean 'pointing_game'?"),
        ({"split": "tset"}, "tset"),
    ],
)
def test_bad_input_gets_one_message_and_exit_code_2(model, tmp_path, capsys, change, said):
    values = {"model": model, "dataset": "scenes", "metrics": METRICS, "split": "test"} | change
    command = ["rank", values["model"], values["dataset"], "--samples", "2", "--out", str(tmp_path / "run")]
    assert cli.main([*command, "--split", values["split"], "--metrics", *values["metrics"]]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and error.splitlines()[-1].startswith("interp: ") and "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", ["0", "-3", "many"])
def test_a_number_of_samples_that_is_none_is_refused(model, tmp_path, capsys, number):
    with pytest.raises(SystemExit) as stop:
        cli.main(["rank", model, "scenes", f"--samples={number}", "--out", str(tmp_path / "run")])
    assert stop.value.code == 2 and f"{number!r} is not a whole number of at least 1" in capsys.readouterr().err


def test_an_unreadable_image_is_named_before_the_model_is_loaded(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(session, "load", lambda options: pytest.fail("loaded a model for nothing"))
    (tmp_path / "photo.png").write_text("no image")
    assert cli.main(["capture", model, str(tmp_path / "photo.png"), "What?", "--out", str(tmp_path / "run")]) == 2
    assert "photo.png" in capsys.readouterr().err


def test_debug_shows_the_traceback_on_either_side_of_the_command(tmp_path):
    command = ["rank", "no-such-model", "scenes", "--samples", "1", "--out", str(tmp_path / "run")]
    for arguments in (["--debug", *command], [*command, "--debug"]):
        with pytest.raises(LookupError, match="no-such-model"):
            cli.main(arguments)


def test_an_error_of_ours_is_not_blamed_on_the_user(monkeypatch, capsys):
    def fail(options):
        raise KeyError("layers")

    monkeypatch.setattr(demo, "run", fail)
    assert cli.main(["demo", "--out", "x"]) == 1
    assert "unexpected KeyError" in capsys.readouterr().err


def test_control_c_says_that_the_run_goes_on_with_the_same_command(monkeypatch, capsys):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupt)
    assert cli.main(["demo", "--out", "x"]) == 130
    assert "The same command goes on" in capsys.readouterr().err


def test_capture_writes_the_rows_that_the_library_gives(model, tmp_path, photo):
    from PIL import Image

    Image.fromarray(photo).save(tmp_path / "photo.png")
    prompt, answer = "Is it <b>bold</b>?", "A dog and a small table."
    command = [
        "capture",
        model,
        str(tmp_path / "photo.png"),
        prompt,
        "--answer",
        answer,
        "--out",
        str(tmp_path / "run"),
    ]
    assert cli.main(command) == 0
    expected = interp.capture(interp.load(model), read_image(photo), prompt, answer)
    found = interp.open(tmp_path / "run")
    expected = replace(expected, sample_id=found.sample_id)
    for part in vars(expected):
        assert same(getattr(found, part), getattr(expected, part)), part
    assert [phrase.text for phrase in found] == ["A dog", "a small table"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Is it &lt;b&gt;bold" in page and page.count("data:image/png") == 3 and "“a small table”" in page


def test_the_reports_explorer_shows_the_words_that_were_asked_for(model, tmp_path):
    assert cli.main(rank(model, tmp_path / "run", "--words", "targets", samples=2)) == 0
    contents = json.loads((tmp_path / "run" / "explorer.json").read_text())
    shown = {unit["text"] for panel in contents["panels"] for unit in panel["units"] if unit["phrase"]}
    assert shown and shown <= set(scenes.nouns())


def test_the_demo_ends_by_naming_the_report(model, tmp_path, capsys):
    assert cli.main(["demo", "--model", model, "--samples", "24", "--out", str(tmp_path / "demo")]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.endswith(str(tmp_path / "demo" / "report.html")) and (tmp_path / "demo" / "report.html").exists()
    page = (tmp_path / "demo" / "report.html").read_text()
    assert 'href="heads/report.html"' in page and "data:image/png" in page
    title = "Which heads find the thing before its word is said?"
    assert page.count(f'alt="{title}"') == 3, "what the text has told, and both claims"
    assert (tmp_path / "demo" / "heads" / "report.html").exists()


def test_the_demo_without_the_weights_says_how_to_get_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("INTERP_DATA", str(tmp_path))
    assert cli.main(["demo", "--out", str(tmp_path / "demo")]) == 2
    error = capsys.readouterr().err
    assert f"mini-llava is not in {tmp_path}" in error and "INTERP_DATA" in error and "--model" in error
    assert "analyses/" not in error, "an installed package has no such file"
