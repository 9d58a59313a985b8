"""What capturing attention costs: time and peak memory of four ways, side by side in one run.

    python analyses/bench_capture.py                      # 7B's width, 4 layers, bf16, on the CPU
    python analyses/bench_capture.py --device cuda        # full size: 32 layers

plain      generation with nothing attached
replay     interp.capture: generation, then one pass over the prompt's kept cache
streaming  interp.capture(streaming=True): rows recorded at every step of the generation
eager      generate(output_attentions=True) with eager attention, cut to the answer's rows and the patches afterwards

The model is a randomly initialised LLaVA: no attention is worth looking at here, only its price. Times are medians over
rounds in which the four take turns. Two runs of one way differ by more than replay costs wherever the machine is not
idle, so replay's ratio is also taken within each call: all of `interp.capture` over the generation inside it. Peak
memory is, on the CPU, the highest resident set of a fresh process for each way, above what the loaded model takes; on a
GPU, PyTorch's highest allocation.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import interp
from interp.answer import batch
from random_llava import make_lmm

PROMPT = "Describe the image in detail."
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
    options = {"phrases": named, "max_new_tokens": args.tokens, "streaming": way == "streaming"}
    return interp.capture(lmm, image, PROMPT, **options).mean.flatten(2)


@torch.no_grad()
def output_attentions(lmm: interp.LMM, image: np.ndarray, tokens: int) -> torch.Tensor:
    """What one does without this project: keep everything of every step, then cut."""
    inputs = lmm.inputs([image], [lmm.template(PROMPT)])
    keys = (inputs["input_ids"][0] == lmm.model.config.image_token_id).nonzero()[:, 0]
    before = lmm.model.config._attn_implementation
    lmm.model.set_attn_implementation("eager")
    try:
        attentions = lmm.generate_ids(inputs, tokens, output_attentions=True).attentions
    finally:
        lmm.model.set_attn_implementation(before)
    rows = torch.stack([torch.stack([x[0, :, -1, keys] for x in step]) for step in attentions])
    return rows.float().mean(0).cpu()


def resident(field: str) -> int:
    """A field of this process's memory in bytes: VmRSS now, VmHWM at its highest."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(x.split()[1] for x in status.splitlines() if x.startswith(field)))


def peak(way: str, args: argparse.Namespace) -> int:
    """Bytes that one run of ``way`` needs at its highest above those of the loaded model; run in a fresh process."""
    lmm, image, named = prepared(args)
    gc.collect()
    if args.device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
        run(way, lmm, image, args, named)
        return torch.cuda.max_memory_allocated() - base
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew; loading had its own
    base = resident("VmRSS")
    run(way, lmm, image, args, named)
    return resident("VmHWM") - base


def peak_in_fresh_process(way: str, argv: list[str]) -> int:
    # Freed blocks above 64 KiB go back at once, so that the resident set follows what is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, *argv, "--peak-of", way]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def prepared(args: argparse.Namespace) -> tuple[interp.LMM, np.ndarray, list[tuple[int, int]]]:
    """Model, image, and the phrases to keep; every way has run once, shortly, so that nothing is loaded later."""
    lmm = make_lmm(args)
    side = 14 * args.patches
    image = np.random.default_rng(args.seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    named = spans(lmm.generate(image, PROMPT, args.tokens), args.phrases)
    short = argparse.Namespace(**vars(args) | {"tokens": 3})
    for way in WAYS:
        run(way, lmm, image, short, [(0, 3)])
    return lmm, image, named


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


def clock(args: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each way in each round (``generation``: inside replay), and the largest difference of each way's mean
    map from ``replay``'s."""
    lmm, image, named = prepared(args)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    maps = {}
    with timed_generation(args.device) as inside:
        for _ in range(args.repeats):
            for way in WAYS:
                start = now(args.device)
                maps[way] = run(way, lmm, image, args, named)
                seconds[way].append(now(args.device) - start)
    seconds["generation"] = inside
    return seconds, {w: float((maps[w] - maps["replay"]).abs().max()) for w in WAYS if maps[w] is not None}


def report(seconds: dict[str, list[float]], peaks: dict[str, int]) -> list[dict[str, Any]]:
    """One row per way. ``ratio`` is the median over rounds of its time over plain's in the same round."""
    rows = []
    for way in WAYS:
        ratios = [a / b for a, b in zip(seconds[way], seconds["plain"], strict=True)]
        rows.append(
            {
                "way": way,
                "seconds": round(statistics.median(seconds[way]), 3),
                "ratio": round(statistics.median(ratios), 4),
                "ratio_low": round(min(ratios), 4),
                "ratio_high": round(max(ratios), 4),
                "peak_mib": round(peaks[way] / 2**20, 1),
                "extra_mib": round((peaks[way] - peaks["plain"]) / 2**20, 1),
                "extra_of_eager": round((peaks[way] - peaks["plain"]) / max(peaks["eager"] - peaks["plain"], 1), 4),
            }
        )
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
    parser.add_argument("--peak-of", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.layers is None:
        args.layers = 32 if args.device.startswith("cuda") else 4
    return args


def main() -> None:
    args = arguments()
    if args.peak_of:
        print(peak(args.peak_of, args))
        return
    peaks = {way: peak_in_fresh_process(way, sys.argv[1:]) for way in WAYS}
    seconds, differences = clock(args)
    rows = report(seconds, peaks)
    setting = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "peak_of"}
    setting |= {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    result = {"setting": setting, "ways": rows, "seconds": seconds, "largest_difference_of_means": differences}
    args.out.write_text(json.dumps(result, indent=1))
    with args.out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print("  ".join(f"{k:>14}" for k in rows[0]))
    for row in rows:
        print("  ".join(f"{x:>14}" for x in row.values()))
    print(f"largest difference of the mean map from replay's: {differences}")
    replay = rows[WAYS.index("replay")]
    within = [a / b for a, b in zip(seconds["replay"], seconds["generation"], strict=True)]
    print(f"replay over the generation in the same call: {min(within):.4f} to {max(within):.4f}")
    middle = round(statistics.median(within), 4)
    for name, value, bound in (("time within a call", middle, 1.07), ("extra memory", replay["extra_of_eager"], 0.1)):
        print(f"replay, {name}: {value} (at most {bound}: {'met' if value <= bound else 'NOT met'})")


if __name__ == "__main__":
    main()
