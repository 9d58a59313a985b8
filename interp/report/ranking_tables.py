"""The tables in a ranking's report: their rows, ready to be read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import pandas as pd

from interp.ranking.kinds import held_out
from interp.report.html import (
    LEVEL,
    REDUCTIONS,
    TOP,
    first_line,
    head_name,
    interval,
    number,
    ordered,
    p_value,
    picture,
    words,
)
from interp.report.run import Run

BEST = 3
"""Heads whose rows are shown one by one."""


def side_by_side(run: Run, tables: Mapping[str, pd.DataFrame], metric: str) -> dict[str, Any]:
    """How many heads look at things and at the word's thing by this metric, and the best one."""
    heads, about = ordered(tables["heads"], metric), run.manifest["about"]["metrics"][metric]
    best, tested = heads[0], about["uses_mask"]
    return {
        "title": words(metric),
        "things": str(sum(h["p_corrected"] < LEVEL for h in heads)) if tested else "–",
        "specific": str(sum(h["p_specific"] < LEVEL for h in heads)) if tested else "–",
        "best": head_name(best),
        "specificity": number(best["specificity"]),
        "interval": specific_interval(best),
        "mean": number(best["mean"]),
        "null": number(best["null"]),
    }


def section(run: Run, tables: Mapping[str, pd.DataFrame], metric: str) -> dict[str, Any]:
    """One metric: its figures, best heads and reductions."""
    about = run.manifest["about"]["metrics"][metric]
    heads = ordered(tables["heads"], metric)
    agreement = tables["agreement"].set_index("metric").loc[metric]
    reductions = tables["reductions"].query("metric == @metric").to_dict("records")
    return {
        "metric": metric,
        "title": words(metric),
        "about": about,
        "first_line": first_line(about["doc"]),
        "specific_map": picture(run, f"specific_{metric}"),
        "heat_map": picture(run, f"heads_{metric}"),
        "curves": picture(run, f"layers_{metric}"),
        "defined": any(math.isfinite(head["mean"]) for head in heads),
        "top": [_row(row) | {"name": head_name(row)} for row in heads[:TOP]],
        "reductions": [_row(row) | {"name": REDUCTIONS[row["heads"]]} for row in reductions],
        "halves": number(agreement["halves"]),
        "halves_specific": number(agreement["halves_specific"]),
        "mask_free": number(agreement["mask_free"]),
        "things": sum(h["p_corrected"] < LEVEL for h in heads) if about["uses_mask"] else None,
        "specific": sum(h["p_specific"] < LEVEL for h in heads) if about["uses_mask"] else None,
        "count": len(heads),
    }


def specific_interval(row: Any) -> str:
    """The interval of a specificity, in words."""
    return interval({"low": row["specificity_low"], "high": row["specificity_high"]})


def _row(row: Mapping[Any, Any]) -> dict[str, str]:
    columns = ("mean", "low", "high", "null", "chance", "specificity", "specificity_low", "specificity_high")
    tested = {name: p_value(row[name]) for name in ("p_corrected", "p_specific")}
    counts = {name: str(int(row[name])) for name in ("n", "pairs")}
    return {name: number(row[name]) for name in columns} | tested | counts


def by_rows(tables: Mapping[str, pd.DataFrame], main: str) -> list[dict[str, str]]:
    """The best heads on the mean, the first and the last of a word's rows, by class of words."""
    table = tables["rows"]
    if table.empty:
        return []
    rows = []
    for head in ordered(tables["heads"], main)[:BEST]:
        own = table[(table["layer"] == head["layer"]) & (table["head"] == head["head"]) & (table["kind"] == "all")]
        for key, some in own.groupby(["rows", "tokens"], sort=False):
            kind, tokens = cast(tuple[str, str], key)
            if kind == "mean" or tokens != "one":  # of one token, all rows are the same
                row = some.iloc[0]
                label = {"one": "one token", "several": "several tokens", "all": "all words"}[str(tokens)]
                rows.append({"name": head_name(head), "rows": str(kind), "tokens": label, **_row(row.to_dict())})
    return rows


def kinds(tables: Mapping[str, pd.DataFrame]) -> list[dict[str, str]]:
    """What heads know of each kind of phrase before its word is said (the first row) and once it is (the last).

    A row per kind and row: how many heads tell the thing or look at things, the best one, and the mean specificity of
    three best, chosen on each half of the images and measured on the other: there, and on free phrases.
    """
    table = tables["rows"]
    if table.empty or not len(found := table.loc[table["kind"] != "all", :]):
        return []
    rows = []
    for key, some in found[found["rows"].isin(["first", "last"])].groupby(["kind", "rows"], sort=False):
        kind, which = cast(tuple[str, str], key)
        free = found[(found["kind"] == "free") & (found["rows"] == which)]
        best = some.sort_values("specificity", ascending=False, kind="stable").iloc[0].to_dict()
        rows.append(
            {
                "kind": kind,
                "rows": which,
                "specific": str(int((some["p_specific"] < LEVEL).sum())),
                "things": str(int((some["p_corrected"] < LEVEL).sum())),
                "best": head_name(best),
                "specificity": number(best["specificity"]),
                "interval": specific_interval(best),
                "held_out": number(held_out(some, some)),
                "free": number(held_out(some, free)),
                "pairs": str(int(best["pairs"])),
            }
        )
    return rows


def subsets(tables: Mapping[str, pd.DataFrame], main: str) -> list[dict[str, str]]:
    """The mean of all heads and the best three over other sets and weights of phrases."""
    table = tables["subsets"].query("metric == @main and heads in ('paper', 'top3')")
    return [
        {
            "name": str(row["subset"]),
            "heads": REDUCTIONS[row["heads"]],
            "n": str(int(row["n"])),
            "mean": number(row["mean"]),
            "interval": interval(row),
            "specificity": number(row["specificity"]),
            "specific_interval": specific_interval(row),
        }
        for row in table.to_dict("records")
    ]


def mask_free(tables: Mapping[str, pd.DataFrame], main: str) -> list[dict[str, str]]:
    """The first heads of the mask-free ranking with their place in the supervised one."""
    place = tables["heads"].query("metric == @main").set_index(["layer", "head"])
    rows = []
    for row in tables["localization"].head(TOP).to_dict("records"):
        there = place.loc[(row["layer"], row["head"])]
        rows.append(
            {
                "name": head_name(row),
                "frequency": number(row["frequency"]),
                "image_mass": number(row["image_mass"]),
                "entropy": number(row["entropy"]),
                "rank": f"{there['rank']:.0f}" if math.isfinite(there["rank"]) else "–",
                "mean": number(there["mean"]),
                "specificity": number(there["specificity"]),
            }
        )
    return rows
