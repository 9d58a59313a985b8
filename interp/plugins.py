"""Folder + file name -> module. A plug-in's file name is its name on the command line; there is no central list.

And where the shipped models lie. Nothing heavy is imported here: the command line reads it all before a command runs.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import os
import pkgutil
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import interp

KINDS = ("models", "datasets", "metrics", "segmenters")
COMMANDS = "commands"
"""The folder of the command line's commands, which are found in the same way."""


class UnknownName(LookupError):
    """No model family, data set, metric, segmenter or command of that name.

    What to do: take one of those that the message lists (``interp list`` shows them all), or add a file of that name.
    """


def names(kind: str) -> list[str]:
    """Sorted names of the plug-ins of one of the ``KINDS``, or of the commands.

    >>> names("datasets")
    ['bound_scenes', 'coco', 'folder', 'gcg', 'narratives', 'refcoco', 'scenes']
    """
    if kind not in (*KINDS, COMMANDS):
        raise UnknownName(f"no plug-in kind {kind!r}; there are: {', '.join(KINDS)}")
    package = importlib.import_module(f"interp.{kind}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def get(kind: str, name: str) -> ModuleType:
    """The module ``interp.KIND.NAME``.

    Raises:
        UnknownName: with the names that exist and the nearest one.
    """
    check(kind, name)
    return importlib.import_module(f"interp.{kind}.{name}")


def check(kind: str, name: str) -> None:
    """Nothing, if there is such a plug-in; it is not imported.

    Raises:
        UnknownName: with the names that exist and the nearest one.

    >>> check("metrics", "pointing_gane")
    Traceback (most recent call last):
        ...
    interp.plugins.UnknownName: no metric called 'pointing_gane'; did you mean 'pointing_game'? There are: ...
    """
    known = names(kind)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise UnknownName(f"no {kind.removesuffix('s')} called {name!r}{hint} There are: {', '.join(known)}")


def about(kind: str, name: str) -> str:
    """The plug-in's docstring, read without importing it."""
    check(kind, name)
    spec = find_spec(f"interp.{kind}.{name}")
    source = Path(spec.origin).read_text() if spec and spec.origin else ""
    return ast.get_docstring(ast.parse(source)) or "(no docstring)"


def data_folder() -> Path:
    """Where the shipped models and images lie: ``data/`` of the repository, or the folder that INTERP_DATA names."""
    return Path(os.environ.get("INTERP_DATA") or Path(interp.__file__).parent.parent / "data")


def shipped() -> list[str]:
    """Names of the shipped models: the folders of ``data/`` with a ``base/config.json``."""
    return sorted(path.parent.parent.name for path in data_folder().glob("*/base/config.json"))
