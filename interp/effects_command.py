"""The command `interp effects`: a model and a data set in; what its heads and edges do, tables and report out."""

from __future__ import annotations

import dataclasses
import sys
from argparse import Namespace

from interp import commands, effects_page, plugins, storage
from interp.causing import Cause, cause

TABLES = tuple(f.name for f in dataclasses.fields(Cause) if f.name not in ("skipped", "manifest"))


def run(options: Namespace) -> None:
    """Measures effects into ``--out`` and prints what was found and where the report lies."""
    metrics = {options.metric: plugins.get("metrics", options.metric)}
    dataset = commands.samples(options)
    lmm = commands._load(options)
    folder = storage.Run.open(
        options.out,
        commands.arguments(options, lmm),
        weights=storage.hash_weights(lmm.model),
        seed=options.seed,
        force=options.force,
    )
    folder.manifest["about"] = commands.about_run(options, lmm, metrics)
    print(f"effects of {lmm.layers} x {lmm.heads} heads of {options.model} on {options.dataset}", file=sys.stderr)
    found = cause(
        lmm,
        dataset,
        options.samples,
        metric=options.metric,
        weighting=options.weighting,
        intervention=options.intervention,
        where=options.where,
        generate=options.generate,
        answers=options.answers,
        draws=options.draws,
        seed=options.seed,
        batch=options.batch,
        copies=options.copies,
        store=folder,
    )
    keep(folder, found)


def keep(folder: storage.Run, found: Cause) -> None:
    """Tables, figures and report of a run, written whole."""
    for name in TABLES:
        folder.write_table(name, getattr(found, name))
    folder.manifest["sets"] = found.manifest["sets"]
    folder.save_manifest()
    effects_page.draw(folder)
    folder.finish([{"sample_id": skip.sample_id, "reason": skip.reason} for skip in found.skipped])
    page = effects_page.page(folder)
    print(effects_page.headline(folder))
    print(f"tables:  {folder.folder}/heads.parquet, sets.parquet, edges.parquet, ...")
    print(f"report:  {page}")
