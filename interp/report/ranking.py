"""report.html of a run folder: one file with everything in it, made from the saved tables and figures alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from interp.plots.heads import heat_map
from interp.plots.layers import curves
from interp.plots.overlay import gallery
from interp.report import figures
from interp.report.html import (
    LEVEL,
    REDUCTIONS,
    TOP,
    head_name,
    interval,
    number,
    ordered,
    p_value,
    picture,
    skipped_rows,
    template,
    words,
    write,
)
from interp.report.run import Run
from interp.statistics.intervals import bootstrap


def draw(run: Run) -> list[str]:
    """Names of the figures written below ``figures/``: two per metric that is defined somewhere, and the gallery."""
    heads = run.read_table("heads")
    names = []
    for metric, about in run.manifest["about"]["metrics"].items():
        if not heads.loc[heads["metric"] == metric, "mean"].notna().any():
            continue
        how = {"higher_is_better": about["higher_is_better"], "unit": about["unit"]}
        names.append(figures.save(run, f"heads_{metric}", heat_map(heads, metric, **how)))
        names.append(figures.save(run, f"layers_{metric}", curves(heads, metric, **how)))
    if rows := figures.unpack(run.get(run.manifest.get("gallery", figures.GALLERY))):
        names.append(figures.save(run, "gallery", gallery(rows)))
    else:
        (run.folder / "figures" / "gallery.png").unlink(missing_ok=True)
    return names


def page(run: Run) -> Path:
    """The path of the written report of a ranking."""
    tables = {name: run.read_table(name) for name in ("heads", "reductions", "phrases", "localization", "agreement")}
    main = run.manifest["about"]["headline"]
    names = sorted(run.manifest["about"]["metrics"], key=lambda name: name != main)
    page = template("ranking").render(
        manifest=run.manifest,
        main=main,
        level=LEVEL,
        headline=headline(run),
        tiles=_tiles(run, tables),
        sections=[_section(run, tables, name) for name in names],
        gallery=picture(run, "gallery"),
        mask_free=_mask_free(tables, main),
        lengths=_lengths(tables, main, run.manifest["seed"]),
        skipped=skipped_rows(run),
        silent=silent(run),
    )
    return write(run, page)


def headlines(run: Run) -> list[str]:
    """What was found, a line each."""
    return [headline(run), *silent(run)]


def silent(run: Run) -> list[str]:
    """How many phrases of the answers named no target and so were not scored, and the commonest of them."""
    found = run.manifest.get("unmatched", {"phrases": 0})
    if not found["phrases"]:
        return []
    listed = ", ".join(f"{text!r} ({count})" for text, count in found["commonest"])
    of = found["phrases"] + run.manifest["counts"]["phrases"]
    return [f"{found['phrases']} of {of} phrases named no target and were not scored; the commonest: {listed}."]


def tables(run: Run) -> str:
    """Where the tables lie."""
    return f"{run.folder}/heads.parquet, phrases.parquet, ..."


def headline(run: Run) -> str:
    """What was found, in words with numbers."""
    main = run.manifest["about"]["headline"]
    about, arguments, counts = run.manifest["about"]["metrics"][main], run.manifest["arguments"], run.manifest["counts"]
    heads = ordered(run.read_table("heads"), main, about)
    basis = f"{counts['phrases']} phrases on {counts['images']} images of {arguments['dataset']}"
    best = heads[0]
    if not math.isfinite(best["mean"]):
        return f"{words(main)} is undefined for every head of {arguments['model']} ({basis})."
    score = f"{words(main)} {number(best['mean'])} (95 % interval {number(best['low'])} to {number(best['high'])})"
    if not about["uses_mask"]:
        return f"Of {len(heads)} heads of {arguments['model']}, {head_name(best)} comes first: {score}; {basis}."
    sure = sum(head["p_corrected"] < LEVEL for head in heads)
    beside = f"{number(best['null'])} on masks of other images" + (
        f" and {number(best['chance'])} by chance" if math.isfinite(best["chance"]) else ""
    )
    held_out = run.read_table("reductions").query("metric == @main and heads == 'top1'").to_dict("records")[0]
    if sure == 0:
        return (
            f"No head of {arguments['model']} grounds words surely (corrected p < {LEVEL}, {len(heads)} heads, "
            f"{basis}). The highest mean is that of {head_name(best)}: {score}, beside {beside}."
        )
    return (
        f"{sure} of {len(heads)} heads of {arguments['model']} ground words: they score better on the mask of the "
        f"thing named than on masks of other images (corrected p < {LEVEL}; {basis}). The best is {head_name(best)}: "
        f"{score}, beside {beside}. Chosen on one half of the images and measured on the other, the best head has "
        f"{number(held_out['mean'])} ({number(held_out['low'])} to {number(held_out['high'])})."
    )


def _tiles(run: Run, tables: dict[str, pd.DataFrame]) -> list[dict[str, str]]:
    main = run.manifest["about"]["headline"]
    about = run.manifest["about"]["metrics"][main]
    reductions = tables["reductions"].query("metric == @main").set_index("heads")
    tau = tables["agreement"].set_index("metric").loc[main]
    best = ordered(tables["heads"], main, about)[0]
    rows = [
        (f"best head: {head_name(best)}", number(best["mean"]), f"{number(best['low'])} to {number(best['high'])}"),
        ("best head, other half", number(reductions.loc["top1", "mean"]), interval(reductions.loc["top1"])),
        ("mean of all heads", number(reductions.loc["paper", "mean"]), interval(reductions.loc["paper"])),
        ("masks of other images", number(best["null"]), "best head's null"),
        ("chance", number(best["chance"]), "matched for area"),
        ("agreement of halves", number(tau["halves"]), "Kendall's τ over heads"),
    ]
    return [{"name": name, "value": value, "note": note} for name, value, note in rows]


def _section(run: Run, tables: dict[str, pd.DataFrame], metric: str) -> dict[str, Any]:
    about = run.manifest["about"]["metrics"][metric]
    heads = ordered(tables["heads"], metric, about)
    agreement = tables["agreement"].set_index("metric").loc[metric]
    reductions = tables["reductions"].query("metric == @metric").to_dict("records")
    return {
        "metric": metric,
        "title": words(metric),
        "about": about,
        "first_line": about["doc"].splitlines()[0],
        "heat_map": picture(run, f"heads_{metric}"),
        "curves": picture(run, f"layers_{metric}"),
        "top": [_row(row) | {"name": head_name(row)} for row in heads[:TOP]],
        "reductions": [_row(row) | {"name": REDUCTIONS[row["heads"]]} for row in reductions],
        "halves": number(agreement["halves"]),
        "mask_free": number(agreement["mask_free"]),
        "significant": sum(h["p_corrected"] < LEVEL for h in heads) if about["uses_mask"] else None,
        "count": len(heads),
    }


def _row(row: Mapping[str, Any]) -> dict[str, str]:
    columns = ("mean", "low", "high", "null", "chance", "half_a", "half_b")
    tested = {name: p_value(row[name]) for name in ("p", "p_corrected")}
    return {name: number(row[name]) for name in columns} | tested | {"n": str(int(row["n"]))}


def _mask_free(tables: dict[str, pd.DataFrame], main: str) -> list[dict[str, str]]:
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
            }
        )
    return rows


def _lengths(tables: dict[str, pd.DataFrame], main: str, seed: int) -> list[dict[str, str]]:
    """Each reduction on words of one token and on words of several; nothing if there is but one kind."""
    table = tables["phrases"].query("metric == @main")
    table = table.assign(several=table["tokens"] > 1)
    if len(set(table["several"])) < 2:
        return []
    rows = []
    for heads, part in table.groupby("heads", sort=False):
        row = {"name": REDUCTIONS[str(heads)]}
        for several, name in ((False, "one"), (True, "several")):
            words = part.loc[part["several"] == several]
            ends = bootstrap(words["value"].to_numpy(), words["sample_id"].tolist(), seed=seed)
            row[name] = number(words["value"].mean())
            row[f"{name}_interval"] = interval({"low": float(ends.low), "high": float(ends.high)})
            row[f"{name}_n"] = str(int(words["value"].notna().sum()))
        rows.append(row)
    return rows
