"""What is said of a column and of a table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

SHARE, COUNT, ANY, P, TAU = "0..1", "0..∞", "-∞..∞", "0..1", "-1..1"
METRICS = "the metric's"
"""In place of a unit and a range: those of the metric or measure that the row is about."""


class Column(NamedTuple):
    """What a column holds, its unit, and its range ``low..high``; "" where it has none, as texts have."""

    meaning: str
    unit: str = ""
    range: str = ""


@dataclass(frozen=True)
class Table:
    """One table of one command: its file, what a row is, and its columns. METRIC in a name stands for each metric."""

    rows: str
    columns: dict[str, Column]
    file: str = "parquet"
    names: dict[str, str] = field(default_factory=dict)
    """Values of a column that are names of something, with what they mean."""


def apart(table: Table, columns: Iterable[str]) -> tuple[list[str], list[str]]:
    """Columns that are not described, and described ones that are not there.

    >>> apart(Table("a head", {"layer": Column("its layer"), "n_METRIC": Column("how many")}), ["n_nss", "depth"])
    (['depth'], ['layer'])
    """
    there = list(columns)
    found = {name: [c for c in there if matches(name, c)] for name in table.columns}
    known = {c for some in found.values() for c in some}
    return [c for c in there if c not in known], [name for name, some in found.items() if not some]


def matches(described: str, column: str) -> bool:
    """Whether a column goes by this name, in which METRIC stands for anything."""
    return re.fullmatch(re.escape(described).replace("METRIC", r"\w+"), column) is not None
