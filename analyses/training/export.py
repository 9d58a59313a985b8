"""What ships of a training: weights in bf16, checkpoints over both stages, the log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from training.parts import Log
from training.stages import ROUNDS, rounds

Weights = dict[str, torch.Tensor]


def halved(weights: Weights) -> Weights:
    """The tensors in bf16, as they ship."""
    return {key: value.to(torch.bfloat16).contiguous() for key, value in weights.items()}


def export_checkpoints(
    work: Path, out: Path, until: str | None = None, ready: Callable[[Weights], Weights] = halved
) -> None:
    """OUT/checkpoint-N, in bf16, with N counted over both stages, to the round ``until`` or to the last.

    ``ready`` makes of a file's weights those that ship.
    """
    first = 0
    for name in rounds(until):
        how = ROUNDS[name]
        for step in how.saves:
            folder, to = work / name / f"checkpoint-{step}", out / f"checkpoint-{first + step}"
            to.mkdir(exist_ok=True)
            for file in folder.glob("*.safetensors"):
                save_file(ready(load_file(file)), to / file.name)
            if (folder / "adapter_config.json").exists():
                (to / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
        first += max(how.saves)


def export_log(work: Path, log: Log, out: Path, **about: Any) -> None:
    """OUT/training.jsonl; then logs how large OUT is."""
    (out / "training.jsonl").write_text((work / "log.jsonl").read_text())
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    log(part="export", megabytes=round(size / 1e6, 2), **about)


def checkpoints_of(out: Path) -> int:
    """How many checkpoints OUT has."""
    return len(list(out.glob("checkpoint-*")))
