"""Options that several commands have, each group in one place."""

from __future__ import annotations

import argparse
import json
from typing import Any

from interp.commands import _values


def model_and_data(sub: argparse.ArgumentParser) -> None:
    """MODEL and DATASET."""
    sub.add_argument("model", metavar="MODEL", help="a shipped model, a folder, or a hub id")
    sub.add_argument("dataset", metavar="DATASET", help="see: interp list")


def image_and_prompt(sub: argparse.ArgumentParser) -> None:
    """MODEL, IMAGE and PROMPT."""
    sub.add_argument("model", metavar="MODEL", help="a shipped model, a folder, or a hub id")
    sub.add_argument("image", metavar="IMAGE", help="an image file")
    sub.add_argument("prompt", metavar="PROMPT", help="plain text, without template and image place")


def some(sub: argparse.ArgumentParser) -> None:
    """--samples and --answers: how much of a data set, and whose words."""
    sub.add_argument(
        "--samples", type=_values.positive, metavar="N", help="the data set's first N samples (default: all)"
    )
    sub.add_argument("--answers", choices=("reference", "generated"), default="reference", help="whose answers")


def batch(sub: argparse.ArgumentParser) -> None:
    """--batch."""
    sub.add_argument("--batch", type=_values.positive, default=8, metavar="N", help="samples at a time (default: 8)")


def source(sub: argparse.ArgumentParser) -> None:
    """--split and --root of a data set."""
    sub.add_argument("--split", help="of the data set (default: the data set's own, such as test or val2017)")
    sub.add_argument("--root", metavar="PATH", help="where the data lie, for data sets that are read from disk")


def said(sub: argparse.ArgumentParser) -> None:
    """--answer and --phrases: what is read in place of what the model says."""
    sub.add_argument("--answer", help="the answer to read (default: the model generates one)")
    sub.add_argument("--phrases", nargs="+", metavar="WORD", help="words of the answer (default: its noun phrases)")


def normalise(sub: argparse.ArgumentParser) -> None:
    """--normalise."""
    sub.add_argument("--normalise", choices=("answer", "none"), default="answer", help="subtract the answer's mean map")


def measured(sub: argparse.ArgumentParser) -> None:
    """How heads are measured."""
    some(sub)
    normalise(sub)
    row(sub)
    sub.add_argument(
        "--rows", choices=("mean", "first", "last"), default="mean", help="which of a word's tokens make its map"
    )
    sub.add_argument(
        "--mentions", choices=("all", "first"), default="all", help="first: leave out words that name a thing again"
    )
    by(sub)
    source(sub)
    kinds(sub)
    sub.add_argument(
        "--nulls", type=_values.natural, default=8, metavar="N", help="masks of other images per phrase (default: 8)"
    )
    sub.add_argument("--seed", type=_values.seed, default=0, help="of null masks, halves and intervals (default: 0)")
    batch(sub)


def kinds(sub: argparse.ArgumentParser) -> None:
    """--kinds: which phrases of a data set that tells what bound them."""
    sub.add_argument(
        "--kinds", nargs="+", metavar="KIND", help="phrases of these kinds alone: free, attribute, ... (default: all)"
    )


def words(sub: argparse.ArgumentParser) -> None:
    """--words: which words of the answers are scored."""
    sub.add_argument(
        "--words",
        nargs="+",
        metavar="WORD",
        help="words to score where answers have them, or targets: the masks' own names (default: noun phrases)",
    )


def by(sub: argparse.ArgumentParser) -> None:
    """--by: what the best heads are chosen by."""
    sub.add_argument(
        "--by",
        choices=("specificity", "mean"),
        help="choose heads by how well they tell the named thing from others, or by their score (default: the first)",
    )


def heads(sub: argparse.ArgumentParser) -> None:
    """--heads and --ranking: which heads; every form of `interp.heads` is read."""
    sub.add_argument(
        "--heads",
        nargs="+",
        action=Joined,
        metavar="H",
        help="L14H24 L14H26 ..., all, released, or top3 of --ranking (default: all); 14:24,14:26 is read too",
    )
    sub.add_argument("--ranking", metavar="DIR", help="an `interp rank` run or its heads.parquet, for --heads topK")


class Joined(argparse.Action):
    """Several words as one text."""

    def __call__(self, parser: Any, options: argparse.Namespace, words: Any, name: str | None = None) -> None:
        setattr(options, self.dest, " ".join(words))


def row(sub: argparse.ArgumentParser) -> None:
    """Which row is a word's, and what it holds."""
    sub.add_argument(
        "--query", choices=("predicting", "self"), default="predicting", help="which row stands for a word"
    )
    weighting(sub)


def weighting(sub: argparse.ArgumentParser) -> None:
    """What a map holds."""
    sub.add_argument(
        "--weighting", choices=("attention", "value"), default="attention", help="value: times the value's norm"
    )


def shared(sub: argparse.ArgumentParser) -> None:
    """Where a run goes, and on which device."""
    sub.add_argument("--out", required=True, metavar="DIR", help="folder of the run")
    sub.add_argument("--force", action="store_true", help="throw away another run in that folder")
    sub.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")
    sub.add_argument("--device-map", metavar="MAP", help="spread a large model over GPUs, e.g. auto")
    sub.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="(default: the checkpoint's, CPU: float32)"
    )
    sub.add_argument("--view", metavar="NAME", help="maps of that view of the image: base, thumbnail, 'crop 1', ...")
    sub.add_argument(
        "--processor", nargs="+", default=[], type=setting, metavar="KEY=VALUE",
        help="options of the image processor, e.g. do_pan_and_scan=true",
    )  # fmt: skip
    drawn(sub)
    # Accepted on both sides of the command's name.
    sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def drawn(sub: argparse.ArgumentParser) -> None:
    """--format, --dpi and --width: how figures are written beside those of the report."""
    sub.add_argument(
        "--format", type=formats, default=(), metavar="KIND,...", help="figures also as pdf, svg or png (for papers)"
    )
    sub.add_argument("--dpi", type=_values.positive, default=300, metavar="N", help="of pixels in them (default: 300)")
    sub.add_argument(
        "--width", type=float, metavar="INCHES", help="make them as narrow as a column, such as 3.3; texts stay legible"
    )


def figures(sub: argparse.ArgumentParser, default: str = "headline") -> None:
    """--figures: how many of them are drawn."""
    sub.add_argument(
        "--figures", choices=("headline", "all"), default=default,
        help=f"of the headline's metric or of all; interp redraw draws them later (default: {default})",
    )  # fmt: skip


def formats(text: str) -> tuple[str, ...]:
    """Kinds of files: png, pdf, svg."""
    found = tuple(dict.fromkeys(kind.strip().lower() for kind in text.split(",")))
    if not set(found) <= {"png", "pdf", "svg"}:
        raise argparse.ArgumentTypeError(f"{text!r} is none of png, pdf, svg, or several of them parted by commas")
    return found


def setting(text: str) -> list[Any]:
    """A name and its value: a number, true, false or other JSON, else the text itself.

    >>> setting("max_pixels=50176"), setting("do_pan_and_scan=true"), setting("mode=wide")
    (['max_pixels', 50176], ['do_pan_and_scan', True], ['mode', 'wide'])
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return [name, json.loads(value)]
    except ValueError:
        return [name, value]
