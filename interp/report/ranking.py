"""Figures and report.html of a ranking: one file with everything in it, from the saved tables and figures alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from interp.plots.heads import heat_map, known
from interp.plots.layers import curves
from interp.plots.overlay import gallery
from interp.report import explorer, figures
from interp.report import ranking_tables as shown
from interp.report.html import (
    LEVEL,
    few,
    head_name,
    interval,
    number,
    ordered,
    picture,
    skipped_rows,
    template,
    words,
    write,
)
from interp.report.run import Run

TABLES = ("heads", "reductions", "phrases", "rows", "subsets", "localization", "agreement")


def draw(run: Run) -> list[str]:
    """Names of the figures written below ``figures/``: for each metric that is drawn (`figures.of`) and defined heads
    by specificity, heads by mean, and layers; and the gallery."""
    heads = run.read_table("heads")
    names = []
    metrics = run.manifest["about"]["metrics"]
    for metric in figures.of(run, metrics, run.manifest["about"]["headline"]):
        about = metrics[metric]
        own = heads.loc[heads["metric"] == metric, :]
        if not known(own, "mean"):
            continue
        how = {"higher_is_better": about["higher_is_better"], "unit": about["unit"]}
        names.append(figures.save(run, f"heads_{metric}", heat_map(heads, metric, **how)))
        names.append(figures.save(run, f"layers_{metric}", curves(heads, metric, **how)))
        if known(own, "specificity"):
            names.append(figures.save(run, f"specific_{metric}", heat_map(heads, metric, by="specificity")))
    if rows := figures.unpack(run.get(run.manifest.get("gallery", figures.GALLERY))):
        names.append(figures.save(run, "gallery", gallery(rows)))
    else:
        (run.folder / "figures" / "gallery.png").unlink(missing_ok=True)
    if rows := figures.unpack(run.get(run.manifest.get("told", ""))):
        names.append(figures.save(run, "told", gallery(rows)))
    else:
        (run.folder / "figures" / "told.png").unlink(missing_ok=True)
    return names


def page(run: Run) -> Path:
    """The path of the written report of a ranking."""
    tables = {name: run.read_table(name) for name in TABLES if name != "phrases"}
    main = run.manifest["about"]["headline"]
    names = sorted(run.manifest["about"]["metrics"], key=lambda name: name != main)
    page = template("ranking").render(
        manifest=run.manifest,
        main=main,
        level=LEVEL,
        warning=few(run.manifest["counts"]["images"]),
        headline=headline(run),
        tiles=_tiles(run, tables),
        side_by_side=[shown.side_by_side(run, tables, name) for name in names],
        sections=[shown.section(run, tables, name) for name in names],
        explorer=explorer.shown(run),
        gallery=picture(run, "gallery"),
        told=picture(run, "told"),
        by_rows=shown.by_rows(tables, main),
        kinds=shown.kinds(tables),
        subsets=shown.subsets(tables, main),
        mask_free=shown.mask_free(tables, main),
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
    """What was found, in words with numbers: heads that know the word, and heads that look at things at all."""
    main = run.manifest["about"]["headline"]
    about, model = run.manifest["about"]["metrics"][main], run.manifest["arguments"]["model"]
    heads, best = ordered(run.read_table("heads"), main), ordered(run.read_table("heads"), main)[0]
    basis = _basis(run, best)
    if not math.isfinite(best["mean"]):
        return f"{words(main)} is undefined for every head of {model} ({basis})."
    if not about["uses_mask"]:
        score = f"{words(main)} {number(best['mean'])} (95 % interval {interval(best)})"
        return f"Of {len(heads)} heads of {model}, {head_name(best)} comes first: {score}; {basis}."
    things = sum(head["p_corrected"] < LEVEL for head in heads)
    at_all = f"{things or 'none'} {'looks' if things == 1 else 'look'} at things at all"
    how = f"(corrected p < {LEVEL}, {words(main)}; {basis})"
    if not any(math.isfinite(head["specificity"]) for head in heads):
        return (
            f"Whether heads of {model} tell the named thing from the others cannot be said: no image has two named "
            f"things with as many tokens. Of {len(heads)} heads, {at_all} {how}. {_best(run, best)}"
        )
    specific = sum(head["p_specific"] < LEVEL for head in heads)
    verb = "tells" if specific == 1 else "tell"
    told = f"{specific or 'None'} of {len(heads)} heads of {model} {verb} the named thing from the others"
    return f"{told}; {at_all} {how}. {_best(run, best)}"


def _basis(run: Run, best: dict[Any, Any]) -> str:
    counts = run.manifest["counts"]
    pairs = f", {int(best['pairs'])} pairs of named things," if best["pairs"] else ""
    return f"{counts['phrases']} phrases{pairs} on {counts['images']} images of {run.manifest['arguments']['dataset']}"


def _best(run: Run, best: dict[Any, Any]) -> str:
    """The best head, what it scores beside its nulls, and what one chosen on other images scores."""
    main = run.manifest["about"]["headline"]
    held_out = run.read_table("reductions").query("metric == @main and heads == 'top1'").to_dict("records")[0]
    beside = f"{number(best['null'])} on masks of other images"
    beside += f" and {number(best['chance'])} by chance" if math.isfinite(best["chance"]) else ""
    score = f"{words(main)} {number(best['mean'])} (95 % interval {interval(best)}), beside {beside}"
    other = "Chosen on one half of the images and measured on the other, the best head has"
    if run.manifest["about"]["by"][main] == "mean":
        held = f"{number(held_out['mean'])} ({interval(held_out)})"
        return f"The best by its score is {head_name(best)}: {score}. {other} {held}."
    return (
        f"The most specific is {head_name(best)}: specificity {_specific(best)}; {score}. {other} specificity "
        f"{_specific(held_out)}."
    )


def _specific(row: Any) -> str:
    ends = interval({"low": row["specificity_low"], "high": row["specificity_high"]})
    return f"{number(row['specificity'])} ({ends})"


def _tiles(run: Run, tables: dict[str, pd.DataFrame]) -> list[dict[str, str]]:
    main = run.manifest["about"]["headline"]
    reductions = tables["reductions"].query("metric == @main").set_index("heads")
    tau = tables["agreement"].set_index("metric").loc[main]
    best = ordered(tables["heads"], main)[0]
    ends = {name: shown.specific_interval(row) for name, row in (("best", best), *reductions.iterrows())}
    rows = [
        (f"best head: {head_name(best)}", number(best["specificity"]), f"specificity, {ends['best']}"),
        ("best head, other half", number(reductions.loc["top1", "specificity"]), f"specificity, {ends['top1']}"),
        ("mean of all heads", number(reductions.loc["paper", "specificity"]), f"specificity, {ends['paper']}"),
        (f"best head: {head_name(best)}", number(best["mean"]), f"{words(main)}, {interval(best)}"),
        ("masks of other images", number(best["null"]), f"{words(main)}, best head's null"),
        ("agreement of halves", number(tau["halves_specific"]), "Kendall's τ of specificity over heads"),
    ]
    return [{"name": name, "value": value, "note": note} for name, value, note in rows]
