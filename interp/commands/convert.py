"""Writes released weights of another layout as one folder that loads by itself. DiffLMM: adapter and
non_lora_trainables.bin, joined with the parts that they were trained on. LLaVA as its own code saves it: a whole
checkpoint, a LoRA run, or an mm_projector.bin."""

from __future__ import annotations

import argparse
from importlib import import_module

from interp.commands import _session as session

HELP = "released weights of another format into one folder that loads"
PARTS = {
    "language-model": "what an adapter or a projector was trained on",
    "diffusion": "of DiffLMM: Stable Diffusion",
    "clip": "the vision tower",
}
CONVERTERS = {
    "difflmm": ("interp.models.difflmm.convert", set(PARTS)),
    "llava": ("interp.models._original.convert", {"language-model", "clip"}),
}
"""Who converts a family's weights, and which of the parts they are made of."""


def options(sub: argparse.ArgumentParser) -> None:
    """The command's options."""
    sub.add_argument("family", choices=tuple(CONVERTERS), help="what the weights are of")
    sub.add_argument("source", metavar="SOURCE", help="folder or hub id, e.g. liuhaotian/llava-v1.5-7b")
    sub.add_argument("out", metavar="OUT", help="the folder to write")
    for part, about in PARTS.items():
        sub.add_argument(
            f"--{part}", metavar="P", help=f"{about}; folder or hub id (default: the one it was trained on)"
        )
    sub.add_argument("--normalisation", choices=("released", "paper"), help="of DiffLMM's images (default: released)")
    sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> None:
    """Writes released weights as one folder and prints how to go on.

    Raises:
        ValueError: an option that the family does not have.
    """
    module, own = CONVERTERS[options.family]
    given = {part: place for part in PARTS if (place := getattr(options, part.replace("-", "_")))}
    if options.family == "difflmm":
        more = {"normalisation": options.normalisation or "released"}
    elif options.normalisation or (other := given.keys() - own):
        name = "normalisation" if options.normalisation else min(other)
        raise ValueError(f"--{name} is of DiffLMM; a {options.family} has none, leave it out")
    else:
        more = {"say": session.say}
    parts = {part.replace("-", "_"): place for part, place in given.items()}
    out = import_module(module).convert(options.source, options.out, **parts, **more)
    print(f"written: {out}\nload it: interp.load({str(out)!r})")
