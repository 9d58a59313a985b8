"""--workers and --ray: the command on Ray actors that share its batches by claims in the run's folder. A dead one is
replaced, and when all are done this process makes the tables of what lies there."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import interp
from interp import plugins
from interp.commands import _session as session
from interp.report.folder import check_place, read_manifest, refuse_foreign
from interp.report.run import Run
from interp.work.claims import Claims
from interp.work.processes import machine
from interp.work.sharing import Share, Unfinished, of

LOOK = 0.5
"""Seconds between two looks at what is done."""


class RayMissing(ImportError):
    """--workers and --ray were asked for and Ray is not installed.

    What to do: install the extra ``ray``, or give each process a part with ``--shard``, which needs nothing.
    """


class WorkersDie(ChildProcessError):
    """Workers die again and again before they have finished a batch.

    What to do: run the command without ``--workers`` on a few samples, which shows the error; memory that is full kills
    without one: fewer workers, or a smaller ``--batch``.
    """


class Worker:
    """One actor: the command in a process of its own, on a GPU of its own."""

    def __init__(self, home: str):
        try:
            os.chdir(home)
        except OSError as error:
            raise RuntimeError(
                f"{machine()} has no folder {home}; workers need the disk that the command runs on"
            ) from error

    def who(self) -> tuple[str, int]:
        """Machine and process, as claims have them."""
        return machine(), os.getpid()

    def work(self, options: argparse.Namespace, share: Share) -> Exception | None:
        """None when all batches are done or in other hands; the error that kept it from that."""
        try:
            with of(share):
                plugins.get(plugins.COMMANDS, options.command).run.__wrapped__(options)
        except Unfinished:
            return None
        except Exception as error:
            return _portable(error)
        return None


def run(options: argparse.Namespace, command: Callable[[argparse.Namespace], None]) -> None:
    """The command's tables, once its batches have been computed on workers.

    Raises:
        RayMissing: Ray is not installed.
        WorkersDie: they die and nothing gets done.
        ValueError: more workers than GPUs, or no GPU and no number of workers.
    """
    folder, launch = Path(options.out), f"launch-{uuid.uuid4().hex[:12]}"
    check_place(folder)
    if new := read_manifest(folder) is None:
        refuse_foreign(folder)
    claims = Claims(folder / "claims")
    try:
        with _cluster(options) as (ray, start, count), claims.alone(f"{launch}.lock"):
            session.say(f"{count} workers compute what is missing in {folder}")
            _Workers(ray, start, count, options, claims, launch).compute()
    except BaseException:
        claims.clear()
        if new and read_manifest(folder) is not None:
            Run.read(folder).withdraw()
        raise
    with of(Share(launch=launch)):
        command(options)


class _Workers:
    """The actors of one launch, and what they have done."""

    def __init__(
        self, ray: Any, start: Callable[[], Any], count: int, options: argparse.Namespace, claims: Claims, launch: str
    ):
        self.ray, self.start, self.count, self.options, self.claims = ray, start, count, options, claims
        self.launch, self.notes = launch, claims.folder / launch
        self.running: dict[Any, tuple[int, Any, Any]] = {}
        self.deaths = 0

    def compute(self) -> None:
        """Returns when every worker has found nothing left to do."""
        for place in range(self.count):
            self._begin(place)
        with tqdm(desc="batches", unit="batch") as bar:
            while self.running:
                ready, _ = self.ray.wait(list(self.running), timeout=LOOK)
                self._show(bar)
                for reference in ready:
                    self._end(reference)
            self._show(bar)

    def _begin(self, place: int) -> None:
        actor, share = self.start(), Share(launch=self.launch, place=(place, self.count), whole=False)
        who = actor.who.remote()
        self.running[actor.work.remote(self.options, share)] = place, actor, who

    def _end(self, reference: Any) -> None:
        place, actor, who = self.running.pop(reference)
        try:
            error = self.ray.get(reference)
        except self.ray.exceptions.RayActorError as death:
            self.ray.kill(actor)  # or what cannot be reached might come back
            self._replace(place, who, death)
            return
        if error is not None:
            raise error

    def _replace(self, place: int, who: Any, death: Exception) -> None:
        """Another worker in the place of a dead one, whose batch is free at once, on whatever machine it was."""
        self.deaths += 1
        if self.deaths > 2 * self.count:
            raise WorkersDie(f"{self.deaths} workers died and no batch was done meanwhile: {death!s:.300}") from death
        with suppress(self.ray.exceptions.RayError, TimeoutError):
            self.claims.forget(*self.ray.get(who, timeout=1))
        session.say(f"worker {place} died; another takes its place")
        self._begin(place)

    def _show(self, bar: tqdm) -> None:
        """How many batches are done, of those that the workers know of."""
        names = [path.name for path in self.notes.glob("[!.]*")]
        totals = [json.loads((self.notes / name).read_text()) for name in names if name.endswith(".json")]
        done = len(names) - len(totals)
        if done > bar.n:
            self.deaths = 0
        bar.total = None if None in totals else max(sum(totals), done)
        bar.update(done - bar.n)


@contextmanager
def _cluster(options: argparse.Namespace) -> Iterator[tuple[Any, Callable[[], Any], int]]:
    """Ray, a function that starts a worker, and how many there are to be."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise RayMissing(
            "--workers and --ray need Ray, which is not installed; run `pip install interp[ray]`, or give every "
            "process its part with --shard I/N"
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own = {"include_dashboard": False, "address": "local"} if options.ray is None else {"address": options.ray}
    ray.init(**own, log_to_driver=False, logging_level="ERROR")
    try:
        count, gpus = _counted(options, int(ray.cluster_resources().get("GPU", 0)))
        how = {"num_cpus": 0, "num_gpus": gpus, "runtime_env": {"env_vars": _environment(options, count)}}
        yield ray, lambda: ray.remote(Worker).options(**how).remote(os.getcwd()), count
    finally:
        ray.shutdown()


def _counted(options: argparse.Namespace, gpus: int) -> tuple[int, int]:
    """How many workers, and how many GPUs each has: one, or with --device-map its share of them."""
    device = options.device or ("cuda" if gpus else "cpu")
    if not device.startswith("cuda"):
        if options.workers is None:
            raise ValueError(f"--ray {options.ray} has no GPU to count workers by; say how many with --workers N")
        return options.workers, 0
    if device != "cuda":
        raise ValueError(f"--device is {device!r}, and each worker has a GPU of its own; give --device cuda")
    count = options.workers or gpus
    if count > gpus:
        raise ValueError(f"--workers is {count}, and there are {gpus} GPUs; give at most one worker a GPU")
    return count, gpus // count if options.device_map else 1


def _environment(options: argparse.Namespace, count: int) -> dict[str, str]:
    """What workers need to find this code, to use as many threads as they have cores, and to draw no bars."""
    paths = [str(Path(interp.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1)))}
    found = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "TQDM_DISABLE": "1"}
    found |= {name: text for name, text in os.environ.items() if name.startswith(("HF_", "INTERP_"))}
    return found | (threads if options.ray is None else {})


def _portable(error: Exception) -> Exception:
    """The error, or one that says the same where it cannot be sent to another process."""
    error.add_note(traceback.format_exc())
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
