"""report.html of a run folder: one file with everything in it, made from the saved tables and figures alone."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from interp.intervals import bootstrap
from interp.storage import Run, write_bytes

LEVEL = 0.05
TOP = 10
REDUCTIONS = {
    "paper": "mean of all heads (paper)",
    "released": "head H−2 of each layer (released code)",
    "top1": "best head, chosen on the other half",
    "top3": "mean of the best 3, chosen on the other half",
    "top10": "mean of the best 10, chosen on the other half",
}


def ranking_page(run: Run) -> Path:
    """The path of the written report of a ranking."""
    tables = {name: run.read_table(name) for name in ("heads", "reductions", "phrases", "localization", "agreement")}
    main = run.manifest["about"]["headline"]
    names = sorted(run.manifest["about"]["metrics"], key=lambda name: name != main)
    page = _template("ranking").render(
        manifest=run.manifest,
        main=main,
        level=LEVEL,
        headline=headline_text(run),
        tiles=_tiles(run, tables),
        sections=[_section(run, tables, name) for name in names],
        gallery=_picture(run, "gallery"),
        mask_free=_mask_free(tables, main),
        lengths=_lengths(tables, main, run.manifest["seed"]),
        skipped=_skipped(run),
    )
    return _write(run, page)


def capture_page(run: Run) -> Path:
    """The path of the written report of one capture."""
    phrases = [
        {"text": text, "picture": _picture(run, f"phrase_{i}")}
        for i, text in enumerate(run.manifest["capture"]["phrases"])
    ]
    page = _template("capture").render(manifest=run.manifest, gallery=_picture(run, "gallery"), phrases=phrases)
    return _write(run, page)


def headline_text(run: Run) -> str:
    """What was found, in words with numbers."""
    main = run.manifest["about"]["headline"]
    about, arguments, counts = run.manifest["about"]["metrics"][main], run.manifest["arguments"], run.manifest["counts"]
    heads = _ordered(run.read_table("heads"), main, about)
    basis = f"{counts['phrases']} phrases on {counts['images']} images of {arguments['dataset']}"
    best = heads[0]
    if not math.isfinite(best["mean"]):
        return f"{_words(main)} is undefined for every head of {arguments['model']} ({basis})."
    score = f"{_words(main)} {number(best['mean'])} (95 % interval {number(best['low'])} to {number(best['high'])})"
    if not about["uses_mask"]:
        return f"Of {len(heads)} heads of {arguments['model']}, {_head(best)} comes first: {score}; {basis}."
    sure = sum(head["p_corrected"] < LEVEL for head in heads)
    beside = f"{number(best['null'])} on masks of other images" + (
        f" and {number(best['chance'])} by chance" if math.isfinite(best["chance"]) else ""
    )
    held_out = run.read_table("reductions").query("metric == @main and heads == 'top1'").to_dict("records")[0]
    if sure == 0:
        return (
            f"No head of {arguments['model']} grounds words surely (corrected p < {LEVEL}, {len(heads)} heads, "
            f"{basis}). The highest mean is that of {_head(best)}: {score}, beside {beside}."
        )
    return (
        f"{sure} of {len(heads)} heads of {arguments['model']} ground words: they score better on the mask of the "
        f"thing named than on masks of other images (corrected p < {LEVEL}; {basis}). The best is {_head(best)}: "
        f"{score}, beside {beside}. Chosen on one half of the images and measured on the other, the best head has "
        f"{number(held_out['mean'])} ({number(held_out['low'])} to {number(held_out['high'])})."
    )


def number(value: Any) -> str:
    """Three decimals below 10; a dash where undefined."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def p_value(value: Any) -> str:
    """Three decimals, or that it is below them; a dash where there is no test."""
    if value is None or not math.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _tiles(run: Run, tables: dict[str, pd.DataFrame]) -> list[dict[str, str]]:
    main = run.manifest["about"]["headline"]
    about = run.manifest["about"]["metrics"][main]
    reductions = tables["reductions"].query("metric == @main").set_index("heads")
    tau = tables["agreement"].set_index("metric").loc[main]
    best = _ordered(tables["heads"], main, about)[0]
    rows = [
        (f"best head: {_head(best)}", number(best["mean"]), f"{number(best['low'])} to {number(best['high'])}"),
        ("best head, other half", number(reductions.loc["top1", "mean"]), _interval(reductions.loc["top1"])),
        ("mean of all heads", number(reductions.loc["paper", "mean"]), _interval(reductions.loc["paper"])),
        ("masks of other images", number(best["null"]), "best head's null"),
        ("chance", number(best["chance"]), "matched for area"),
        ("agreement of halves", number(tau["halves"]), "Kendall's τ over heads"),
    ]
    return [{"name": name, "value": value, "note": note} for name, value, note in rows]


def _section(run: Run, tables: dict[str, pd.DataFrame], metric: str) -> dict[str, Any]:
    about = run.manifest["about"]["metrics"][metric]
    heads = _ordered(tables["heads"], metric, about)
    agreement = tables["agreement"].set_index("metric").loc[metric]
    reductions = tables["reductions"].query("metric == @metric").to_dict("records")
    return {
        "metric": metric,
        "title": _words(metric),
        "about": about,
        "first_line": about["doc"].splitlines()[0],
        "heat_map": _picture(run, f"heads_{metric}"),
        "curves": _picture(run, f"layers_{metric}"),
        "top": [_row(row) | {"name": _head(row)} for row in heads[:TOP]],
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
                "name": _head(row),
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
            row[f"{name}_interval"] = _interval({"low": float(ends.low), "high": float(ends.high)})
            row[f"{name}_n"] = str(int(words["value"].notna().sum()))
        rows.append(row)
    return rows


def _skipped(run: Run) -> list[dict[str, Any]]:
    """Reasons with how often and for which samples, commonest first."""
    skipped = run.manifest["skipped"]
    reasons = Counter(skip["reason"] for skip in skipped)
    return [
        {"reason": reason, "count": count, "ids": [s["sample_id"] for s in skipped if s["reason"] == reason][:5]}
        for reason, count in reasons.most_common(20)
    ]


def _ordered(heads: pd.DataFrame, metric: str, about: Mapping[str, Any]) -> list[dict[Any, Any]]:
    """The metric's heads, best first, undefined ones last."""
    rows = heads.loc[heads["metric"] == metric, :]
    return rows.sort_values("mean", ascending=not about["higher_is_better"], kind="stable").to_dict("records")


def _head(row: Mapping[Any, Any]) -> str:
    return f"L{int(row['layer'])} H{int(row['head'])}"


def _interval(row: Any) -> str:
    return f"{number(row['low'])} to {number(row['high'])}"


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _picture(run: Run, name: str) -> str | None:
    path = run.folder / "figures" / f"{name}.png"
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode() if path.exists() else None


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("interp", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(f"{name}.html.jinja")


def _write(run: Run, page: str) -> Path:
    path = run.folder / "report.html"
    write_bytes(path, page.encode())
    return path
