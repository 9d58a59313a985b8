"""The notebooks as pages with their outputs: executed here, since they are kept without."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import HTMLExporter

ROOT = Path(__file__).parent.parent
FIGURES = {
    "01_which_heads_ground": "heads",
    "02_llava_or_difflmm": "claims",
    "03_emergence": "emergence",
    "04_attend_and_segment": "segment_heads",
    "05_cause": "cause",
}
"""What stands for a notebook that was not executed: a picture in data/figures."""


@dataclass(frozen=True)
class Story:
    """One notebook: its title, its first paragraph, its body as HTML, and its pictures (PNG)."""

    name: str
    title: str
    about: str
    body: str
    pictures: list[bytes]
    executed: bool


def stories(cache: Path, execute: bool = True, timeout: int = 1200) -> list[Story]:
    """The notebooks in order. What was executed is kept in ``cache`` until a notebook or the package changes."""
    return [_story(path, cache, execute, timeout) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]


def _story(path: Path, cache: Path, execute: bool, timeout: int) -> Story:
    notebook = _executed(path, cache, timeout) if execute else nbformat.read(path, as_version=4)
    first = notebook.cells[0].source
    title, _, rest = first.partition("\n")
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(notebook)
    pictures = _pictures(notebook)
    figure = ROOT / "data" / "figures" / f"{FIGURES.get(path.stem, path.stem)}.png"
    if not pictures and figure.exists():
        pictures = [figure.read_bytes()]
    about = re.sub(r"[*`]", "", rest.strip().split("\n\n")[0])
    return Story(path.stem, title.lstrip("# "), about, body, pictures, execute)


def _executed(path: Path, cache: Path, timeout: int) -> Any:
    """The notebook with its outputs, from the cache where nothing has changed."""
    from nbclient import NotebookClient

    kept = cache / f"{path.stem}-{_digest(path)}.ipynb"
    if kept.exists():
        return nbformat.read(kept, as_version=4)
    print(f"executing {path.name}", flush=True)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": str(path.parent)}}).execute()
    cache.mkdir(parents=True, exist_ok=True)
    for old in cache.glob(f"{path.stem}-*.ipynb"):
        old.unlink()
    nbformat.write(notebook, kept)
    return notebook


def _digest(path: Path) -> str:
    """Of the notebook and of every file of the package: its outputs depend on both."""
    files = [path, *sorted((ROOT / "interp").rglob("*.py"))]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _pictures(notebook: Any) -> list[bytes]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [base64.b64decode(o["data"]["image/png"]) for o in outputs if "image/png" in o.get("data", {})]
