"""The command `interp compare`: two models and a data set in, tables, figures and report out."""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from interp import commands, compare_page, plugins, storage
from interp.comparing import compare
from interp.comparison import Comparison
from interp.lmm import LMM

TABLES = tuple(f.name for f in dataclasses.fields(Comparison) if f.name not in ("skipped", "manifest"))


def run(options: Namespace) -> None:
    """Compares the models into ``--out`` and prints what was found and where the report lies."""
    metrics = {name: plugins.get("metrics", name) for name in options.metrics or plugins.names("metrics")}
    dataset = commands.samples(options)
    left_out = ("out", "force", "debug", "command")
    given = {name: value for name, value in vars(options).items() if name not in left_out}
    folder = storage.Run.open(options.out, {**given, "metrics": [*metrics]}, seed=options.seed, force=options.force)
    folder.manifest.setdefault("models", {})
    places = {"A": options.model_a, "B": options.model_b}
    first, second = (_loader(folder, options, which, place, metrics) for which, place in places.items())
    found = compare(
        first,
        second,
        dataset,
        [*metrics],
        options.samples,
        names=tuple(options.names) if options.names else None,
        effects=options.effects,
        recall=options.recall,
        **commands.measured(options),
        store=folder,
    )
    keep(folder, found)


def _loader(
    folder: storage.Run, options: Namespace, which: str, place: str, metrics: dict[str, Any]
) -> Callable[[], LMM]:
    """Loads a model when it is its turn, so that two large ones need not fit side by side."""

    def load() -> LMM:
        gc.collect()
        _empty_cache()
        lmm = commands._load(Namespace(**{**vars(options), "model": place}))
        about = commands.about_run(options, lmm, metrics)
        folder.manifest["about"] = {name: about[name] for name in ("dataset", "metrics")}
        _same(folder, which, {"weights": storage.hash_weights(lmm.model), **commands.numbers(lmm)})
        print(f"model {which}: {lmm.layers} x {lmm.heads} heads of {place} on {options.dataset}", file=sys.stderr)
        return lmm

    return load


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _same(folder: storage.Run, which: str, about: dict[str, Any]) -> None:
    """Notes the model in the manifest, or refuses one that is not the one that the run began with."""
    about = json.loads(json.dumps(about))
    before = folder.manifest["models"].setdefault(which, about)
    if before != about:
        changed = "; ".join(
            f"{k} was {before.get(k)!r:.40}, now {about[k]!r:.40}" for k in about if before.get(k) != about[k]
        )
        raise storage.RunConflict(
            f"{folder.folder} was begun with another model {which}: {changed}. Name another --out to keep it, or "
            "--force to throw it away and start over"
        )
    folder.save_manifest()


def keep(folder: storage.Run, found: Comparison) -> None:
    """Tables, figures and report of a run, written whole."""
    for name in TABLES:
        folder.write_table(name, getattr(found, name))
    folder.manifest["comparison"] = found.manifest
    folder.save_manifest()
    compare_page.draw(folder)
    folder.finish([{"sample_id": f"{model}: {skip.sample_id}", "reason": skip.reason} for model, skip in found.skipped])
    page = compare_page.page(folder)
    files = compare_page.write_text(folder)
    print(compare_page.headline(folder))
    print(f"tables:  {', '.join(str(path) for path in files)}, scores.parquet, ...")
    print(f"report:  {page}")
