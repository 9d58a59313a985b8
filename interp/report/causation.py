"""Figures and report of a study of effects, from its saved tables alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from interp.plots import cause as plots
from interp.plots.heads import heat_map
from interp.report import figures, html
from interp.report.run import Run

MAIN = "logprob"


TOP = 10


def draw(run: Run) -> None:
    """Writes the figures of every measure that is drawn (`figures.of`)."""
    tables: dict[str, Any] = {n: run.read_table(n) for n in ("heads", "correlation", "sets", "edges", "layers")}
    metric = next(iter(run.manifest["about"]["metrics"]))
    for measure in figures.of(run, tables["edges"]["measure"].unique(), MAIN):
        own = tables["heads"][tables["heads"]["metric"] == measure]
        if own["mean"].notna().any():
            rho = tables["correlation"].set_index("measure").loc[measure]
            figures.save(run, f"against_{measure}", plots.against(tables["heads"], metric, measure, rho))
            figures.save(run, f"heads_{measure}", heat_map(tables["heads"], measure, **_said(measure)))
        figures.save(run, f"sets_{measure}", plots.sets(tables["sets"], measure))
        figures.save(run, f"edges_{measure}", plots.edges(tables["edges"], measure))
        if measure in set(tables["layers"]["measure"]):
            figures.save(run, f"layers_{measure}", plots.by_layer(tables["layers"], measure))


def _said(measure: str) -> dict[str, Any]:
    """The words on the heat map of a measure."""
    return {
        "title": f"greatest {plots.MEASURES[measure]}",
        "label": plots.MEASURES[measure],
        "dot": "more than the other heads of the layer",
    }


def page(run: Run) -> Path:
    """The path of the written report."""
    names = ("heads", "correlation", "sets", "edges", "contrasts", "phrases")
    tables: dict[str, Any] = {name: run.read_table(name) for name in names}
    metric = next(iter(run.manifest["about"]["metrics"]))
    measures = [m for m in plots.MEASURES if m in set(tables["edges"]["measure"])]
    text = html.template("effects").render(
        manifest=run.manifest,
        level=html.LEVEL,
        metric=html.words(metric),
        headline=headline(run),
        plain=_plain(tables["phrases"]),
        sections=[_section(run, tables, metric, measure) for measure in measures],
        skipped=html.skipped_rows(run),
    )
    return html.write(run, text)


def headlines(run: Run) -> list[str]:
    """What was found, a line each."""
    return [headline(run)]


def tables(run: Run) -> str:
    """Where the tables lie."""
    return f"{run.folder}/heads.parquet, sets.parquet, edges.parquet, ..."


def headline(run: Run) -> str:
    """What was found, in words with numbers: a word's thing hidden, the best heads away, grounding against effect."""
    metric = next(iter(run.manifest["about"]["metrics"]))
    edges, contrasts = (_main(run.read_table(name)).set_index("keys") for name in ("edges", "contrasts"))
    sets = _main(run.read_table("sets")).set_index("unit")
    rho = _main(run.read_table("correlation")).iloc[0]
    said = [
        f"A word whose own thing is hidden from the row that predicts it loses {_span(edges.loc['own'])} nats of "
        f"log-probability, with as much background hidden {_span(edges.loc['background'])}; the paired difference is "
        f"{_span(contrasts.loc['background'], 'difference')}."
    ]
    for name in [n for n in ("top3",) if n in sets.index]:
        row = sets.loc[name]
        said.append(
            f"Without the three best heads by {html.words(metric)} it loses {_span(row)}, without three random heads "
            f"of the same layers {html.number(row['null'])}; among {row['random']:.0f} such sets the best heads have "
            f"rank {row['rank_among_random']:.0f} (p {html.p_value(row['p_random'])})."
        )
    said.append(
        f"Over {int(rho['heads'])} heads, score and effect have a rank correlation of {html.number(rho['rho'])} "
        f"({html.number(rho['low'])} to {html.number(rho['high'])}), within layers {html.number(rho['rho_within'])} "
        f"({html.number(rho['low_within'])} to {html.number(rho['high_within'])})."
    )
    return " ".join(said)


def _main(table: pd.DataFrame) -> pd.DataFrame:
    return table.loc[table["measure"] == MAIN]


def _span(row: Any, column: str = "mean") -> str:
    return f"{html.number(row[column])} ({html.number(row['low'])} to {html.number(row['high'])})"


def _plain(phrases: Any) -> dict[str, str]:
    """What the model does untouched."""
    return {
        "phrases": str(len(phrases)),
        "images": str(phrases["sample_id"].nunique()),
        "logprob": html.number(phrases["logprob"].mean()),
        "first": f"{(phrases['rank'] == 1).mean():.0%}",
        "named": "–" if phrases["named"].isna().all() else f"{phrases['named'].mean():.0%}",
    }


def _section(run: Run, tables: dict[str, Any], metric: str, measure: str) -> dict[str, Any]:
    kinds = ("against", "edges", "layers", "sets", "heads")
    own = tables["heads"][tables["heads"]["metric"] == measure]
    grounding = tables["heads"][tables["heads"]["metric"] == metric].set_index(["layer", "head"])
    best = own.dropna(subset=["mean"]).sort_values("mean", ascending=False).head(TOP).to_dict("records")
    sets, edges, contrasts = (tables[n][tables[n]["measure"] == measure] for n in ("sets", "edges", "contrasts"))
    return {
        "measure": measure,
        "title": plots.MEASURES[measure],
        "pictures": [p for kind in kinds if (p := html.picture(run, f"{kind}_{measure}"))],
        "heads": [_head(row, grounding.loc[(row["layer"], row["head"])]) for row in best],
        "sets": [_set(row) for row in sets.to_dict("records")],
        "edges": [_edge(row, contrasts) for row in edges.to_dict("records")],
    }


def _head(row: dict[Any, Any], grounding: Any) -> dict[str, str]:
    numbers = {name: html.number(row[name]) for name in ("mean", "low", "high", "null")}
    tested = {"p_corrected": html.p_value(row["p_corrected"])}
    place = {"grounding": html.number(grounding["mean"]), "place": f"{grounding['rank']:.0f}"}
    return {"name": html.head_name(row), **numbers, **tested, **place}


def _set(row: dict[Any, Any]) -> dict[str, str]:
    numbers = {name: html.number(row[name]) for name in ("mean", "low", "high", "null")}
    gap = {name: html.number(row[f"gap_{name}"]) for name in ("difference", "low", "high")}
    return {
        "name": f"{row['unit']} ({row['size']} heads)",
        **numbers,
        "gap": f"{gap['difference']} ({gap['low']} to {gap['high']})",
        "rank": f"{row['rank_among_random']:.0f} of {row['random']:.0f}",
        "p": html.p_value(row["p_random"]),
    }


def _edge(row: dict[Any, Any], contrasts: Any) -> dict[str, str]:
    there = contrasts[contrasts["keys"] == row["keys"]].to_dict("records")
    return {
        "name": plots.KINDS[row["keys"]],
        "n": str(int(row["n"])),
        "patches": html.number(row["patches"]),
        **{name: html.number(row[name]) for name in ("mean", "low", "high")},
        "gap": _span(there[0], "difference") if there else "",
        "p": html.p_value(there[0]["p"]) if there else "",
    }
