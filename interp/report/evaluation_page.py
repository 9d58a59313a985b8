"""report.html of an evaluation: the measures, and pictures of the best, the median and the worst sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.evaluation.overlap import from_rle, pairwise_iou
from interp.evaluation.result import Record
from interp.plots.evaluated import beside
from interp.report import html
from interp.report.figures import save
from interp.report.run import Run
from interp.types import Sample, Skip

PLACES = ("best", "median", "worst")


def scores(records: Sequence[Record], samples: pd.DataFrame) -> dict[str, float]:
    """Sample id -> what it is ordered by, 0..1: its (m)IoU; where the task has none, the mean over its true masks of
    the best IoU that a found one has. Samples without a true mask are left out."""
    column = next((name for name in ("miou", "iou") if name in samples), None)
    known = dict(zip(samples["sample_id"], samples[column], strict=True)) if column else {}
    found = {r.sample_id: float(known[r.sample_id]) if known else _best_iou(r) for r in records if r.truths}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def chosen(scored: dict[str, float]) -> dict[str, str]:
    """``best``, ``median``, ``worst`` -> sample id; of equal scores the first. Fewer where there are fewer samples."""
    ordered = sorted(scored, key=lambda name: -scored[name])
    places = {"best": 0, "worst": len(ordered) - 1, "median": len(ordered) // 2}
    taken: dict[int, str] = {}
    for name, place in places.items():
        if ordered:
            taken.setdefault(place, name)
    return {name: ordered[place] for place, name in sorted(taken.items())}


def draw(run: Run, records: Sequence[Record], samples: pd.DataFrame, dataset: Iterable[Sample | Skip]) -> None:
    """``figures/best.png``, ``median.png`` and ``worst.png``, and what they show in the manifest."""
    scored = scores(records, samples)
    wanted = {name: place for place, name in chosen(scored).items()}
    by_id = {r.sample_id: r for r in records}
    for place in PLACES:  # none of an earlier state of the data may stay
        (run.folder / "figures" / f"{place}.png").unlink(missing_ok=True)
    shown = {}
    for sample in dataset if wanted else ():
        if isinstance(sample, Sample) and sample.id in wanted:
            place, one = wanted.pop(sample.id), by_id[sample.id]
            save(run, place, _figure(sample.image, one))
            shown[place] = {"sample_id": one.sample_id, "score": scored[one.sample_id], "failed": one.failed or ""}
        if not wanted:
            break
    run.manifest["pictures"] = {place: shown[place] for place in PLACES if place in shown}


def page(run: Run, measures: pd.DataFrame) -> Path:
    """The path of the written report."""
    rows = [
        {
            "name": html.words(row["measure"]),
            "value": html.number(row["value"]),
            "interval": html.interval(row) if np.isfinite(row["low"]) else "–",
            "n": f"{row['n']} {row['unit']}",
            "note": row["note"],
        }
        for row in measures.to_dict("records")
    ]
    pictures = [
        {"place": place, "picture": html.picture(run, place), "score": html.number(shown["score"]), **_plain(shown)}
        for place, shown in run.manifest["pictures"].items()
    ]
    text = html.template("evaluation").render(
        manifest=run.manifest, measures=rows, pictures=pictures, skipped=html.skipped_rows(run)
    )
    return html.write(run, text)


def _plain(shown: dict[str, Any]) -> dict[str, str]:
    return {"sample_id": shown["sample_id"], "failed": shown["failed"]}


def _best_iou(one: Record) -> float:
    iou = np.nan_to_num(pairwise_iou([f.mask for f in one.found], [t.mask for t in one.truths]))
    return float(iou.max(0, initial=0.0).mean())


def _figure(image: np.ndarray, one: Record) -> Any:
    true = [(t.phrase, from_rle(t.mask, one.size, "a true mask")) for t in one.truths]
    found = [(f.phrase.text, from_rle(f.mask, one.size, "a found mask")) for f in one.found]
    return beside(image, true, found, one.answer.strip())
