"""What heads know of phrases that the text has told before it says them, beside free ones."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from interp.types import Head

BEST = 3
"""Heads whose mean `held_out` takes."""


def held_out(chosen: pd.DataFrame, measured: pd.DataFrame) -> float:
    """Mean specificity of the ``BEST`` heads of each half of the images on the other half of ``measured``.

    Both are rows of `Ranking.rows` with one row a head.
    """
    halves = []
    for own, other in (("a", "b"), ("b", "a")):
        best = chosen.sort_values(f"specificity_{own}", ascending=False, kind="stable").head(BEST)
        there = best.loc[:, ["layer", "head"]].merge(measured, on=["layer", "head"])
        halves.append(there[f"specificity_{other}"].to_numpy(dtype=float).mean() if len(there) else math.nan)
    return sum(halves) / 2


def best_told(rows: pd.DataFrame, amount: int) -> tuple[str, list[Head]] | None:
    """The kind of phrases that heads know best before they are said, and its ``amount`` best heads.

    ``rows``: `Ranking.rows`. The kinds' best heads are chosen on one half of the images and measured on the other; None
    if there are no such kinds beside free phrases.
    """
    first = rows.loc[rows["rows"] == "first", :] if len(rows) else rows
    kinds = set(first["kind"]) - {"all", "again"} if len(first) else set[str]()
    if not kinds > {"free"}:
        return None
    of_kind = {str(kind): some for kind, some in first.groupby("kind") if kind in kinds - {"free"}}
    kind = max(of_kind, key=lambda kind: np.nan_to_num(held_out(of_kind[kind], of_kind[kind]), nan=-np.inf))
    order = ["specificity_low", "specificity"]  # the lower end: the best of many heads on few images is chance
    best = of_kind[kind].sort_values(order, ascending=False, kind="stable").head(amount)
    return kind, [Head(int(a), int(b)) for a, b in zip(best["layer"], best["head"], strict=True)]
