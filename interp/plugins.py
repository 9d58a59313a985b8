"""Folder + file name -> module. A plug-in's file name is its name on the command line; there is no central list.

A package of one's own adds some by entry points: group ``interp.KIND`` (``interp.metrics``, ...), name, and the module.
And where the shipped models lie. Nothing heavy is imported here: the command line reads it all before a command runs.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import os
import pkgutil
from importlib.metadata import entry_points
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
    return sorted({*_own(kind), *_added(kind)})


def get(kind: str, name: str) -> ModuleType:
    """The module ``interp.KIND.NAME``, or the one that an installed package adds under that name.

    Raises:
        UnknownName: with the names that exist and the nearest one.
        ImportError: an added one cannot be imported; with its package.
    """
    return importlib.import_module(place(kind, name))


def place(kind: str, name: str) -> str:
    """The dotted name of the plug-in's module; it is not imported. A file of this package comes before an added one.

    Raises:
        UnknownName: with the names that exist and the nearest one.
    """
    check(kind, name)
    return f"interp.{kind}.{name}" if name in _own(kind) else _added(kind)[name]


def _own(kind: str) -> list[str]:
    package = importlib.import_module(f"interp.{kind}")
    return [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]


def _added(kind: str) -> dict[str, str]:
    """Names and modules of the plug-ins that installed packages add."""
    return {point.name: point.module for point in entry_points(group=f"interp.{kind}")}


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
    spec = find_spec(place(kind, name))
    source = Path(spec.origin).read_text() if spec and spec.origin else ""
    return ast.get_docstring(ast.parse(source)) or "(no docstring)"


def data_folder() -> Path:
    """Where the shipped models and images lie: ``data/`` of the repository, or the folder that INTERP_DATA names."""
    return Path(os.environ.get("INTERP_DATA") or Path(interp.__file__).parent.parent / "data")


def to_get(what: str) -> str:
    """How to get something of ``data/``, which a clone has and an installed package has not.

    >>> to_get("mini-llava").split(":")[0]
    'mini-llava lies in data/ of the repository, not in the installed package'
    """
    return (
        f"{what} lies in data/ of the repository, not in the installed package: clone it and run there, or let "
        f"INTERP_DATA name a clone's data/ (now {data_folder()})"
    )


def shipped() -> list[str]:
    """Names of the shipped models: the folders of ``data/`` with a ``base/config.json``."""
    return sorted(path.parent.parent.name for path in data_folder().glob("*/base/config.json"))
