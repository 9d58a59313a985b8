"""How a result behaves in a user's hands: one line where it is printed, a small picture in a notebook, equality by
value, and phrases or tables by their names.

This lies below everything. What pictures and files need lies above and is reached when it is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

PICTURES = "interp.plots.notebook"
"""The one file that knows a picture for each kind of result."""


def reach(module: str, name: str) -> Any:
    """What the module of a higher floor calls so; it is imported now."""
    return getattr(importlib.import_module(module), name)


class Handle:
    """A result: prints as one line, shows itself in a notebook, and is equal to another by value."""

    def _line(self) -> str:
        """What stands between the brackets of the printed line."""
        return ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._line()})"

    def _repr_html_(self) -> str:
        """The line and a small picture."""
        return reach(PICTURES, "html")(self)

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same: arrays, tensors and tables by value, NaN equal to NaN."""
        if type(other) is not type(self):
            return NotImplemented
        return all(same(getattr(self, name), getattr(other, name)) for name in _parts(self))

    __hash__ = None  # type: ignore[assignment]


class OfPhrases(Handle):
    """A result with something for each of its ``phrases``: ``len``, iteration, and ``result["frog"]``."""

    phrases: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.phrases)

    def __bool__(self) -> bool:
        return True  # a result without phrases is still a result

    def __iter__(self) -> Iterator[Any]:
        return iter(self.phrases)

    def place(self, key: Any) -> int:
        """The number of a phrase, given by its text, its root or lemma (whatever its case), itself, or its number.

        Raises:
            KeyError: no phrase or several are called so; with those there are.
            IndexError: no phrase of that number.
        """
        if isinstance(key, int | np.integer):
            return range(len(self.phrases))[int(key)]
        if key in self.phrases:
            return self.phrases.index(key)
        for name in ("text", "root", "lemma") if isinstance(key, str) else ():
            found = [i for i, phrase in enumerate(self.phrases) if getattr(phrase, name).casefold() == key.casefold()]
            if len(found) == 1:
                return found[0]
            if found:
                listed = ", ".join(f"{i} ({self.phrases[i].text!r})" for i in found)
                raise KeyError(f"{key!r} names {len(found)} phrases; take one by its number: {listed}")
        there = ", ".join(repr(phrase.text) for phrase in self.phrases) or "none"
        raise KeyError(f"no phrase {key!r}; there are: {there}")


class OfMaps(OfPhrases):
    """A result with a map for each phrase, layer and head."""

    def show(self, image: Any = None, heads: Any = "all", **how: Any) -> Any:
        """A figure of each phrase's mean map of the ``heads``, over the image if it is given (`plots.shown.maps`)."""
        return reach("interp.plots.shown", "maps")(self, image, heads, **how)

    def to_frame(self) -> pd.DataFrame:
        """Tidy: a row per phrase, layer and head (`interp.answer.frames.frame`)."""
        return reach("interp.answer.frames", "frame")(self)


class OfTables(Handle):
    """A result of tables: ``len``, iteration over their names, and ``result["heads"]``."""

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table by its name."""
        own = {name: getattr(self, name) for name in _parts(self)}
        return {name: table for name, table in own.items() if isinstance(table, pd.DataFrame)}

    def to_frame(self, table: str = "heads") -> pd.DataFrame:
        """One of the tables, tidy; by default that with a row per head.

        Raises:
            KeyError: no table of that name; with those there are.
        """
        return self[table]

    def __getitem__(self, name: str) -> pd.DataFrame:
        found = self.tables()
        if name not in found:
            raise KeyError(f"no table {name!r}; there are: {', '.join(found)}")
        return found[name]

    def __len__(self) -> int:
        return len(self.tables())

    def __iter__(self) -> Iterator[str]:
        return iter(self.tables())

    def _line(self) -> str:
        return ", ".join(f"{name}: {len(table)} rows" for name, table in self.tables().items())


def _parts(result: Any) -> list[str]:
    return [part.name for part in dataclasses.fields(result)]


def same(a: Any, b: Any) -> bool:
    """Whether two values are the same, whatever they are made of; NaN is equal to NaN.

    >>> same({"a": np.array([1.0, np.nan])}, {"a": np.array([1.0, np.nan])}), same(np.zeros(2), np.zeros(3))
    (True, False)
    """
    if a is b:
        return True
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        alike = a.shape == b.shape and a.dtype == b.dtype
        return alike and same(a.detach().float().cpu().numpy(), b.detach().float().cpu().numpy())
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        exact = a.dtype.kind not in "fc" or b.dtype.kind not in "fc"
        return a.shape == b.shape and bool(np.array_equal(a, b) if exact else np.array_equal(a, b, equal_nan=True))
    if isinstance(a, pd.DataFrame | pd.Series) and type(a) is type(b):
        return a.equals(b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str | bytes):
        return len(a) == len(b) and type(a) is type(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (a != a and b != b)
    if dataclasses.is_dataclass(a) and type(a) is type(b):
        return all(same(getattr(a, name), getattr(b, name)) for name in _parts(a))
    return type(a) is type(b) and bool(a == b)
