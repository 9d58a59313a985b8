"""Draws the figures and the report of a finished run anew from its tables, for instance as PDF for a paper: --format
pdf,svg --width 3.3. No model and no data set is needed."""

from __future__ import annotations

import argparse
from typing import Any

from interp.commands import _options
from interp.commands import _session as session

HELP = "figures of a finished run anew, for instance as PDF; without a model"


def options(sub: argparse.ArgumentParser) -> None:
    """The command's options."""
    sub.add_argument("folder", metavar="DIR", help="the folder of a finished run")
    _options.figures(sub, "all")
    _options.drawn(sub)
    sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> None:
    """Writes ``figures/`` and ``report.html`` of the run and prints where they lie."""
    from interp.report.run import Run

    found = Run.read(options.folder)
    if found.manifest.get("finished") is None:
        raise ValueError(f"{options.folder} is not finished; run the same command again, it goes on from there")
    page = _page(found)
    session.draw_as(found, options)
    page.draw(found)
    print(f"figures: {found.folder / 'figures'}")
    print(f"report:  {page.page(found)}")


def _page(run: Any) -> Any:
    """The file of `interp.report` that draws this kind of run."""
    from interp.report import capture, causation, comparison, emergence, ranking, segmentation

    marks = {
        "localization.parquet": ranking,
        "head_differences.parquet": comparison,
        "onsets.parquet": emergence,
        "edges.parquet": causation,
        "capture.safetensors": capture,
        "masks.npz": segmentation,
    }
    for name, page in marks.items():
        if (run.folder / name).is_file():
            return page
    raise ValueError(f"{run.folder} has no figures that come from its tables; expected a run of {', '.join(_KINDS)}")


_KINDS = ("rank", "compare", "emerge", "effects", "capture", "segment")
