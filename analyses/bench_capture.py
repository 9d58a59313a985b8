"""What capturing attention costs: time and peak memory, side by side in one run.

    python analyses/bench_capture.py                      # 7B's width, 4 layers, bf16, on the CPU
    python analyses/bench_capture.py --device cuda        # full size: 32 layers
    python analyses/bench_capture.py --given --batches 1 8    # answers that are given, beside ways of other tools

Answers that the model generates:

plain      generation with nothing attached
replay     interp.capture: generation, then one pass over the prompt's kept cache
streaming  interp.capture(streaming=True): rows recorded at every step of the generation
eager      generate(output_attentions=True) with eager attention, cut to the answer's rows and the patches afterwards

Answers that are given (``--given``): the ways of capture_ways.py, for batches of several sizes; all ways give the same
numbers, and the largest difference is printed.

The model is a randomly initialised LLaVA: no attention is worth looking at here, only its price. Times are medians over
rounds in which all ways take turns, in an order drawn anew each round; processor time stands beside wall time, and
interp's parser has read no text when its turn comes. Two runs of one way differ by more than replay costs wherever the
machine is not idle, so ratios are within a round, and replay's is also taken within each call: all of `interp.capture`
over the generation inside it. Peak memory is, on the CPU, the highest resident set of a fresh process for each way,
above what the loaded model takes; on a GPU, PyTorch's highest allocation.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

import capture_ways
import interp
from capture_ways import PROMPT
from interp.answer import batch
from interp.answer.parser import forget
from random_llava import make_lmm

WAYS = ("plain", "replay", "streaming", "eager")


def spans(answer: str, phrases: int) -> list[tuple[int, int]]:
    """(start, end) of evenly spread words of the answer, the stand-ins for its noun phrases' roots."""
    words, start = [], 0
    for word in answer.split(" "):
        words.append((start, start + len(word)))
        start += len(word) + 1
    return [words[i] for i in np.linspace(0, len(words) - 2, phrases).round().astype(int)]


def run(way: str, lmm: interp.LMM, image: np.ndarray, args: argparse.Namespace, named: Any) -> torch.Tensor | None:
    """Mean attention [layer head patch] over the answer, or None from the way that captures nothing."""
    if way == "plain":
        lmm.generate(image, PROMPT, args.tokens)
        return None
    if way == "eager":
        return output_attentions(lmm, image, args.tokens)
    forget()
    options = {"phrases": named, "max_new_tokens": args.tokens, "streaming": way == "streaming"}
    return interp.capture(lmm, image, PROMPT, **options).mean.flatten(2)


@torch.no_grad()
def output_attentions(lmm: interp.LMM, image: np.ndarray, tokens: int) -> torch.Tensor:
    """What one does without this project: keep everything of every step, then cut."""
    inputs = lmm.inputs([image], [lmm.template(PROMPT)])
    keys = (inputs["input_ids"][0] == lmm.model.config.image_token_id).nonzero()[:, 0]
    with capture_ways.eager(lmm):
        attentions = lmm.generate_ids(inputs, tokens, output_attentions=True).attentions
    rows = torch.stack([torch.stack([x[0, :, -1, keys] for x in step]) for step in attentions])
    return rows.float().mean(0).cpu()


def resident(field: str) -> int:
    """A field of this process's memory in bytes: VmRSS now, VmHWM at its highest."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(x.split()[1] for x in status.splitlines() if x.startswith(field)))


def peak(way: str, args: argparse.Namespace) -> int:
    """Bytes that one run of ``way`` needs at its highest above those of the loaded model; run in a fresh process."""
    work = prepared(args, [way])[way]
    gc.collect()
    if args.device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - base
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew; loading had its own
    base = resident("VmRSS")
    work()
    return resident("VmHWM") - base


def peak_in_fresh_process(way: str, size: int, argv: list[str]) -> int:
    # Freed blocks above 64 KiB go back at once, so that the resident set follows what is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, *argv, "--peak-of", way, "--batches", str(size)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def prepared(args: argparse.Namespace, ways: Sequence[str]) -> dict[str, Callable[[], Any]]:
    """Each way, ready to run; all have run once, shortly, so that nothing is loaded later."""
    lmm, side = make_lmm(args), 14 * args.patches
    if args.given:
        asked = capture_ways.make(lmm, args.batches[0], side, args.tokens, args.phrases, args.seed)
        short = capture_ways.make(lmm, 1, side, 4, 1, args.seed)
        for way in ways:
            capture_ways.WAYS[way](short)
        return {way: lambda way=way: capture_ways.WAYS[way](asked) for way in ways}
    image = np.random.default_rng(args.seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    named = spans(lmm.generate(image, PROMPT, args.tokens), args.phrases)
    short_args = argparse.Namespace(**vars(args) | {"tokens": 3})
    for way in ways:
        run(way, lmm, image, short_args, [(0, 3)])
    return {way: lambda way=way: run(way, lmm, image, args, named) for way in ways}


@contextlib.contextmanager
def timed_generation(device: str) -> Iterator[list[float]]:
    """Collects the seconds of each generation inside `interp.capture`."""
    original, seconds = batch.generate, []

    def timed(*arguments: Any, **options: Any) -> Any:
        start = now(device)
        result = original(*arguments, **options)
        seconds.append(now(device) - start)
        return result

    batch.generate = timed
    try:
        yield seconds
    finally:
        batch.generate = original


def now(device: str) -> float:
    """Seconds, when the device has done what it was asked for."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def clock(args: argparse.Namespace, ways: Sequence[str]) -> tuple[dict[str, Any], dict[str, float]]:
    """Seconds of each way in each round, ``wall`` and ``processor`` (``generation``: wall inside replay), and the
    largest difference of each way's numbers from interp's."""
    work = prepared(args, ways)
    spent: dict[str, Any] = {kind: {way: [] for way in ways} for kind in ("wall", "processor")}
    order, rng, maps = list(ways), np.random.default_rng(args.seed), {}
    with timed_generation(args.device) as inside:
        for _ in range(args.repeats):
            rng.shuffle(order)
            for way in order:
                wall, processor = now(args.device), time.process_time()
                maps[way] = work[way]()
                spent["processor"][way].append(time.process_time() - processor)
                spent["wall"][way].append(now(args.device) - wall)
    spent["generation"] = inside
    ours = maps[ways[1]]
    return spent, {way: difference(maps[way], ours) for way in ways if maps[way] is not None}


def difference(theirs: Any, ours: Any) -> float:
    """The largest of any number."""
    pairs = zip(theirs, ours, strict=True) if isinstance(ours, tuple) else [(theirs, ours)]
    return max(float((a - b).abs().max()) for a, b in pairs)


def report(spent: dict[str, Any], peaks: dict[str, int]) -> list[dict[str, Any]]:
    """One row per way. A ratio is the median over rounds of its time over the first way's in the same round."""
    rows, ways = [], list(spent["wall"])
    for way in ways:
        row: dict[str, Any] = {"way": way}
        for kind in ("wall", "processor"):
            ratios = [a / b for a, b in zip(spent[kind][way], spent[kind][ways[0]], strict=True)]
            row |= {kind: round(statistics.median(spent[kind][way]), 3), f"{kind}_ratio": round(median(ratios), 4)}
            row |= {f"{kind}_low": round(min(ratios), 4), f"{kind}_high": round(max(ratios), 4)}
        if peaks:
            row |= {"peak_mib": round(peaks[way] / 2**20, 1)}
            row |= {"extra_mib": round((peaks[way] - peaks[ways[0]]) / 2**20, 1)}
        rows.append(row)
    return rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--layers", type=int, help="default: 32 on a GPU, 4 on the CPU")
    parser.add_argument("--hidden", type=int, default=4096, help="a multiple of 256; heads have 128 channels")
    parser.add_argument("--vision-layers", type=int, default=2)
    parser.add_argument("--patches", type=int, default=24, help="rows and columns of the patch grid")
    parser.add_argument("--vocabulary", type=int, default=32064)
    parser.add_argument("--tokens", type=int, default=128, help="answer tokens")
    parser.add_argument("--phrases", type=int, default=16, help="phrases kept by interp.capture")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/bench_capture.json"), help="a .csv comes beside it")
    parser.add_argument("--given", action="store_true", help="answers that are given, beside other tools' ways")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="of --given")
    parser.add_argument("--ways", nargs="+", default=list(capture_ways.WAYS), help="of --given; read captured always")
    parser.add_argument("--no-memory", action="store_true", help="times alone")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.ways = [*{"read": 0, "captured": 0, **dict.fromkeys(args.ways)}]
    if args.layers is None:
        args.layers = 32 if args.device.startswith("cuda") else 4
    return args


def measured(args: argparse.Namespace, ways: Sequence[str], size: int, argv: list[str]) -> dict[str, Any]:
    """All of one batch size, printed."""
    args = argparse.Namespace(**vars(args) | {"batches": [size]})
    peaks = {} if args.no_memory else {way: peak_in_fresh_process(way, size, argv) for way in ways}
    spent, differences = clock(args, ways)
    rows = report(spent, peaks)
    print(f"batch {size}")
    print("  ".join(f"{k:>15}" for k in rows[0]))
    for row in rows:
        print("  ".join(f"{x:>15}" for x in row.values()))
    print(f"largest difference from {ways[1]}'s: {differences}")
    found = {"batch": size, "ways": rows, "seconds": spent, "largest_difference": differences}
    if args.given:
        for other in ways[2:]:
            wall, processor = (
                median(a / b for a, b in zip(spent[kind]["captured"], spent[kind][other], strict=True))
                for kind in ("wall", "processor")
            )
            print(f"interp over {other}: wall {wall:.3f}, processor {processor:.3f}")
    else:
        within = [a / b for a, b in zip(spent["wall"]["replay"], spent["generation"], strict=True)]
        print(f"replay over the generation in the same call: {min(within):.4f} to {max(within):.4f}")
    return found


def main() -> None:
    args = arguments()
    if args.peak_of:
        print(peak(args.peak_of, args))
        return
    ways = [way for way in capture_ways.WAYS if way in args.ways] if args.given else list(WAYS)
    for way, package in (("lens", "transformer_lens"), ("nnsight", "nnsight")):
        if way in ways and find_spec(package) is None:
            ways.remove(way)
            print(f"without {way}: pip install {package.replace('_', '-')}")
    found = [measured(args, ways, size, sys.argv[1:]) for size in (args.batches if args.given else [1])]
    setting = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "peak_of"}
    setting |= {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"setting": setting, "batches": found}, indent=1))
    with args.out.with_suffix(".csv").open("w", newline="") as file:
        rows = [{"batch": one["batch"], **row} for one in found for row in one["ways"]]
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
