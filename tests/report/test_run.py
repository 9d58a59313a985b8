"""Run folders: what a killed run leaves, what a damaged or foreign folder does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from interp.models import _identity as identity
from interp.report import run as storage
from interp.report.run import Run, RunConflict

ARGUMENTS = {"model": "m", "dataset": "d", "samples": 3, "metrics": ["mass_in_mask"]}


def open_run(folder: Path, **changes) -> Run:
    weights = changes.pop("weights", "abc")
    force = changes.pop("force", False)
    return Run.open(folder, {**ARGUMENTS, **changes}, weights=weights, seed=3, force=force)


def test_a_part_comes_back_with_its_values_types_and_names(tmp_path):
    run = open_run(tmp_path / "run")
    arrays = {
        "values": np.array([[1.5, np.nan]], dtype=np.float32),
        "phrases": np.array(["a dog", "é"]),
        "n": np.array(3),
    }
    run.put("scene/1: 'x'", arrays)
    back = run.get("scene/1: 'x'")
    assert back is not None and sorted(back) == sorted(arrays)
    for name in arrays:
        assert back[name].dtype == arrays[name].dtype
        np.testing.assert_array_equal(back[name], arrays[name])
    assert run.get("scene/2") is None


def test_keys_of_any_length_and_letters_stay_apart(tmp_path):
    run = open_run(tmp_path / "run")
    keys = ["a/b", "a%2Fb", "a_b", "A/B", "x" * 500, "x" * 499 + "y", "../../escape", "ü" * 90]
    for i, key in enumerate(keys):
        run.put(key, {"i": np.array(i)})
    assert [int(run.get(key)["i"]) for key in keys] == list(range(len(keys)))
    assert not (tmp_path / "escape.npz").exists()


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "swap"])
def test_a_damaged_part_is_recomputed_not_trusted(tmp_path, harm):
    run = open_run(tmp_path / "run")
    run.put("a", {"values": np.arange(100.0)})
    run.put("b", {"values": np.arange(100.0) + 1})
    path = tmp_path / "run" / "parts" / "a.npz"
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(
        {"cut": data[:-40], "empty": b"", "flip": data, "swap": path.with_name("b.npz").read_bytes()}[harm]
    )
    assert run.get("a") is None
    run.put("a", {"values": np.zeros(2)})
    np.testing.assert_array_equal(run.get("a")["values"], np.zeros(2))


def test_a_part_opens_with_plain_numpy(tmp_path):
    run = open_run(tmp_path / "run")
    run.put("a", {"values": np.arange(5)})
    with np.load(tmp_path / "run" / "parts" / "a.npz") as arrays:
        np.testing.assert_array_equal(arrays["values"], np.arange(5))


def test_objects_are_refused_rather_than_pickled(tmp_path):
    run = open_run(tmp_path / "run")
    with pytest.raises(TypeError, match="array of Python objects"):
        run.put("a", {"phrases": np.array(["x", None], dtype=object)})


def test_the_same_arguments_resume_and_keep_the_parts(tmp_path):
    open_run(tmp_path / "run").put("a", {"n": np.array(1)})
    again = open_run(tmp_path / "run")
    assert again.get("a") is not None
    assert len(again.manifest["resumed"]) == 1 and again.manifest["finished"] is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"samples": 4}, "samples was 3, now 4"),
        ({"metrics": ["nss"]}, r"metrics was \['mass_in_mask'\], now \['nss'\]"),
        ({"weights": "xyz"}, "weights were abc, now xyz"),
        ({"root": "/data"}, "root was None, now '/data'"),
    ],
)
def test_another_run_in_the_folder_is_not_mixed_with_this_one(tmp_path, changes, named):
    open_run(tmp_path / "run").put("a", {"n": np.array(1)})
    with pytest.raises(RunConflict, match=named) as caught:
        open_run(tmp_path / "run", **changes)
    assert "--force" in str(caught.value) and "another --out" in str(caught.value)
    assert open_run(tmp_path / "run").get("a") is not None


def test_results_of_two_library_versions_are_not_mixed(tmp_path, monkeypatch):
    open_run(tmp_path / "run")
    now = {**storage.versions(), "torch": "1.0"}
    monkeypatch.setattr(storage, "versions", lambda: now)
    with pytest.raises(RunConflict, match=r"torch was '.*', now '1\.0'"):
        open_run(tmp_path / "run")


def test_force_starts_over_and_leaves_no_old_results(tmp_path):
    run = open_run(tmp_path / "run")
    run.put("a", {"n": np.array(1)})
    run.write_table("heads", pd.DataFrame({"x": [1]}))
    again = open_run(tmp_path / "run", samples=9, force=True)
    assert again.get("a") is None
    assert not (tmp_path / "run" / "heads.parquet").exists()


@pytest.mark.parametrize("after", range(1, 8))
def test_a_start_over_killed_anywhere_can_be_forced_again_or_gone_on_with(tmp_path, monkeypatch, after):
    run = open_run(tmp_path / "run")
    run.put("a", {"n": np.array(1)})
    run.write_table("heads", pd.DataFrame({"x": [1]}))
    for name in ("figures/a.png", "report.html", "capture.npz", "summary.csv"):
        storage.write_bytes(run.folder / name, b"x")
    left, real = [after], Path.unlink

    def killed(path, missing_ok=False):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        open_run(tmp_path / "run", samples=9, force=True)
    monkeypatch.setattr(Path, "unlink", real)
    open_run(tmp_path / "run")  # by the old command
    assert open_run(tmp_path / "run", samples=9, force=True).get("a") is None
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"manifest.json", "parts"}


@pytest.mark.parametrize("name", ["figures", "parts"])
def test_force_takes_a_link_away_and_never_what_it_leads_to(tmp_path, name):
    run, elsewhere = open_run(tmp_path / "run"), tmp_path / "pictures"
    elsewhere.mkdir()
    (elsewhere / "mine.png").write_text("x")
    if name == "parts":
        (run.folder / "parts").rmdir()
    (run.folder / name).symlink_to(elsewhere)
    open_run(tmp_path / "run", samples=9, force=True)
    assert (elsewhere / "mine.png").exists() and not (tmp_path / "run" / name).is_symlink()


@pytest.mark.parametrize("garbage", [b"", b"{", b"\xff\xfe", b"[]", b"{}", b'{"arguments": []}', b"[" * 100_000])
def test_a_run_whose_manifest_is_garbage_can_be_thrown_away(tmp_path, garbage):
    open_run(tmp_path / "run").put("a", {"n": np.array(1)})
    (tmp_path / "run" / "manifest.json").write_bytes(garbage)
    with pytest.raises(RunConflict, match=r"is not a run's manifest .* give --force"):
        open_run(tmp_path / "run")
    assert open_run(tmp_path / "run", force=True).get("a") is None
    (tmp_path / "run" / "manifest.json").write_bytes(garbage)
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    with pytest.raises(RunConflict):
        open_run(tmp_path / "run", force=True)
    assert (tmp_path / "run" / "thesis.tex").exists()


def test_a_run_goes_on_after_it_moved_with_the_shipped_models(tmp_path):
    open_run(tmp_path / "run", model="/old/clone/data/mini-llava/base").put("a", {"n": np.array(1)})
    assert open_run(tmp_path / "run", model="mini-llava/base").get("a") is not None
    with pytest.raises(RunConflict, match="model was"):
        open_run(tmp_path / "run", model="other/base")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["thesis.tex", "manifest.json"])
def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path, name, force):
    (tmp_path / name).write_text("{}")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.png").write_text("x")
    with pytest.raises(RunConflict, match="name another --out"):
        open_run(tmp_path, force=force)
    assert (tmp_path / name).read_text() == "{}" and (tmp_path / "figures" / "mine.png").exists()


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(RunConflict, match="is a file, expected a folder"):
        open_run(tmp_path / "run")


def test_the_manifest_tells_how_the_numbers_came_about(tmp_path):
    run = open_run(tmp_path / "run")
    run.finish([{"sample_id": "7", "reason": "no noun phrase"}])
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["arguments"] == ARGUMENTS and manifest["weights"] == "abc" and manifest["seed"] == 3
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["finished"] >= manifest["started"]
    assert manifest["skipped"] == [{"sample_id": "7", "reason": "no noun phrase"}]
    assert Run.read(tmp_path / "run").manifest == manifest


def test_tables_hold_the_same_bytes_whenever_they_are_written(tmp_path):
    frame = pd.DataFrame({"phrase": ["a", "b"], "value": [0.5, np.nan]})
    one = open_run(tmp_path / "one").write_table("heads", frame)
    time.sleep(0.01)
    two = open_run(tmp_path / "two").write_table("heads", frame)
    assert one.read_bytes() == two.read_bytes()
    pd.testing.assert_frame_equal(Run.read(tmp_path / "one").read_table("heads"), frame)


def test_the_weights_hash_sees_one_changed_value_a_name_and_a_type():
    def make(**changes) -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).to(
            changes.get("dtype", torch.float32)
        )

    base = identity.hash_weights(make())
    assert base == identity.hash_weights(make()) and len(base) == 64
    assert base != identity.hash_weights(make(dtype=torch.bfloat16))
    changed = make()
    with torch.no_grad():
        changed[0].weight[2, 3] += 1e-7
    assert base != identity.hash_weights(changed)
    assert identity.hash_weights(torch.nn.Linear(2, 2, device="meta")) == "offloaded"


WRITER = """
import sys, numpy as np
from interp.report.run import Run
run = Run.open(sys.argv[1], {"n": 1}, weights="w", seed=0)
computed = 0
for i in range(400):
    if run.get(f"s{i}") is None:
        run.put(f"s{i}", {"values": np.full(20000, float(i))})
        computed += 1
    print(i, flush=True)
print("computed", computed, flush=True)
"""


def test_a_run_killed_at_any_moment_resumes_and_computes_nothing_twice(tmp_path):
    def start() -> subprocess.Popen:
        arguments = [sys.executable, "-c", WRITER, str(tmp_path / "run")]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    for stop in (0, 7, 40):
        process = start()
        for line in process.stdout:
            if int(line) == stop:
                break
        os.kill(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()
    done = {p.name for p in (tmp_path / "run" / "parts").glob("[!.]*.npz")}
    process = start()
    last = process.communicate()[0].split("\n")[-2]
    assert len(done) >= 41 and last == f"computed {400 - len(done)}"
    run = Run.read(tmp_path / "run")
    assert all((run.get(f"s{i}")["values"] == i).all() for i in range(400))
    assert not list((tmp_path / "run" / "parts").glob(".*.tmp"))
