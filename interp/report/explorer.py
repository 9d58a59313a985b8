"""The explorer in a run's folder and in its report: kept as data, so that a report is written again without a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from markupsafe import Markup

from interp.explorer import page
from interp.explorer.contents import TooLarge
from interp.report.run import Run
from interp.work.files import write_bytes

FILE = "explorer.json"
LIMIT = 6_000_000
"""Bytes of maps that a report takes in."""


def keep(run: Run, contents: Mapping[str, Any] | None, key: str = "") -> None:
    """Writes the contents into the folder, under the key of what they were made from; None takes them away."""
    path = run.folder / FILE
    if contents is None:
        path.unlink(missing_ok=True)
        return
    write_bytes(path, json.dumps({**contents, "key": key}, allow_nan=False).encode())


def key_of(run: Run) -> str:
    """The key of the contents that are there; empty if there are none or they cannot be read."""
    return str((_read(run) or {}).get("key", ""))


def shown(run: Run) -> Markup:
    """The explorer as a part of the report; empty if the folder holds none."""
    contents = _read(run)
    return Markup(page.piece(contents)) if contents else Markup("")


def first_that_fits(attempts: Iterable[Callable[[], Any]]) -> Mapping[str, Any] | None:
    """The contents of the first explorer that is no larger than a report takes in; None if all are."""
    for attempt in attempts:
        try:
            return attempt().contents
        except TooLarge:
            continue
    return None


def _read(run: Run) -> dict[str, Any] | None:
    try:
        return json.loads((run.folder / FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
