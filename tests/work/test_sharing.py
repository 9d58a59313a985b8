"""Several processes with one run folder: each batch is computed by one of them, whoever dies, and the results are those
of one process."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time

import numpy as np
import pytest

import interp
from interp.report.run import Run
from interp.types import Sample
from interp.work import claims as claiming
from interp.work.claims import Claims
from interp.work.files import sweep
from interp.work.parts import Work
from interp.work.processes import machine, temporary, writer
from interp.work.samples import Batches, Repeatable
from interp.work.sharing import Share, Unfinished, of, shard_of, together
from interp.work.store import Memory, key_of

FORK = multiprocessing.get_context("fork")
SAMPLES = [Sample(f"image {i}", np.full((4, 4, 3), i, np.uint8), "What?", "A dog.") for i in range(41)]


def work(folder, log, samples=SAMPLES, pause=0.0):
    """Batches of two whose computing is noted in the log, by number."""

    def compute(group):
        with open(log, "a") as file:
            file.write(f"{group[0].id.split()[1]}\n")
        time.sleep(pause)
        return {"means": np.array([s.image.mean() for s in group])}

    run = Run.open(folder, {"samples": len(samples)})
    return Work(run, {"what": "means"}, Batches(Repeatable(samples), 2), lambda group: key_of({}, group), compute)


def results(some: Work) -> bytes:
    return np.concatenate(list(some.in_order(lambda part: part.arrays["means"]))).tobytes()


def computed(log) -> list[int]:
    return sorted(int(line) for line in log.read_text().splitlines())


def worker(folder, log, place, share, pause, samples):
    with of(share):
        try:
            found = results(work(folder, log, samples, pause))
            (folder.parent / f"found-{place}").write_bytes(found)
        except Unfinished:
            pass
    os._exit(0)


def start(folder, log, place, share, pause=0.01, samples=SAMPLES):
    process = FORK.Process(target=worker, args=(folder, log, place, share, pause, samples))
    process.start()
    return process


WHOLE = np.array([float(i) for i in range(41)]).tobytes()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_parts_computed_alone_make_the_whole_and_the_last_call_computes_nothing(tmp_path, count):
    log = tmp_path / "log"
    for place in range(count):
        with of(Share((place, count), whole=False)), pytest.raises(Unfinished):
            results(work(tmp_path / "run", log))
    assert computed(log) == list(range(0, 41, 2))
    assert results(work(tmp_path / "run", log)) == WHOLE and len(computed(log)) == 21


@pytest.mark.parametrize("count", [2, 4])
def test_the_same_call_in_several_processes_shares_the_work_and_each_has_the_result(tmp_path, count):
    log = tmp_path / "log"
    processes = [start(tmp_path / "run", log, place, Share()) for place in range(count)]
    for place, process in enumerate(processes):
        process.join()
        assert (tmp_path / f"found-{place}").read_bytes() == WHOLE
    assert computed(log) == list(range(0, 41, 2))
    assert not list((tmp_path / "run" / "claims").iterdir())


def campaign(folder, kills, samples, seed=0, count=4, pause=0.02):
    """How many batches were computed, and what came out, while workers of one launch were killed and replaced; a random
    one whenever three more batches have been begun."""
    draw, log, left = random.Random(seed), folder / "log", kills
    log.touch()
    shares = [Share(launch="launch", place=(place, count), whole=False) for place in range(count)]
    running = [start(folder / "run", log, place, share, pause, samples) for place, share in enumerate(shares)]
    while any(process.is_alive() for process in running):
        place = draw.randrange(count)
        if left and len(computed(log)) >= 3 * (kills - left + 1) and running[place].is_alive():
            os.kill(running[place].pid, signal.SIGKILL)
            running[place].join()
            running[place], left = start(folder / "run", log, place, shares[place], pause, samples), left - 1
        time.sleep(draw.uniform(0, pause))
    with of(Share(launch="launch")):
        found = results(work(folder / "run", log, samples))
    return found, len(computed(log)), kills - left


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_workers_cost_at_most_a_batch_each_and_no_byte(tmp_path, kills):
    count = 12 * kills
    samples = [Sample(f"image {i}", np.full((4, 4, 3), i % 256, np.uint8), "What?", "A dog.") for i in range(count)]
    found, times, killed = campaign(tmp_path, kills, samples)
    print(f"{kills} kills of workers: {times} batches computed of {count // 2}")
    assert found == np.array([float(i % 256) for i in range(count)]).tobytes() and killed == kills
    assert count // 2 <= times <= count // 2 + kills


def test_workers_of_one_launch_read_no_batch_that_another_has_done(tmp_path):
    class Read(list):
        seen = 0

        def stretch(self, start, stop):
            Read.seen += 1
            return self[start:stop]

    log = tmp_path / "log"
    for place in range(2):
        with of(Share(launch="launch", place=(place, 2), whole=False)), pytest.raises(Unfinished):
            results(work(tmp_path / "run", log, Read(SAMPLES)))
    with of(Share(launch="launch")):
        assert results(work(tmp_path / "run", log, Read(SAMPLES))) == WHOLE
    assert Read.seen == 21


def test_notes_of_another_launch_are_not_believed_where_images_have_changed(tmp_path):
    log = tmp_path / "log"
    with of(Share(launch="first", whole=False)), pytest.raises(Unfinished):
        results(work(tmp_path / "run", log))
    changed = [Sample("image 0", np.full((4, 4, 3), 7, np.uint8), "What?", "A dog."), *SAMPLES[1:]]
    for share in (Share(), Share(launch="second")):
        with of(share):
            assert np.frombuffer(results(work(tmp_path / "run", log, changed)))[0] == 7


def test_a_claim_is_left_to_a_process_that_lives_and_taken_from_a_dead_one_at_once(tmp_path):
    claims, inside = Claims(tmp_path / "claims"), FORK.Event()

    def hold():
        assert claims.take("a")
        inside.set()
        time.sleep(60)

    process = FORK.Process(target=hold)
    process.start()
    inside.wait(10)
    assert not claims.take("a") and not claims.free("a") and str(process.pid) in claims.holder("a")
    assert claims.take("b")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert claims.free("a") and claims.take("a")
    claims.release("a")
    claims.release("b")
    assert not list((tmp_path / "claims").iterdir())


def test_a_claim_of_another_machine_is_taken_over_only_when_nobody_touches_it(tmp_path, monkeypatch):
    monkeypatch.setattr(claiming, "STALE", 0.0)
    claims = Claims(tmp_path / "claims")
    (tmp_path / "claims").mkdir()
    path = tmp_path / "claims" / "a"
    path.write_text("elsewhere-01234567 1 1")  # a process of that number lives here
    for touched in range(4):  # in 1970: clocks of two machines are not compared
        os.utime(path, (touched, touched))
        assert not claims.take("a")
    assert claims.take("a")


def test_a_claim_of_a_dead_process_whose_number_lives_again_is_taken_over(tmp_path):
    claims = Claims(tmp_path / "claims")
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "a").write_text(f"{machine()} {os.getpid()} 1")
    assert claims.take("a")


def test_a_sweep_takes_what_dead_writers_left_and_nothing_of_another_machine(tmp_path):
    dead = FORK.Process(target=lambda: temporary(tmp_path / "a.npz").touch())
    dead.start()
    dead.join()
    temporary(tmp_path / "b.npz").touch()
    other = tmp_path / f".c.npz.elsewhere-01234567.{dead.pid}.tmp"
    other.touch()
    old = tmp_path / f".d.npz.elsewhere-01234567.{dead.pid}.tmp"
    old.touch()
    os.utime(old, (0, 0))
    assert writer(temporary(tmp_path / "b.npz")) == (machine(), os.getpid()) and len(list(tmp_path.iterdir())) == 4
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([temporary(tmp_path / "b.npz"), other])


def test_parts_are_those_that_slurm_and_torchrun_name():
    array = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}
    assert shard_of("auto", {**array, "SLURM_ARRAY_TASK_STEP": "2"}) == (3, 4)
    assert shard_of("auto", {"RANK": "3", "WORLD_SIZE": "8"}) == (3, 8)
    assert shard_of("0/1") == (0, 1) == shard_of((0, 1))
    for wrong in ("4/4", "1", "-1/4", "a/b", "0/0"):
        with pytest.raises(ValueError, match="expected i/n with i from 0 to n - 1"):
            shard_of(wrong)
    with pytest.raises(ValueError, match="no SLURM array"):
        shard_of("auto", {})
    with pytest.raises(ValueError, match="submit the array as"):
        shard_of("auto", array)


def test_a_part_without_a_store_that_outlives_it_is_refused():
    some = Work(Memory(), {}, Batches(Repeatable(SAMPLES), 2), lambda group: key_of({}, group), lambda group: {})
    with pytest.raises(ValueError, match="give store="), interp.shard("0/2"):
        results(some)


def test_what_all_need_is_computed_whole_in_a_part_alone(tmp_path):
    with of(Share((1, 4), whole=False)), together():
        assert results(work(tmp_path / "run", tmp_path / "log")) == WHOLE


def test_a_batch_is_written_behind_the_next_one_and_stays_claimed_until_it_lies_there(tmp_path, monkeypatch):
    """Else another process finds neither batch nor claim and computes it again."""
    put, seen, log = Run.put, [], tmp_path / "log"

    def slow(run, key, arrays):
        time.sleep(0.01)
        put(run, key, arrays)
        seen.append((threading.current_thread(), len(list(run.claims.folder.iterdir()))))

    monkeypatch.setattr(Run, "put", slow)
    assert results(work(tmp_path / "run", log)) == WHOLE
    assert len(seen) == 21 and all(claims >= 1 for _, claims in seen)
    assert threading.current_thread() not in {thread for thread, _ in seen}
    assert not list((tmp_path / "run" / "claims").iterdir())


def test_a_part_whose_last_batch_cannot_be_written_is_not_said_to_be_done(tmp_path, monkeypatch):
    put, log = Run.put, tmp_path / "log"

    def full(run, key, arrays):
        if len(computed(log)) == 21:
            raise OSError("No space left on device")
        put(run, key, arrays)

    monkeypatch.setattr(Run, "put", full)
    with of(Share((0, 1), whole=False)), pytest.raises(OSError, match="No space"):
        results(work(tmp_path / "run", log))
    assert not list((tmp_path / "run" / "claims").iterdir())
