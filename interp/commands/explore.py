"""Writes one page to touch: the answer's words, every head's map and score, one head's map over the image, the mean of
picked heads, and (with --checkpoints) a slider over training. The page holds everything and asks for nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from interp.commands import _masks, _options, _values
from interp.commands import _session as session

HELP = "a page to touch: word, heads, map, mask, checkpoint"
MEGABYTE = 1_000_000


def options(sub: argparse.ArgumentParser) -> None:
    """The command's options."""
    _options.image_and_prompt(sub)
    _options.said(sub)
    sub.add_argument("--beside", metavar="MODEL", help="a second model on the same image")
    sub.add_argument("--checkpoints", action="store_true", help="every checkpoint of MODEL's series, with a slider")
    _options.heads(sub)
    sub.add_argument("--segmenter", metavar="S", help="show the mask that it gives at a map's peak (see: interp list)")
    sub.add_argument("--checkpoint", metavar="P", help="the segmenter's weights: folder or hub id")
    sub.add_argument(
        "--megabytes", type=_values.positive, default=15, metavar="N", help="the page's maps at most (default: 15)"
    )
    _options.shared(sub)


def run(options: argparse.Namespace) -> None:
    """Writes ``explorer.html`` into ``--out`` and prints where it lies and what it holds."""
    import interp
    from interp.images import digest, read_image

    if options.checkpoints and options.beside:
        raise ValueError("--checkpoints shows one model's series and --beside another model; give one of them")
    image = read_image(options.image)
    heads = "all" if options.heads is None else _masks.heads_of(options)
    segmenter: Any = None
    if options.segmenter is not None:
        segmenter = interp.load_segmenter(options.segmenter, options.checkpoint, options.device)
    series = interp.series(options.model) if options.checkpoints else None
    first = session.load(options) if series is None else series.load(**session.placed(options))
    source: Any = first if series is None else series
    if options.beside:
        source = [first, session.load(options, options.beside)]
    settings = {**session.arguments(options, first), "pixels": digest(image), "heads": session.heads_said(heads)}
    folder = session.begin(options, settings, first)
    made = interp.explore(
        source,
        image,
        options.prompt,
        options.answer,
        words=options.phrases,
        heads=heads,
        segmenter=segmenter,
        limit=options.megabytes * MEGABYTE,
        lmm=first,
    )
    path = made.save(folder.folder / "explorer.html", f"{options.model}: {Path(options.image).name}")
    folder.finish()
    print(f"answer: {made.contents['panels'][-1]['answer']}")
    for what in made.left_out:
        session.say(f"left out, or the page would be larger than --megabytes {options.megabytes}: {what}")
    print(f"page:   {path} ({path.stat().st_size / MEGABYTE:.1f} MB)")
