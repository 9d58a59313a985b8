"""The notebooks run from the first cell to the last, on the shipped model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from interp.plugins import data_folder

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_reader_can_run_every_cell(path):
    nbformat = pytest.importorskip("nbformat", reason="install the extra: notebooks")
    client = pytest.importorskip("nbclient", reason="install the extra: notebooks")
    there = {place.name for place in data_folder().iterdir()} | {"mini-llava"}  # what every notebook may count on
    missing = set(re.findall(r"mini-\w+", path.read_text())) - there
    if missing:
        pytest.skip(f"{', '.join(sorted(missing))} does not ship; train it with the script in analyses/")
    notebook = nbformat.read(path, as_version=4)
    client.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    figures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert figures, "a notebook that tells a story shows a picture"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    assert '"output_type"' not in path.read_text(), "clear the outputs before committing: they go stale and weigh much"
