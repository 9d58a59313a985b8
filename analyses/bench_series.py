"""What a series costs when one model takes all checkpoints in turn, beside loading and measuring each one alone, and
beside loading a model once and putting each checkpoint's whole state dict in.

    python analyses/bench_series.py mini-llava --samples 40 --out runs/bench_series.json

All ways run in this process, one checkpoint of each at a time in turns, so that whatever else the machine does falls on
all. A checkpoint alone: weights by `interp.load` (`from_pretrained`), images and masks read, answers parsed and scored;
imports and the loading of spaCy are on nobody's bill. State dicts: each lies in a file of its own; it is read and put
into a model that was loaded once, and images, masks and parsed answers are kept from one checkpoint to the next. In
place: what all checkpoints share is computed once. Written: seconds of wall and of processor time each way, and the
weights kept beside the model after each checkpoint. That all scores are equal bit by bit is a condition.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import interp
from interp.answer import phrases
from interp.answer.parser import load_parser
from interp.datasets import scenes
from interp.emergence.frozen import inputs_cache, vision_cache
from interp.emergence.study import METRICS
from interp.plugins import get
from interp.ranking.batch import Plan
from interp.ranking.measure import score_batch
from interp.statistics.nulls import MaskPool

Scores = list[dict[str, np.ndarray]]
WAYS = ("in place", "state dicts", "afresh")


def options() -> argparse.Namespace:
    """What is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", help="a shipped model or a folder of checkpoint-N with base/")
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--checkpoints", type=int, default=12, help="the last ones; 0: all")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/bench_series.json"))
    return parser.parse_args()


def read(a: argparse.Namespace) -> tuple[MaskPool, list[list[Any]]]:
    """The pool of masks for nulls, and the samples in batches."""
    samples = list(scenes.load("", "test", a.samples))
    return MaskPool.of(samples), [samples[i : i + a.batch] for i in range(0, len(samples), a.batch)]


def measure(lmm: Any, pool: MaskPool, groups: list[list[Any]], known: Any = None) -> Scores:
    """Every batch's scores."""
    metrics = {name: get("metrics", name) for name in METRICS}
    how = ("reference", "answer", "predicting", 0, 8, 128, "attention", known)
    plan = Plan(lmm, metrics, pool, *how)  # type: ignore[arg-type]
    return [score_batch(plan, group, False) for group in groups]


def parsing() -> Callable[[str, str | None], Any]:
    """A parser that has read no text yet."""
    return lru_cache(maxsize=4096)(lambda text, parser: load_parser(parser)(text))


def equal(ours: Scores, theirs: Scores) -> bool:
    """Whether all scores are the same, bit by bit."""
    return all(
        np.array_equal(x[k], y[k], equal_nan=True) for x, y in zip(ours, theirs, strict=True) for k in x if k != "about"
    )


def in_turns(a: argparse.Namespace, series: Any, points: Any) -> tuple[Any, dict[str, dict[str, float]], list[int]]:
    """The model, seconds spent each way, and the bytes kept beside the model after each checkpoint."""

    def alone(point: Any) -> Scores:
        phrases.parsed = parsing()
        return measure(interp.load(point.place, device="cpu"), *read(a))

    usual = phrases.parsed
    alone(points[0])  # all ways warm
    spent = {way: {"wall": 0.0, "processor": 0.0} for way in WAYS}
    held, known, own, theirs = [], {}, parsing(), parsing()
    lmm, given = timed(spent["in place"], lambda: (series.load(device="cpu"), read(a)))
    other, again = timed(spent["state dicts"], lambda: (series.load(device="cpu"), read(a)))

    def by_state_dict(path: Path) -> Scores:
        phrases.parsed = theirs
        other.model.load_state_dict(torch.load(path, mmap=True, weights_only=True))
        return measure(other, *again)

    with (
        tempfile.TemporaryDirectory() as folder,
        series.swap(lmm) as swap,
        inputs_cache(lmm),
        vision_cache(lmm.model) as cache,
    ):
        for point in points:
            path = Path(folder, "weights.pt")
            torch.save(interp.load(point.place, device="cpu").model.state_dict(), path)
            phrases.parsed = own
            found = []
            found.append(timed(spent["in place"], lambda p=point: at(swap, cache, p) or measure(lmm, *given, known)))
            found.append(timed(spent["state dicts"], lambda path=path: by_state_dict(path)))
            found.append(timed(spent["afresh"], lambda point=point: alone(point)))
            if not (equal(found[0], found[1]) and equal(found[0], found[2])):
                raise SystemExit(f"step {point.step}: scores differ from those of the checkpoint loaded afresh")
            gc.collect()
            held.append(swap.kept_bytes)
    phrases.parsed = usual
    return lmm, spent, held


def main() -> None:
    """Prints the figures and writes them to --out."""
    a = options()
    series = interp.series(a.series)
    points = series.sound[-a.checkpoints :] if a.checkpoints else series.sound
    lmm, spent, held = in_turns(a, series, points)
    found = {
        "series": series.name,
        "checkpoints": len(points),
        "samples": a.samples,
        "seconds": spent,
        "times faster": {
            f"than {way}": {k: spent[way][k] / spent["in place"][k] for k in ("wall", "processor")} for way in WAYS[1:]
        },
        "weights, bytes": sum(t.numel() * t.element_size() for t in lmm.model.state_dict().values()),
        "kept beside the model after each checkpoint, bytes": held,
        "peak of the process, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }
    a.out.parent.mkdir(parents=True, exist_ok=True)
    a.out.write_text(json.dumps(found, indent=2) + "\n")
    print(a.out.read_text())


def at(swap: Any, cache: Any, point: Any) -> None:
    """Puts the checkpoint in place."""
    swap.to(point)
    if cache is not None:
        cache.refresh()


def timed(spent: dict[str, float], work: Callable[[], Any]) -> Any:
    """What the work returns; its time is added."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    spent["wall"] += time.perf_counter() - wall
    spent["processor"] += time.process_time() - processor
    return result


if __name__ == "__main__":
    main()
