"""Files of an evaluation: its rows, a summary, and the predictions, each written whole."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from interp.evaluation.result import Record
from interp.evaluation.tables import Evaluated
from interp.report import evaluation_page
from interp.report.run import Run
from interp.types import Sample, Skip
from interp.work.files import write_bytes


def keep(
    run: Run,
    task: str,
    result: Evaluated,
    records: Sequence[Record],
    skipped: Sequence[Skip],
    dataset: Iterable[Sample | Skip] = (),
) -> None:
    """``samples.parquet``, ``phrases.parquet``, ``predictions.json`` (COCO's results format), ``summary.csv``,
    ``summary.json`` and ``report.html`` with pictures from the ``dataset``, each written whole; the same bytes after a
    restart."""
    run.write_table("samples", result.samples)
    run.write_table("phrases", result.phrases)
    write_bytes(run.folder / "predictions.json", _text(_predictions(records)))
    write_bytes(run.folder / "summary.csv", result.measures.to_csv(index=False).encode())
    arguments = run.manifest["arguments"]
    summary = {
        "task": task,
        "model": arguments["model"],
        "dataset": arguments["dataset"],
        "samples": len(records),
        "failed": sum(r.failed is not None for r in records),
        "skipped": len(skipped) - sum(r.failed is not None for r in records),
        "left_out": len(getattr(dataset, "left_out", ())),
        "measures": {row["measure"]: _plain(row) for row in result.measures.to_dict("records")},
    }
    write_bytes(run.folder / "summary.json", _text(summary))
    run.manifest["left_out"] = dict(getattr(dataset, "left_out", {}))
    evaluation_page.draw(run, records, result.samples, dataset)
    run.finish([{"sample_id": skip.sample_id, "reason": skip.reason} for skip in skipped])
    print(table(result.measures))
    print(f"{summary['samples']} samples scored, {summary['failed']} of them misses, {summary['skipped']} skipped")
    print(f"report:  {evaluation_page.page(run, result.measures)}")
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


def _predictions(records: Sequence[Record]) -> list[dict[str, Any]]:
    """COCO's results format with the phrase and the point beside it; all of category 1: phrases are no categories."""
    return [
        {
            "image_id": r.key,
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
