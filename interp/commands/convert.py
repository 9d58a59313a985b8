"""Joins released DiffLMM weights (adapter_config.json, adapter_model.*, non_lora_trainables.bin) with the parts that
they were trained on, merges the adapter, and writes a self-contained folder."""

from __future__ import annotations

import argparse
from importlib import import_module

HELP = "released weights of another format into one folder that loads"
PARTS = ("language-model", "diffusion", "clip")


def options(sub: argparse.ArgumentParser) -> None:
    """The command's options."""
    sub.add_argument("family", choices=("difflmm",), help="what the weights are of")
    sub.add_argument("source", metavar="SOURCE", help="folder or hub id, e.g. Shengcao1006/difflmm-llava-v1.5-7b-lora")
    sub.add_argument("out", metavar="OUT", help="the folder to write")
    for part in PARTS:
        sub.add_argument(f"--{part}", metavar="P", help="folder or hub id (default: the one it was trained on)")
    sub.add_argument("--normalisation", choices=("released", "paper"), default="released", help="of the images")
    sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> None:
    """Writes released weights as one folder and prints how to go on."""
    converter = import_module(f"interp.models.{options.family}.convert")
    parts = {part: getattr(options, part) for part in (name.replace("-", "_") for name in PARTS)}
    given = {part: place for part, place in parts.items() if place}
    out = converter.convert(options.source, options.out, normalisation=options.normalisation, **given)
    print(f"written: {out}\nload it: interp.load({str(out)!r})")
