"""Measures every head at every checkpoint on the same images and words and writes tables, figures and report.html.
Killed at any moment, the same command goes on; a checkpoint that comes later costs only itself."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from interp.commands import _options, _parts
from interp.commands import _session as session
from interp.plugins import data_folder

if TYPE_CHECKING:
    from interp.emergence.timeline import Series

HELP = "when grounding appears over a series of checkpoints"
NOT_OF_THE_RUN = ("series", "revisions")
"""Options that may change between calls: a series grows, and what was measured of it stays."""


def options(sub: argparse.ArgumentParser) -> None:
    """The command's options."""
    sub.add_argument(
        "series", metavar="SERIES", help="a folder of checkpoint-N, a shipped model, STEP=PLACE,..., or a hub id"
    )
    sub.add_argument("dataset", metavar="DATASET", help="see: interp list")
    sub.add_argument(
        "--metric", nargs="+", metavar="METRIC", help="names or .py files (default: pointing_game average_precision)"
    )
    _options.words(sub)
    sub.add_argument("--base", metavar="PLACE", help="what the checkpoints are laid over (default: base/ beside them)")
    sub.add_argument("--revisions", nargs="+", metavar="R", help="of the hub id; their last number is the step")
    sub.add_argument("--recall", action="store_true", help="let every checkpoint answer, count the things it names")
    _options.measured(sub)
    _parts.options(sub)
    _options.figures(sub)
    _options.shared(sub)


@_parts.in_parts
def run(options: argparse.Namespace) -> None:
    """Measures every checkpoint into ``--out`` and prints what was found and where the report lies."""
    import interp
    from interp.emergence.result import METRICS
    from interp.report import emergence

    metrics = session.metrics_of(options.metric or METRICS)
    dataset = session.samples(options)
    found = _series(options)
    session.say(found.to_frame().drop(columns=["damaged", "place"]).to_string(index=False))
    for point in found.points:
        if point.damaged:
            session.say(f"step {point.step} is damaged and left out: {point.damaged}")
    lmm = found.load(**session.placed(options))
    arguments = session.arguments(options, lmm, metric=[*metrics], model=_place(found.base))
    arguments = {name: value for name, value in arguments.items() if name not in NOT_OF_THE_RUN}
    name = options.series if not _listed(options) else f"checkpoints of {found.base}"
    folder = session.begin(options, {"series": name, **arguments}, lmm)
    folder.manifest["about"] = {
        **session.about_run(options, lmm, metrics),
        "checkpoints": [[point.step, point.kind, point.damaged] for point in found.points],
    }
    how = {"recall": options.recall, **session.measured(options)}
    result = interp.emerge(lmm, found, dataset, options.metric or METRICS, options.samples, **how, store=folder)
    tables = {file: getattr(result.tables, name) for name, file in emergence.TABLES.items()}
    skipped = [{"sample_id": name, "reason": reason} for name, reason in result.skipped]
    with session.finishing(folder):
        emergence.clear(folder)
        emergence.keep_examples(folder, result.examples, result.tables.best(next(iter(metrics)))[0], metrics)
        session.keep(folder, emergence, tables, skipped)
    session.say(f"{result.computed} of {len(found.sound)} checkpoints computed, the rest was there")


def _listed(options: argparse.Namespace) -> bool:
    """Whether it is STEP=PLACE,...; a folder's name may hold a = too."""
    folders = Path(options.series), data_folder() / options.series
    return "=" in options.series and not options.revisions and not any(folder.is_dir() for folder in folders)


def _place(base: str) -> str:
    """A shipped model by its name alone, so that a run can move with the folder that both lie in."""
    shipped = data_folder()
    return str(Path(base).relative_to(shipped)) if Path(base).is_relative_to(shipped) else base


def _series(options: argparse.Namespace) -> Series:
    """From a folder, a shipped name, STEP=PLACE,STEP=PLACE,..., or a hub id with --revisions."""
    from interp.emergence.timeline import series

    if not _listed(options):
        return series(options.series, revisions=options.revisions, base=options.base)
    pairs = [item.partition("=") for item in re.split(r",(?=\s*\d+\s*=)", options.series)]
    if wrong := [step for step, _, _ in pairs if not step.strip().isdecimal() or len(step.strip()) > 18]:
        raise ValueError(
            f"{options.series} is no folder, and {wrong[0]!r} in it no training step; expected a folder of "
            "checkpoint-N, or STEP=PLACE,STEP=PLACE,..."
        )
    if len({int(step) for step, _, _ in pairs}) < len(pairs):
        raise ValueError(f"{options.series} names a step twice; expected STEP=PLACE,STEP=PLACE,..., each step once")
    return series({int(step): place for step, _, place in pairs}, base=options.base)
