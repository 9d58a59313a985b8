"""The documentation's pages that are made from the code; the API and the notebooks need the extra ``docs``."""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from interp.report.columns import TABLES


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build_docs", Path(__file__).parents[1] / "docs" / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_docs"] = module
    spec.loader.exec_module(module)
    return module


def test_every_error_says_when_it_comes_and_what_to_do(build):
    errors = build.errors()
    assert {"UnknownName", "RunConflict", "NothingToRank", "CaptureError"} <= {error.name for error in errors}
    for error in errors:
        assert error.when and error.remedy, f"the docstring of {error.name} needs a paragraph 'What to do: ...'"


def test_the_page_of_tables_has_every_column_and_asks_no_other_host(build, tmp_path):
    build.tables(argparse.Namespace(out=tmp_path))
    page = (tmp_path / "tables.html").read_text()
    for tables in TABLES.values():
        for table in tables.values():
            assert all(f"<code>{column}</code>" in page for column in table.columns)
    assert not re.findall(r"(?:src|href)=\"https?://", page)


def test_every_room_of_the_import_rules_is_on_the_page_of_the_api(build):
    rooms = [room for floor in build.floors() for room in floor]
    names = build.modules()
    assert set(rooms) <= set(names)
    listed = {name for room in rooms for name in names if name == room or name.startswith(f"{room}.")}
    assert set(names) - listed == {"interp"}, "a new room needs a floor in pyproject.toml's import rules"
