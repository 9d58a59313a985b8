"""A run's folder -> the result that it holds, from its tables alone: no model, no data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from interp.answer.stored import load
from interp.causation.result import Cause
from interp.comparison.result import Comparison
from interp.emergence.result import Emergence
from interp.handle import OfTables
from interp.ranking.result import Ranking
from interp.report import comparison, emergence, segmentation
from interp.report.ranking import TABLES
from interp.report.run import Run
from interp.report.scores import NAME, Scores
from interp.types import Capture, Segmentation, Skip

CAPTURE = "capture.safetensors"


class NothingToOpen(ValueError):
    """The folder holds a run that is not finished, or none whose result is kept as tables.

    What to do: run the command again, it goes on from what is finished; or name another folder.
    """


@dataclass(frozen=True, eq=False, repr=False)
class Opened(OfTables):
    """The tables of a run that has no type of its own, such as one of ``evaluate``."""

    found: dict[str, pd.DataFrame]
    manifest: dict[str, Any] = field(default_factory=dict)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table by its name."""
        return self.found

    def to_frame(self, table: str = "") -> pd.DataFrame:
        """One of the tables; by default the first."""
        return self[table or next(iter(self.found))]


def open(folder: str | Path) -> Ranking | Comparison | Emergence | Cause | Capture | Segmentation | Opened:
    """What `interp rank`, ``compare``, ``emerge``, ``effects``, ``capture`` or ``segment`` found, to look at, to draw
    anew and to go on from; the `Opened` tables of another run. Scores of phrases are read when they are asked for.

    Raises:
        FileNotFoundError: the folder holds no run.
        NothingToOpen: it has no results yet.
    """
    run = Run.read(Path(folder).expanduser())
    if (run.folder / CAPTURE).is_file():
        return load(run.folder / CAPTURE)
    if (run.folder / "masks.npz").is_file() and "segmentation" in run.manifest:
        return segmentation.segmented(run)[1]
    found = {path.stem: run.read_table(path.stem) for path in sorted(run.folder.glob("*.parquet")) if path.name != NAME}
    if not found or run.manifest.get("finished") is None:
        raise NothingToOpen(f"{folder} holds no finished tables; run the same command again, it goes on from there")
    skipped = tuple(Skip(skip["sample_id"], skip["reason"]) for skip in run.manifest["skipped"])
    if set(TABLES) <= set(found):
        return _ranking(run, found, skipped)
    if "head_differences" in found:
        named = tuple((skip.sample_id.partition(": ")[0], skip) for skip in skipped)
        tables = {name: run.read_table(name) for name in comparison.FILES}
        return Comparison(**tables, skipped=named, manifest=run.manifest["comparison"])
    if "onsets" in found:
        return Emergence(**{name: found[file] for name, file in emergence.TABLES.items()})
    if "edges" in found:
        manifest = {"metric": next(iter(run.manifest["about"]["metrics"])), "sets": run.manifest["sets"]}
        return Cause(**found, skipped=skipped, manifest=manifest)
    return Opened(found, run.manifest)


def _ranking(run: Run, found: dict[str, pd.DataFrame], skipped: tuple[Skip, ...]) -> Ranking:
    about = run.manifest["about"]
    higher = {name: bool(own["higher_is_better"]) for name, own in about["metrics"].items()}
    known = {**run.manifest["arguments"], **run.manifest["counts"], "headline": about["headline"], "by": about["by"]}
    manifest = {**known, **run.manifest.get("ranking", {})}
    scores = Scores(run.folder / NAME, higher)
    return Ranking(scores=scores, **{name: found[name] for name in TABLES}, skipped=skipped, manifest=manifest)
