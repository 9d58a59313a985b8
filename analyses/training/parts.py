"""A training's log, its options, and its parts, which run one after the other."""

from __future__ import annotations

import argparse
import json
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
