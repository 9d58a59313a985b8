"""Heads as people write them, ``L14H24``, ``14:24``, (14, 24) or the best of a ranking -> Heads. One place for it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.types import Head

NAMED = ("all", "released")
"""Every head, and head H-2 of each layer; which heads these are depends on the model."""
FORMS = "L14H24, 14:24, (14, 24), Head(14, 24), several of them, all, released, or top3 of a ranking"
_N = "([0-9]{1,6})"
_ONE = rf"L\s*{_N}\s*H\s*{_N}|{_N}\s*:\s*{_N}|\(\s*{_N}\s*,\s*{_N}\s*\)"
_SEVERAL = re.compile(rf"(?:{_ONE})(?:[\s,;]+(?:{_ONE}))*", re.IGNORECASE)
_BEST = re.compile(rf"top\s*{_N}(?:\s+of\s+(.+))?", re.IGNORECASE)


def read_heads(given: Any, of: Any = None, by: str | None = None) -> str | list[Head]:
    """The heads that are meant, in the order given; of the `NAMED` choices the name.

    Args:
        given: a text ("L14H24 L14H26", "14:24,14:26", "all", "released", "top3", "top3 of runs/llava"), a head or
            (layer, head), a table with columns ``layer`` and ``head``, or several of these.
        of: what "topK" is taken from: a `Ranking`, the folder of an ``interp rank`` run, or its table of heads.
        by: "topK" is by ``specificity`` or ``mean``; None: as the ranking chose.

    Raises:
        ValueError: none of these forms, "topK" of nothing, or of more heads than have a score.
        FileNotFoundError: no ranking lies where "topK" is to be taken from.

    >>> read_heads("L14H24, 14:26"), read_heads((3, 1)), read_heads("released")
    ([Head(layer=14, head=24), Head(layer=14, head=26)], [Head(layer=3, head=1)], 'released')
    >>> read_heads("best")
    Traceback (most recent call last):
        ...
    ValueError: cannot read heads from 'best'; expected L14H24, 14:24, (14, 24), Head(14, 24), several of them, all, ...
    """
    if isinstance(given, str):
        return _from_text(given.strip(), of, by)
    if isinstance(given, pd.DataFrame):
        if not {"layer", "head"} <= set(given):
            raise ValueError(f"a table with columns {list(given)} names no heads; expected layer and head")
        return [Head(int(row[0]), int(row[1])) for row in given[["layer", "head"]].to_numpy()]
    if _is_pair(given):
        return [Head(*(int(number) for number in given))]
    if not isinstance(given, Iterable) or isinstance(given, bytes):
        raise ValueError(f"cannot read heads from {given!r}; expected {FORMS}")
    found: list[Head] = []
    for one in given:
        own = read_heads(one, of, by)
        if isinstance(own, str):
            raise ValueError(f"{own!r} stands among other heads in {given!r}; give it alone")
        found += own
    return found


def _from_text(text: str, of: Any, by: str | None) -> str | list[Head]:
    if text in NAMED:
        return text
    if best := _BEST.fullmatch(text):
        place = best[2] or of
        if place is None:
            raise ValueError(
                f"{text!r} says how many heads, not of which ranking; say 'top3 of runs/llava' (on the command line "
                "also --ranking runs/llava, in Python ranking.top(3))"
            )
        return top_of(place, int(best[1]), by)
    if not _SEVERAL.fullmatch(text):
        short = repr(text if len(text) <= 60 else text[:50] + "...")
        raise ValueError(f"cannot read heads from {short}; expected {FORMS}")
    numbers = ([int(n) for n in found if n] for found in re.findall(_ONE, text, re.IGNORECASE))
    return [Head(*pair) for pair in numbers]


def _is_pair(given: Any) -> bool:
    if not (isinstance(given, list | tuple) or getattr(given, "ndim", 0) == 1) or len(given) != 2:
        return False
    return all(not isinstance(n, str) and np.ndim(n) == 0 and float(n).is_integer() for n in given)


def top_of(ranking: Any, k: int, by: str | None = None) -> list[Head]:
    """The k best heads of a ranking's headline metric, best first; by ``specificity`` or ``mean`` (None: as it chose).
    ``ranking``: a `Ranking`, the folder of a run, its ``heads.parquet``, or that table.

    Raises:
        FileNotFoundError: there is no ranking.
        ValueError: fewer heads than that have a score, or what lies there is not as a ranking writes it.
    """
    if hasattr(ranking, "headline") and hasattr(ranking, "heads"):
        table, main, where = ranking.heads, ranking.headline, "the ranking"
    elif isinstance(ranking, pd.DataFrame):
        table, main, where = ranking, None, "the table"
    else:
        (table, main), where = _read(Path(ranking).expanduser()), f"the ranking in {ranking}"
    try:
        metrics = list(dict.fromkeys(table["metric"]))
        main = main or ("pointing_game" if "pointing_game" in metrics else metrics[0])
        own = table.loc[table["metric"] == main, :]
        column = by or "rank"
        higher = column == "specificity" or (column == "mean" and bool(own["higher_is_better"].iloc[0]))
        own = own.dropna(subset=[column]).sort_values([column, "layer", "head"], ascending=[not higher, True, True])
        found = [Head(int(row[0]), int(row[1])) for row in own[["layer", "head"]].to_numpy()]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        lost = f"no {error.args[0]!r}" if isinstance(error, KeyError) else "something of another kind"
        raise ValueError(f"{where} is not as `interp rank` writes it ({lost} in its table); rank anew") from error
    if not 1 <= k <= len(found):
        raise ValueError(f"top{k}: {where} has {len(found)} heads with a {main}; expected 1 to that")
    return found[:k]


def _read(place: Path) -> tuple[pd.DataFrame, str | None]:
    """The table of heads of a run's folder or file, and the run's headline metric where it says it."""
    path = place / "heads.parquet" if place.is_dir() else place
    if not path.is_file():
        raise FileNotFoundError(f"{place} holds no finished ranking; make one with `interp rank ... --out {place}`")
    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        said = path.with_name("manifest.json")
        manifest = json.loads(said.read_text()) if said.is_file() else {}
        return table, manifest.get("about", {}).get("headline")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{place} is not as `interp rank` writes it ({error!r:.200}); rank anew") from error
