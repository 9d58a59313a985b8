"""Takes away every head by itself and the best ones by grounding together, beside random heads of the same layers,
hides each word's thing from the row that predicts it, and writes what that does to the word: tables, figures and
report.html. Killed at any moment, the same command goes on where it was."""

from __future__ import annotations

import argparse

from interp.commands import _options, _parts, _values
from interp.commands import _session as session

HELP = "what heads do: words without them, and without their edges"
CHOSEN = (
    "metric",
    "weighting",
    "intervention",
    "where",
    "generate",
    "answers",
    "draws",
    "seed",
    "batch",
    "copies",
    "by",
)
"""Options that `interp.cause` takes under the same names."""


def options(sub: argparse.ArgumentParser) -> None:
    """The command's options."""
    _options.model_and_data(sub)
    sub.add_argument(
        "--metric", default="pointing_game", metavar="METRIC", help="of grounding (default: pointing_game)"
    )
    _options.weighting(sub)
    sub.add_argument(
        "--intervention", choices=("mean", "zero", "resample"), default="mean", help="what a head's output becomes"
    )
    sub.add_argument(
        "--where", choices=("word", "answer", "all"), default="answer", help="rows without the head (default: answer)"
    )
    sub.add_argument(
        "--generate", action="store_true", help="also count what is named when the model answers by itself"
    )
    _options.some(sub)
    _options.by(sub)
    _options.source(sub)
    _options.kinds(sub)
    sub.add_argument(
        "--draws", type=_values.positive, default=200, metavar="N", help="random sets beside each (default: 200)"
    )
    sub.add_argument(
        "--copies", type=_values.positive, default=64, metavar="N", help="interventions at a time (default: 64)"
    )
    sub.add_argument("--seed", type=_values.seed, default=0, help="of draws, halves and intervals (default: 0)")
    _options.batch(sub)
    _parts.options(sub)
    _options.figures(sub)
    _options.shared(sub)


@_parts.in_parts
def run(options: argparse.Namespace) -> None:
    """Measures effects into ``--out`` and prints what was found and where the report lies."""
    import interp
    from interp.report import causation

    metrics = session.metrics_of([options.metric])
    dataset = session.samples(options)
    lmm = session.load(options)
    folder = session.begin(options, session.arguments(options, lmm), lmm)
    folder.manifest["about"] = session.about_run(options, lmm, metrics)
    session.say(f"effects of {lmm.layers} x {lmm.heads} heads of {options.model} on {options.dataset}")
    chosen = {name: getattr(options, name) for name in CHOSEN}
    found = interp.cause(lmm, dataset, options.samples, **chosen, store=folder)
    sets = found.manifest["sets"]
    with session.finishing(folder):
        session.keep(folder, causation, found.tables(), session.skips(found.skipped), sets=sets)
