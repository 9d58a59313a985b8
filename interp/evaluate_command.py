"""The command `interp evaluate`: a task, a model and a data set in; rows, a summary and the predictions out."""

from __future__ import annotations

import inspect
import json
import math
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import interp
from interp import commands, evaluating, plugins, storage
from interp.evaluation import gcg, instances, narrative, referring, results
from interp.evaluation.encoders import EncoderMissing, encoder
from interp.evaluation.records import Record
from interp.evaluation.summary import Evaluated
from interp.segment_command import method_options
from interp.segmentation import method_of
from interp.segmenter import default_segmenter
from interp.types import Sample, Skip


def run(options: Namespace) -> None:
    """Scores a model, or the predictions in files, into ``--out`` and prints the measures."""
    dataset = _dataset(options)
    how = _encoder(options)
    if options.predictions is not None:
        folder, records, skipped = _from_files(options, dataset)
    else:
        folder, records, skipped = _from_model(options, dataset)
    keep(folder, options.task, evaluate(options.task, records, how, options.seed), records, skipped)


def evaluate(task: str, records: Sequence[Record], encode: Any = "no text encoder", seed: int = 0) -> Evaluated:
    """The task's measures, with their rows."""
    if task == "gcg":
        return gcg.evaluate(records, encoder=encode, seed=seed)
    return {"instances": instances, "referring": referring, "narrative": narrative}[task].evaluate(records, seed=seed)


def keep(run: storage.Run, task: str, result: Evaluated, records: Sequence[Record], skipped: Sequence[Skip]) -> None:
    """``samples.parquet``, ``phrases.parquet``, ``predictions.json`` (COCO's results format), ``summary.csv`` and
    ``summary.json``, each written whole; the same bytes after a restart."""
    run.write_table("samples", result.samples)
    run.write_table("phrases", result.phrases)
    storage.write_bytes(run.folder / "predictions.json", _text(_predictions(records)))
    storage.write_bytes(run.folder / "summary.csv", result.measures.to_csv(index=False).encode())
    arguments = run.manifest["arguments"]
    summary = {
        "task": task,
        "model": arguments["model"],
        "dataset": arguments["dataset"],
        "samples": len(records),
        "failed": sum(r.failed is not None for r in records),
        "skipped": len(skipped) - sum(r.failed is not None for r in records),
        "measures": {row["measure"]: _plain(row) for row in result.measures.to_dict("records")},
    }
    storage.write_bytes(run.folder / "summary.json", _text(summary))
    run.finish([{"sample_id": skip.sample_id, "reason": skip.reason} for skip in skipped])
    print(table(result.measures))
    print(f"{summary['samples']} samples scored, {summary['failed']} of them misses, {summary['skipped']} skipped")
    print(f"summary: {run.folder}/summary.json, summary.csv, samples.parquet, phrases.parquet, predictions.json")


def table(measures: pd.DataFrame) -> str:
    """The measures as aligned text: value, interval, how many, note."""
    lines = []
    for row in measures.to_dict("records"):
        value = "–" if math.isnan(row["value"]) else f"{row['value']:.3f}"
        interval = "" if math.isnan(row["low"]) else f"{row['low']:.3f}..{row['high']:.3f}"
        about = f"{row['measure']:<26}{value:>7}  {interval:<14}  {row['n']} {row['unit']}  {row['note']}"
        lines.append(about.rstrip())
    return "\n".join(lines)


def _dataset(options: Namespace) -> Iterable[Sample | Skip]:
    """The data set; where it can tell instances apart and marks crowds, the task instances gets them."""
    source = plugins.get("datasets", options.dataset)
    known = inspect.signature(source.load).parameters
    extra = {"apart": True, "crowd": True} if options.task == "instances" and "apart" in known else {}
    split = {"split": options.split} if options.split else {}

    def start() -> Iterable[Sample | Skip]:
        return source.load(root=options.root, samples=options.samples, **split, **extra)

    found = start()  # a wrong --root or --split shows here, before a model is loaded
    return commands.Again(start) if iter(found) is found else found


def _encoder(options: Namespace) -> Any:
    """The text encoder of mask recall, or the reason why there is none. One that was asked for must be there."""
    if options.task != "gcg":
        return "not asked for"
    try:
        return encoder(options.encoder or "bert-base-uncased", options.device)
    except EncoderMissing as error:
        if options.encoder:
            raise
        print(f"mask recall will be left out: {error}", file=sys.stderr)
        return str(error)


def _from_model(options: Namespace, dataset: Iterable[Sample | Skip]) -> tuple[storage.Run, Any, Any]:
    chosen = method_options(options)
    method = method_of(options.preset, **chosen)
    name = options.segmenter or default_segmenter()
    segmenter = interp.load_segmenter(name, options.checkpoint, options.device)
    lmm = commands._load(options)
    settings = {
        **commands.arguments(options, lmm),
        "segmenter": name,
        "segmenter_weights": storage.hash_weights(segmenter.model) if hasattr(segmenter, "model") else None,
        "heads": [[*h] for h in method.heads] if not isinstance(method.heads, str) else method.heads,
        "encoder": options.encoder or "bert-base-uncased",
    }
    run = storage.Run.open(
        options.out, settings, weights=storage.hash_weights(lmm.model), seed=options.seed, force=options.force
    )
    print(f"{options.task}: {options.model} on {options.dataset}, masks by {name}", file=sys.stderr)
    found = evaluating.collect(
        lmm,
        segmenter,
        dataset,
        options.task,
        method=method,
        answers=options.answers,
        query=options.query,
        weighting=options.weighting,
        normalise=options.normalise,
        samples=options.samples,
        batch=options.batch,
        max_new_tokens=options.max_new_tokens,
        store=run,
    )
    return run, found.records, found.skipped


def _from_files(options: Namespace, dataset: Any) -> tuple[storage.Run, Any, Any]:
    """The predictions in ``--predictions``: a folder for gcg, COCO's results file for instances."""
    path = Path(options.predictions).expanduser()
    if options.task == "gcg":
        records, skipped = results.read_gcg(path, dataset)
    elif options.task == "instances" and hasattr(dataset, "categories"):
        records, skipped = results.read_coco(path, dataset, dict(dataset.categories))
    else:
        raise ValueError(
            "--predictions can be scored for gcg (a folder of the released format) and for instances on coco (a "
            f"results file), not for {options.task} on {options.dataset}; leave it out to let the model answer"
        )
    arguments = {k: v for k, v in vars(options).items() if k not in ("out", "force", "debug")}
    run = storage.Run.open(options.out, arguments, weights="none: from files", seed=options.seed, force=options.force)
    return run, records, skipped


def _predictions(records: Sequence[Record]) -> list[dict[str, Any]]:
    """COCO's results format with the phrase and the point beside it; all of category 1: phrases are no categories."""
    return [
        {
            "image_id": int(r.image_id) if r.image_id.isascii() and r.image_id.isdecimal() else r.image_id,
            "category_id": 1,
            "segmentation": f.mask,
            "score": 1.0 if f.score is None else f.score,
            "noun_phrase": f.phrase.text,
            "sample_id": r.sample_id,
            "point": None if f.point is None else [int(p) for p in f.point],
        }
        for r in records
        for f in r.found
    ]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The row for JSON, which has no NaN."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items() if k != "measure"}


def _text(document: Any) -> bytes:
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
