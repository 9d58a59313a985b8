"""Scores attend-and-segment on a data set with the benchmarks' own measures: gcg (AP50, mIoU, mask recall, METEOR,
CIDEr), instances (COCO's AP, PAcc), referring (cIoU, gIoU, precision and box accuracy at 0.5), narrative (average
recall). Writes samples.parquet, phrases.parquet, predictions.json, summary.csv, .json and report.html. Killed at any
moment, the same command goes on where it was and ends with the same numbers."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp import plugins
from interp.commands import _masks, _options, _parts, _values
from interp.commands import _session as session

if TYPE_CHECKING:
    from interp.report.run import Run

HELP = "score masks on a data set as the benchmarks do"
CHOSEN = ("answers", "query", "weighting", "normalise", "samples", "batch", "max_new_tokens")
"""Options that `interp.evaluation.study.collect` takes under the same names."""


def options(sub: argparse.ArgumentParser) -> None:
    """The command's options."""
    sub.add_argument(
        "task", metavar="TASK", choices=("gcg", "instances", "referring", "narrative"), help="what to score"
    )
    _options.model_and_data(sub)
    sub.add_argument(
        "--samples", type=_values.positive, metavar="N", help="the data set's first N samples (default: all)"
    )
    sub.add_argument("--split", help="of the data set (default: the data set's own, such as val)")
    sub.add_argument("--root", metavar="PATH", help="where the data lie, for data sets that are read from disk")
    sub.add_argument(
        "--answers", choices=("reference", "generated"), help="whose answers (default: gcg, instances: the model's)"
    )
    _masks.options(sub)
    _options.normalise(sub)
    _options.row(sub)
    sub.add_argument(
        "--encoder", metavar="E", help="gcg: a BERT's folder or hub id, or words (default: bert-base-uncased)"
    )
    sub.add_argument(
        "--predictions", metavar="P", help="score these in place of the model's: gcg: a folder, else a file"
    )
    sub.add_argument(
        "--max-new-tokens", type=_values.positive, default=128, metavar="N", help="of an answer (default: 128)"
    )
    sub.add_argument("--seed", type=_values.seed, default=0, help="of the intervals (default: 0)")
    sub.add_argument("--batch", type=_values.positive, default=8, metavar="N", help="samples at a time (default: 8)")
    _parts.options(sub)
    _options.shared(sub)


@_parts.in_parts
def run(options: argparse.Namespace) -> None:
    """Scores a model, or the predictions in files, into ``--out`` and prints the measures."""
    from interp.evaluation.study import evaluate
    from interp.report import evaluation

    dataset = _dataset(options)
    how = _encoder(options)
    if options.predictions is not None:
        folder, records, skipped = _from_files(options, dataset)
    else:
        folder, records, skipped = _from_model(options, dataset)
    result = evaluate(options.task, records, how, options.seed)
    with session.finishing(folder):
        evaluation.keep(folder, options.task, result, records, skipped, dataset)


def _dataset(options: argparse.Namespace) -> Iterable[Any]:
    """The data set; where it can tell instances apart and marks crowds, the task instances gets them."""
    known = inspect.signature(plugins.get("datasets", options.dataset).load).parameters
    extra = {"apart": True, "crowd": True} if options.task == "instances" and "apart" in known else {}
    return session.samples(options, **extra)


def _encoder(options: argparse.Namespace) -> Any:
    """The text encoder of mask recall, or the reason why there is none. One that was asked for must be there."""
    from interp.evaluation.encoders import EncoderMissing, encoder

    if options.task != "gcg":
        if options.encoder:
            raise ValueError(f"--encoder is of the task gcg, which compares phrases; leave it out for {options.task}")
        return "not asked for"
    try:
        return encoder(options.encoder or "bert-base-uncased", options.device)
    except EncoderMissing as error:
        if options.encoder:
            raise
        session.say(f"mask recall will be left out: {error}")
        return str(error)


def _from_model(options: argparse.Namespace, dataset: Iterable[Any]) -> tuple[Run, Any, Any]:
    import interp
    from interp.evaluation.study import collect
    from interp.segmentation.method import method_of
    from interp.segmenters._load import default_segmenter

    chosen = _masks.method_options(options)
    method = method_of(options.preset, **chosen)
    name = options.segmenter or default_segmenter()
    segmenter = interp.load_segmenter(name, options.checkpoint, options.device)
    lmm = session.load(options)
    _masks.check_heads(method, lmm)
    settings = {
        **session.arguments(options, lmm),
        "segmenter": name,
        "segmenter_weights": _masks.weights_of(segmenter),
        "heads": [[*h] for h in method.heads] if not isinstance(method.heads, str) else method.heads,
        "encoder": options.encoder or "bert-base-uncased",
    }
    run = session.begin(options, settings, lmm)
    session.say(f"{options.task}: {options.model} on {options.dataset}, masks by {name}")
    how = {key: getattr(options, key) for key in CHOSEN}
    found = collect(lmm, segmenter, dataset, options.task, method=method, **how, store=run)
    return run, found.records, found.skipped


def _from_files(options: argparse.Namespace, dataset: Any) -> tuple[Run, Any, Any]:
    """The predictions in ``--predictions``: a folder for gcg, a file of COCO's results for the others."""
    from interp.evaluation import predictions

    path = Path(options.predictions).expanduser()
    if options.task == "gcg":
        records, skipped = predictions.read_gcg(path, dataset)
    elif options.task == "instances" and hasattr(dataset, "categories"):
        records, skipped = predictions.read_coco(path, dataset, dict(dataset.categories))
    elif options.task in ("referring", "narrative"):
        records, skipped = predictions.read_results(path, dataset)
    else:
        raise ValueError(
            "--predictions can be scored for gcg (a folder of the released format), for referring and narrative (a "
            f"file of results with sample_id) and for instances on coco (a results file), not for {options.task} on "
            f"{options.dataset}; leave it out to let the model answer"
        )
    run = session.begin(options, session.given(options), None, weights="none: from files")
    return run, records, skipped
