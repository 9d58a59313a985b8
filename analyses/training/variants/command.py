"""Trains what is missing of the variants, measures all of them, and writes tables and figure."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from interp.plugins import data_folder
from interp.work.files import write_bytes
from training.stages import ROUNDS
from training.variants.eyes import VARIANTS, check
from training.variants.measured import measure, table
from training.variants.shown import draw, markdown
from training.variants.trained import train


def main(about: str | None) -> None:
    """Trains what is missing, measures, and writes the tables."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mini-llava", type=Path, default=data_folder() / "mini-llava", help="as shipped")
    parser.add_argument("--mini-difflmm", type=Path, default=data_folder() / "mini-difflmm", help="as shipped")
    parser.add_argument("--variants", nargs="+", type=check, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--steps", nargs="+", type=int, default=[480, 240], help="of each round of LLaVA's stages")
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="compile the language model: a third faster on a CPU")
    parser.add_argument("--out", type=Path, default=Path("runs/variants"))
    a = parser.parse_args()
    if not 2 <= len(a.steps) <= len(ROUNDS):
        parser.error(f"--steps takes 2 to {len(ROUNDS)} numbers, one for each of {list(ROUNDS)}")
    a.out.mkdir(parents=True, exist_ok=True)
    measured = {}
    for seed in a.seeds:
        for variant in a.variants:
            measured[variant, seed] = measure(train(variant, seed, a), a)
            found = table(measured)
            write_bytes(a.out / "variants.csv", found.to_csv(index=False, float_format="%.5g").encode())
            write_bytes(a.out / "variants.md", markdown(found).encode())
            draw(found, a.out / "variants.png")
    print(markdown(found))
