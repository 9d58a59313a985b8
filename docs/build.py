"""Writes the documentation into site/: the API by rooms, the notebooks, the tables' columns, the errors. ``make docs``.

Everything is made from the code: docstrings, `interp.report.columns`, the classes of errors. Notebooks are executed,
which takes minutes the first time; ``--skip-notebooks`` shows their code and the pictures in data/figures.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import re
import shutil
import sys
import time
import tomllib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

import interp
from interp.plugins import KINDS
from interp.report.columns import TABLES

ROOT = Path(__file__).parent.parent
PAGES = {
    "index.html": "overview",
    "api.html": "API",
    "notebooks.html": "notebooks",
    "tables.html": "tables",
    "errors.html": "errors",
}


@dataclass(frozen=True)
class Error:
    """One class of error: its name, module, bases, when it comes, and what to do."""

    name: str
    module: str
    bases: str
    when: str
    remedy: str


def main() -> None:
    """Builds the site."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, default=ROOT / "site")
    options.add_argument("--skip-notebooks", action="store_true", help="do not execute the notebooks")
    asked = options.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for build in (overview, api, tables, errors_page, notebooks):
        start = time.monotonic()
        build(asked)
        print(f"{build.__name__:<12} {time.monotonic() - start:6.1f} s", flush=True)
    print(f"docs: {asked.out}/index.html")


def overview(asked: argparse.Namespace) -> None:
    """index.html: where to go, and the public names in one list."""
    names = [(name, home, _first(getattr(interp, name).__doc__)) for name, home in sorted(interp._HOME.items())]
    _write(asked.out, "index.html", names=names, about=interp.__doc__)
    (asked.out / "figures").mkdir(exist_ok=True)
    shutil.copy(ROOT / "data" / "figures" / "heads.png", asked.out / "figures" / "heads.png")


def api(asked: argparse.Namespace) -> None:
    """api.html, the rooms from the command line down to the types, and a page of pdoc for every module."""
    import pdoc
    import pdoc.render

    names = modules()
    vars(interp).update({name: getattr(interp, name) for name in interp.__all__})  # pdoc looks for names that are there
    pdoc.render.configure(docformat="google", template_directory=Path(__file__).parent / "templates" / "api")
    with warnings.catch_warnings():
        # jaxtyping's axis strings in inherited classes are shown as they stand; packages bring their files twice
        for told in ("Error parsing type annotation", "The module specification"):
            warnings.filterwarnings("ignore", told, UserWarning)
        pdoc.pdoc(*names, output_directory=asked.out / "api")
    _write(asked.out, "api.html", floors=[[_room(name, names) for name in floor] for floor in floors()])


def floors() -> list[list[str]]:
    """The rooms by floors, as the import rules of pyproject.toml have them."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(rule["layers"] for rule in rules if rule["type"] == "layers")
    return [[room.strip() for room in layer.split("|")] for layer in layers]


def modules() -> list[str]:
    """Every module of the package; of those with an underscore the ones that hold a public name."""
    found = [m.name for m in pkgutil.walk_packages(interp.__path__, "interp.")]
    public = {*interp._HOME.values(), "interp.models._overlay", "interp.models._hf"}
    return ["interp", *(name for name in found if "._" not in name or name in public)]


def _room(room: str, names: list[str]) -> dict[str, Any]:
    inside = [name for name in names if name.startswith(f"{room}.") and name.count(".") == room.count(".") + 1]
    doc = inspect.getdoc(importlib.import_module(room)) or ""
    return {
        "name": room,
        "about": doc.split("\n\n"),
        "plugins": room.removeprefix("interp.") in (*KINDS, "commands"),
        "files": [(name, _first(importlib.import_module(name).__doc__)) for name in inside],
    }


def tables(asked: argparse.Namespace) -> None:
    """tables.html: every column of every table of every command."""
    _write(asked.out, "tables.html", commands=TABLES)


def errors_page(asked: argparse.Namespace) -> None:
    """errors.html: every class of error, when it comes and what to do."""
    _write(asked.out, "errors.html", errors=errors())


def errors() -> list[Error]:
    """The public classes of errors in the package, by name."""
    found = {}
    for info in pkgutil.walk_packages(interp.__path__, "interp."):
        for name, value in vars(importlib.import_module(info.name)).items():
            own = inspect.isclass(value) and value.__module__.startswith("interp.")
            if own and issubclass(value, Exception) and not name.startswith("_"):
                found[value] = _error(value)
    return sorted(found.values(), key=lambda error: error.name)


def _error(kind: type[Exception]) -> Error:
    when, _, remedy = (inspect.getdoc(kind) or "").partition("What to do: ")
    bases = ", ".join(base.__name__ for base in kind.__bases__)
    return Error(kind.__name__, kind.__module__, bases, when.strip(), " ".join(remedy.split()))


def notebooks(asked: argparse.Namespace) -> None:
    """notebooks.html, a gallery, and a page for each notebook."""
    import gallery
    from pygments.formatters import HtmlFormatter

    found = gallery.stories(asked.out / ".executed", execute=not asked.skip_notebooks)
    folder = asked.out / "notebooks"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shown = []
    for story in found:
        files = [f"{story.name}-{i}.png" for i in range(len(story.pictures))]
        for file, picture in zip(files, story.pictures, strict=True):
            (folder / file).write_bytes(picture)
        shown.append((story, files))
        style = HtmlFormatter(style="default").get_style_defs(".highlight")
        _write(folder, f"{story.name}.html", "notebook.html", root="../", story=story, style=Markup(style))
    _write(asked.out, "notebooks.html", stories=shown)


def _write(folder: Path, file: str, template: str = "", **values: Any) -> None:
    """A page from the template of its name."""
    found = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=found, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["code"] = code
    here = {"pages": PAGES, "here": file, "root": "", "version": interp.__version__}
    page = environment.get_template(f"{template or file}.jinja").render(**here | values)
    (folder / file).write_text(page)


def code(text: str) -> Markup:
    """The text with what stands between backticks as code; lines run on."""
    return Markup(re.sub(r"``?([^`]+?)``?", r"<code>\1</code>", str(escape(" ".join(text.split())))))


def _first(doc: str | None) -> str:
    """A docstring's first sentence."""
    text = " ".join((doc or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", text)[0]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
