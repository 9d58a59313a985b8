"""The public names: imported on first use, and seen by editors."""

from __future__ import annotations

import ast
from pathlib import Path

import interp


def test_editors_see_the_names_that_are_imported_on_first_use():
    tree = ast.parse(Path(interp.__file__).read_text())
    (block,) = (n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {}
    for line in block.body:
        assert isinstance(line, ast.ImportFrom) and all(a.asname == a.name for a in line.names)  # "as" makes it public
        seen |= {alias.name: line.module for alias in line.names}
    assert seen == interp._HOME


def test_every_name_is_where_it_is_said_to_be():
    for name in interp.__all__:
        assert getattr(interp, name).__name__ == name
