"""Ranks both models on the same phrases and writes paired differences with intervals (model B - model A, and what mean
subtraction, the query row and the choice of heads do in each), tables, figures and report.html. Killed at any moment,
the same command goes on where it was. The models are loaded one after the other."""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.commands import _options, _parts
from interp.commands import _session as session

if TYPE_CHECKING:
    from interp.models._lmm import LMM
    from interp.report.run import Run

HELP = "two models side by side on the same phrases"


def options(sub: argparse.ArgumentParser) -> None:
    """The command's options."""
    sub.add_argument("model_a", metavar="MODEL_A", help="a shipped model, a folder, or a hub id")
    sub.add_argument("model_b", metavar="MODEL_B", help="the one that is compared with it")
    sub.add_argument("dataset", metavar="DATASET", help="see: interp list")
    sub.add_argument("--metrics", nargs="+", metavar="METRIC", help="names (interp list) or .py files (default: all)")
    _options.words(sub)
    sub.add_argument("--names", nargs=2, metavar=("A", "B"), help="what to call them (default: their folders' names)")
    sub.add_argument(
        "--effects",
        nargs="*",
        choices=("normalise", "query"),
        default=["normalise", "query"],
        help="settings to vary, one more ranking each (default: both)",
    )
    sub.add_argument("--no-recall", dest="recall", action="store_false", help="do not let the models answer")
    _options.measured(sub)
    _parts.options(sub)
    _options.figures(sub)
    _options.shared(sub)


@_parts.in_parts
def run(options: argparse.Namespace) -> None:
    """Compares the models into ``--out`` and prints what was found and where the report lies."""
    import interp
    from interp.models._load import check_place
    from interp.report import comparison

    metrics = session.metrics_of(options.metrics)
    dataset = session.samples(options)
    check_place(options.model_a)
    check_place(options.model_b)
    given = {name: value for name, value in session.given(options).items() if name != "command"}
    folder = session.begin(options, {**given, "metrics": [*metrics]}, None, _unmeasured(options))
    folder.manifest.setdefault("models", {})
    places = {"A": options.model_a, "B": options.model_b}
    first, second = (_loader(folder, options, which, place, metrics) for which, place in places.items())
    names = tuple(options.names) if options.names else None
    how = {"effects": options.effects, "recall": options.recall, **session.measured(options)}
    found = interp.compare(first, second, dataset, options.metrics, options.samples, names=names, **how, store=folder)
    skipped = [{"sample_id": f"{model}: {skip.sample_id}", "reason": skip.reason} for model, skip in found.skipped]
    with session.finishing(folder):
        session.keep(folder, comparison, found.tables(), skipped, comparison=found.manifest)


def _unmeasured(options: argparse.Namespace) -> tuple[str, ...]:
    """The models that the run in ``--out`` has not loaded yet: a broken one may be replaced by one from elsewhere."""
    from interp.report.folder import read_manifest

    old = None if options.force else read_manifest(Path(options.out))
    noted = {} if old is None else old.get("models", {})
    return tuple(name for which, name in (("A", "model_a"), ("B", "model_b")) if old and which not in noted)


def _loader(
    folder: Run, options: argparse.Namespace, which: str, place: str, metrics: dict[str, Any]
) -> Callable[[], LMM]:
    """Loads a model when it is its turn, so that two large ones need not fit side by side."""

    def load() -> LMM:
        from interp.models._identity import hash_weights

        gc.collect()
        _empty_cache()
        lmm = session.load(options, place)
        about = session.about_run(options, lmm, metrics)
        folder.manifest["about"] = {name: about[name] for name in ("dataset", "metrics")}
        _same(folder, which, {"weights": hash_weights(lmm.model), **session.numbers(lmm)})
        session.say(f"model {which}: {lmm.layers} x {lmm.heads} heads of {place} on {options.dataset}")
        return lmm

    return load


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _same(folder: Run, which: str, about: dict[str, Any]) -> None:
    """Notes the model in the manifest, or refuses one that is not the one that the run began with."""
    from interp.report.run import RunConflict

    about = json.loads(json.dumps(about))
    before = folder.manifest["models"].setdefault(which, about)
    if before != about:
        changed = "; ".join(
            f"{k} was {before.get(k)!r:.40}, now {about[k]!r:.40}" for k in about if before.get(k) != about[k]
        )
        raise RunConflict(
            f"{folder.folder} was begun with another model {which}: {changed}. Name another --out to keep it, or "
            "--force to throw it away and start over"
        )
    folder.save_manifest()
