"""What the training scripts share: a log, a loop that goes on where it stopped, parts that run one after the other."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch


class Log:
    """One JSON object a line, in a file and on the screen."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, **fields: object) -> None:
        line = json.dumps({"time": round(time.time(), 1), **fields})
        print(line, flush=True)
        with self.path.open("a") as file:
            file.write(line + "\n")


def optimiser(module: torch.nn.Module, rate: float, decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices only."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def train(name, module, batches, loss_of, steps, rate, decay, work, log, device, warm=50) -> None:
    """Trains ``module`` with warm-up and cosine, under bf16 autocast; WORK/NAME.pt is there to go on from."""
    saved, start = work / f"{name}.pt", 0
    schedule = lambda k: min(1.0, (k + 1) / warm) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * k / steps)))  # noqa: E731
    optimizer = optimiser(module, rate, decay)
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    module.train()
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(step)
        with torch.autocast(device, torch.bfloat16):
            loss, extra = loss_of({key: value.to(device) for key, value in batches(step).items()})
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == steps - 1:
            log(part=name, step=step, loss=round(loss.item(), 4), **extra)
        if step % 100 == 99 or step == steps - 1:
            torch.save({"model": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, saved)


def arguments(about: str | None, name: str) -> argparse.ArgumentParser:
    """The options that every training script has."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(f"runs/train-{name}"), help="folder for data and states")
    parser.add_argument("--out", type=Path, default=Path(f"runs/{name}"), help="folder for what ships")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--part", help="one part alone")
    return parser


def parsed(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Log]:
    """The options, with both folders made, and the log."""
    a = parser.parse_args()
    for folder in (a.work, a.out):
        folder.mkdir(parents=True, exist_ok=True)
    return a, Log(a.work / "log.jsonl")


def run(parser: argparse.ArgumentParser, part: str | None, parts: dict[str, Callable[[], object]]) -> None:
    """Every part in order, or the one that is asked for."""
    if part and part not in parts:
        parser.error(f"no part {part!r}; there are: {', '.join(parts)}")
    for name, start in parts.items():
        if part in (None, name):
            start()
