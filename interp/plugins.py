"""Folder + file name -> module. A plug-in's file name is its name on the command line; there is no central list."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

KINDS = ("models", "datasets", "metrics", "segmenters")


class UnknownName(LookupError):
    """No plug-in of that name; the message lists those that exist."""


def names(kind: str) -> list[str]:
    """Sorted names of the plug-ins of one kind (``models``, ``datasets``, ``metrics``, ``segmenters``)."""
    if kind not in KINDS:
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
    """
    known = names(kind)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise UnknownName(f"no {kind.removesuffix('s')} called {name!r}{hint} There are: {', '.join(known)}")
