"""What every column of every table means: the one place where it stands.

A table that gets a new column gets a line here, in the file of its command, or in `shared` where tables of several
commands have it: `shared.STATISTICS` is what `interp.statistics.summary.statistics` adds to heads and reductions alike.
``tests/report/test_columns.py`` runs the commands and names columns without a line, lines without a column, and values
outside their range. ``make docs`` writes the page "tables" from it.
"""

from __future__ import annotations

from interp.report.columns.causation import EFFECTS
from interp.report.columns.comparison import COMPARED
from interp.report.columns.emergence import EMERGED
from interp.report.columns.kinds import Column, Table, apart, matches
from interp.report.columns.masks import GCG, INSTANCES, NARRATIVE, REFERRING, SEGMENTED
from interp.report.columns.ranking import RANKED

__all__ = ["TABLES", "Column", "Table", "apart", "matches"]

TABLES: dict[str, dict[str, Table]] = {
    "rank": RANKED,
    "emerge": EMERGED,
    "compare": COMPARED,
    "effects": EFFECTS,
    "segment": SEGMENTED,
    "evaluate gcg": GCG,
    "evaluate instances": INSTANCES,
    "evaluate referring": REFERRING,
    "evaluate narrative": NARRATIVE,
}
"""Command -> file -> table."""
