"""A metric as a user gives it: a name, a file, a module, or a function of maps and masks."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from interp import plugins
from interp.contracts import Metric
from interp.work.code import code_of

DEFAULTS = {"higher_is_better": True, "raw": False, "uses_mask": True, "limits": (-math.inf, math.inf)}
"""What a function is unless it says otherwise, as an attribute of that name."""


def metric_of(given: Any) -> tuple[str, Metric]:
    """The metric's name, and the metric.

    ``given`` is a name as in ``interp list``, a ``.py`` file or a module as in ``interp/metrics``, or a function
    ``score(maps, masks)`` (or ``score(maps, masks, others)``) of maps (phrase, layer, head, row, col) and masks
    (phrase, row, col; shares 0..1), which gives a score for each (phrase, layer, head). A function gets maps minus the
    answer's mean and higher is better, unless its attributes ``raw``, ``higher_is_better``, ``uses_mask``, ``limits``
    or ``chance`` say otherwise.

    Raises:
        interp.plugins.UnknownName: no metric of that name.
        FileNotFoundError: no such file.
        ValueError: a module or function that is no metric; with what it lacks.
    """
    if isinstance(given, str) and not given.endswith(".py"):
        return given, cast(Metric, plugins.get("metrics", given))
    if isinstance(given, str | Path):
        given = _from_file(Path(given).expanduser())
    if isinstance(given, ModuleType):
        lacks = [name for name in (*DEFAULTS, "score", "chance") if not hasattr(given, name)]
        if lacks:
            raise ValueError(
                f"module {given.__name__} is no metric: it lacks {', '.join(lacks)}; "
                "see interp/metrics/pointing_game.py"
            )
        return given.__name__.rpartition(".")[2], cast(Metric, given)
    if callable(given):
        return _named(given), _from_function(cast(Callable[..., Tensor], given))
    raise ValueError(
        f"cannot take {type(given).__name__} for a metric; expected a name, a .py file, a module, or a function of "
        "maps and masks"
    )


def metrics_of(given: Iterable[Any] | None) -> dict[str, Metric]:
    """Name -> metric of each, in the order given; None is all that there are.

    Raises:
        ValueError: two different ones of one name; and as `metric_of`.
    """
    found: dict[str, Metric] = {}
    for name, metric in map(metric_of, plugins.names("metrics") if given is None else given):
        if found.setdefault(name, metric) is not metric and source_of(found[name]) != source_of(metric):
            raise ValueError(f"two metrics are called {name!r}; give one of them another name")
    return found


def source_of(metric: Metric) -> str:
    """SHA-256 of the metric's code: what stored scores of it depend on. Of a module its file and that of its ``score``;
    of a function its file, or itself in a notebook, with the values that it closes over.

    Raises:
        ValueError: its code cannot be read, so that stored scores could be another's.
    """
    score = getattr(metric, "function", metric.score)
    homes: list[Any] = [metric, inspect.getmodule(score)]
    texts = [Path(str(home.__file__)).read_text() for home in homes if isinstance(home, ModuleType) and _has_file(home)]
    try:
        if not texts or metric.__class__ is not ModuleType:
            texts.append(code_of(score))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"the code of {_named(score)} cannot be read ({error}); write the function in a file or a notebook's cell, "
            "so that what is kept of it can be told from another's"
        ) from error
    if getattr(metric, "__package__", None) == __package__:
        texts += [path.read_text() for path in sorted(Path(__file__).parent.glob("_*.py"))]
    said = [getattr(metric, name) for name in DEFAULTS]
    return hashlib.sha256(repr((texts, said)).encode()).hexdigest()


def _has_file(module: Any) -> bool:
    return module.__name__ != "__main__" and bool(getattr(module, "__file__", None))


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; expected a metric as in interp/metrics, or its name (interp list)")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file; expected a metric as in interp/metrics")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    return module


def _from_function(function: Callable[..., Tensor]) -> Metric:
    takes = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    if len(takes) not in (2, 3):
        raise ValueError(f"{_named(function)} takes {len(takes)} arguments; expected (maps, masks) or (.., others)")

    def score(maps: Tensor, masks: Tensor, others: Tensor) -> Tensor:
        found = function(maps, masks, others) if len(takes) == 3 else function(maps, masks)
        if not isinstance(found, Tensor) or found.shape != maps.shape[:3]:
            came = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"{_named(function)} gave {came} for maps {tuple(maps.shape)}; expected a score for each phrase, layer "
                f"and head, {tuple(maps.shape[:3])}"
            )
        empty = (masks >= 0.5).flatten(1).any(1).logical_not()
        uses_mask = getattr(function, "uses_mask", True)
        return torch.where(empty[:, None, None], torch.nan, found) if uses_mask else found

    def chance(masks: Tensor) -> Tensor:
        return torch.full(masks.shape[:1], torch.nan, device=masks.device)

    said = {name: getattr(function, name, default) for name, default in DEFAULTS.items()}
    own: Any = getattr(function, "chance", chance)
    return cast(Metric, SimpleNamespace(**said, score=score, chance=own, function=function, __doc__=function.__doc__))


def _named(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)
