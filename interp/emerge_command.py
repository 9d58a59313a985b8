"""The command `interp emerge`: a series of checkpoints and a data set in, tables, figures and report out."""

from __future__ import annotations

import dataclasses
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from interp import commands, emergence_page, plugins, storage
from interp.emergence import Emergence
from interp.emerging import METRICS, emerge
from interp.timeline import Series, series
from interp.types import Head

LEADERS = 3
NOT_OF_THE_RUN = ("series", "revisions")
"""Options that may change between calls: a series grows, and what was measured of it stays."""


def run(options: Namespace) -> None:
    """Measures every checkpoint into ``--out`` and prints what was found and where the report lies."""
    metrics = {name: plugins.get("metrics", name) for name in options.metric or METRICS}
    dataset = commands.samples(options)
    found = _series(options)
    about_them = found.to_frame()
    print(about_them.drop(columns=["damaged", "place"]).to_string(index=False), file=sys.stderr)
    for point in found.points:
        if point.damaged:
            print(f"step {point.step} is damaged and left out: {point.damaged}", file=sys.stderr)
    extra = {"device_map": options.device_map} if options.device_map else {}
    lmm = found.load(device=options.device, dtype=options.dtype, **extra)
    arguments = commands.arguments(options, lmm, metric=[*metrics], model=found.base)
    arguments = {name: value for name, value in arguments.items() if name not in NOT_OF_THE_RUN}
    folder = storage.Run.open(
        options.out,
        {"series": options.series if "=" not in options.series else f"checkpoints of {found.base}", **arguments},
        weights=storage.hash_weights(lmm.model),
        seed=options.seed,
        force=options.force,
    )
    folder.manifest["about"] = {
        **commands.about_run(options, lmm, metrics),
        "checkpoints": [[point.step, point.kind, point.damaged] for point in found.points],
    }
    result = emerge(
        lmm,
        found,
        dataset,
        [*metrics],
        options.samples,
        recall=options.recall,
        **commands.measured(options),
        store=folder,
    )
    keep(folder, result.tables, result.examples, result.skipped)
    print(f"{result.computed} of {len(found.sound)} checkpoints computed, the rest was there", file=sys.stderr)


def keep(run: storage.Run, tables: Emergence, examples: Sequence[Any], skipped: Sequence[tuple[str, str]]) -> None:
    """Tables, figures and report of a run, written whole."""
    for field in dataclasses.fields(tables):
        run.write_table(emergence_page.TABLES[field.name], getattr(tables, field.name))
    for old in (run.folder / "figures").glob("*"):
        old.unlink()
    emergence_page.draw(run)
    emergence_page.draw_examples(run, examples, _leaders(tables, next(iter(run.manifest["about"]["metrics"]))))
    run.finish([{"sample_id": name, "reason": reason} for name, reason in skipped])
    page = emergence_page.page(run)
    frames = {name: getattr(tables, name) for name in emergence_page.TABLES}
    for metric in run.manifest["about"]["metrics"]:
        print(emergence_page.headline(frames, metric))
    print(f"tables:  {run.folder}/emergence.parquet, onsets.parquet, ...")
    print(f"report:  {page}")


def _leaders(tables: Emergence, metric: str) -> list[Head]:
    best = tables.leaders.query("metric == @metric and step == step.max()").sort_values("place").head(LEADERS)
    return [Head(int(layer), int(head)) for layer, head in best[["layer", "head"]].to_numpy()]


def _series(options: Namespace) -> Series:
    """From a folder, a shipped name, STEP=PLACE,STEP=PLACE,..., or a hub id with --revisions."""
    if "=" not in options.series:
        return series(options.series, revisions=options.revisions, base=options.base)
    pairs = [item.partition("=") for item in options.series.split(",")]
    if wrong := [step for step, _, _ in pairs if not step.strip().isdigit()]:
        raise ValueError(f"{wrong[0]!r} is no training step; expected STEP=PLACE,STEP=PLACE,...")
    if len({int(step) for step, _, _ in pairs}) < len(pairs):
        raise ValueError(f"{options.series} names a step twice; expected STEP=PLACE,STEP=PLACE,..., each step once")
    return series({int(step): place for step, _, place in pairs}, base=options.base)
