"""The figure of emergence from saved runs: grounding of the leading heads and caption loss, one column a series.

    python analyses/emergence.py runs/emerge-llava [runs/emerge-difflmm] --metric pointing_game --out figure.pdf

Each run folder is one that `interp emerge` has written. The axis of steps and the scales are shared.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from interp.plots.emergence import side_by_side
from interp.report.emergence import TABLES
from interp.report.run import Run


def main() -> None:
    """Writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--metric", default="pointing_game")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    series = {}
    for run in map(Run.read, a.runs):
        name = Path(run.manifest["arguments"]["series"]).name
        series[name] = tuple(run.read_table(TABLES[table]) for table in ("heads", "onsets", "steps"))
    a.out.parent.mkdir(parents=True, exist_ok=True)
    side_by_side(series, a.metric).savefig(a.out)
    print(a.out)


if __name__ == "__main__":
    main()
