"""Figures, report and plain tables of a comparison, from its saved tables alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from interp.plots import compare as plots
from interp.report import figures, html
from interp.report.run import Run
from interp.work.files import write_bytes

COLUMNS = [
    "quantity",
    "metric",
    "contrast",
    "model",
    "heads",
    "a_is",
    "b_is",
    "n",
    "images",
    "a",
    "b",
    "difference",
    "low",
    "high",
]
COLUMNS += ["p", "p_corrected", "favours"]


FILES = ("models", "scores", "differences", "layers", "heads", "layer_differences", "head_differences", "phrases")
"""The tables of `interp.comparison.result.Comparison`."""


CHANGED = {"model, normalise changed": "the other normalisation", "model, query changed": "the other row"}


def draw(run: Run) -> None:
    """Writes three figures for every metric that is drawn (`figures.of`) and defined somewhere."""
    tables: dict[str, Any] = {n: run.read_table(n) for n in ("heads", "head_differences", "layers", "differences")}
    heads = tables["heads"]
    main = heads[(heads["normalise"] == heads["normalise"].iloc[0]) & (heads["query"] == heads["query"].iloc[0])]
    metrics = run.manifest["about"]["metrics"]
    for metric in figures.of(run, metrics, _main(run)):
        about = metrics[metric]
        if not main.loc[main["metric"] == metric].groupby("model")["mean"].any().all():
            continue
        how = {"higher_is_better": about["higher_is_better"]}
        quantity = _quantity(tables["differences"], metric)
        gaps = tables["head_differences"][tables["head_differences"]["quantity"] == quantity]
        by = {"score": "mean"}.get(quantity, quantity)
        figures.save(run, f"heads_{metric}", plots.side_by_side(main, metric, gaps, by=by, **how))
        figures.save(run, f"layers_{metric}", plots.profiles(tables["layers"], metric, **how))
        own = tables["differences"][tables["differences"]["metric"] == metric]
        if own["difference"].notna().any():
            figures.save(run, f"effects_{metric}", plots.effects(own, metric, quantity=quantity, **how))


def _main(run: Run) -> str:
    """The metric that the report opens with."""
    return figures.headline(
        run.read_table("scores").filter(["metric", "p_corrected"]), run.manifest["about"]["metrics"]
    )


def _quantity(differences: Any, metric: str) -> str:
    """Specificity where it is defined for this metric, else the score."""
    own = differences[(differences["metric"] == metric) & (differences["quantity"] == "specificity")]
    return "specificity" if own["difference"].notna().any() else "score"


def page(run: Run) -> Path:
    """The path of the written report."""
    tables = {name: run.read_table(name) for name in ("models", "scores", "differences")}
    names = run.manifest["comparison"]["names"]
    main = _main(run)
    metrics = sorted(run.manifest["about"]["metrics"], key=lambda name: name != main)
    text = html.template("compare").render(
        manifest={**run.manifest, "weights": ", ".join(f"{k} {m['weights']}" for k, m in _models(run).items())},
        names=names,
        level=html.LEVEL,
        headline=headline(run),
        models=[_model(row) for row in tables["models"].to_dict("records")],
        recall=_recall(tables["differences"]),
        sections=[_section(run, tables, metric) for metric in metrics],
        skipped=html.skipped_rows(run),
    )
    return html.write(run, text)


def headlines(run: Run) -> list[str]:
    """What was found, a line each."""
    return [headline(run)]


def tables(run: Run) -> str:
    """Where the tables lie, for reading and for papers."""
    return f"{', '.join(str(path) for path in write_text(run))}, scores.parquet, ..."


def headline(run: Run) -> str:
    """What was found, in words with numbers: B - A for the mean of all heads, and for the best three."""
    differences, models = run.read_table("differences"), run.read_table("models")
    names = run.manifest["comparison"]["names"]
    main = _main(run)
    quantity = _quantity(differences, main)
    own = differences[(differences["metric"] == main) & (differences["contrast"] == "model")]
    own = own.loc[own["quantity"] == quantity, :].set_index("heads")
    paired, images = int(models["paired"].iloc[0]), int(models["images"].iloc[0])
    basis = f"{paired} phrases on {images} images of {run.manifest['arguments']['dataset']}"
    said = [
        f"{what} {html.number(own.loc[choice, 'a'])} in {names[0]} and {html.number(own.loc[choice, 'b'])} in "
        f"{names[1]}, a difference of {_signed(own.loc[choice])}, {_verdict(own.loc[choice], names)}"
        for choice, what in (("paper", "mean map of all heads"), ("top3", "best three heads, chosen on the other half"))
    ]
    what = "specificity: telling the named thing from the others" if quantity == "specificity" else "score"
    return f"{html.words(main).capitalize()}, {what}, over the same {basis}: {'; '.join(said)}."


def write_text(run: Run) -> list[Path]:
    """``comparison.csv`` (every paired difference) and ``comparison.md`` (the main ones) for papers and issues."""
    differences = run.read_table("differences")
    table, text = run.folder / "comparison.csv", run.folder / "comparison.md"
    write_bytes(table, differences[COLUMNS].to_csv(index=False, float_format="%.6g").encode())
    write_bytes(text, markdown(run).encode())
    return [table, text]


def markdown(run: Run) -> str:
    """The comparison as Markdown: means of both models, paired differences with 95 % intervals, effects in each."""
    tables: dict[str, Any] = {name: run.read_table(name) for name in ("models", "differences")}
    names = run.manifest["comparison"]["names"]
    lines = [f"# {names[1]} beside {names[0]}", "", headline(run), ""]
    rows = [_model(row) for row in tables["models"].to_dict("records")]
    head = ["model", "layers", "heads", "phrases", "paired", "recall", "recall_interval"]
    lines += _grid(head, [[row[c] for c in head] for row in rows])
    if recall := _recall(tables["differences"]):
        lines += ["", f"Noun recall, {names[1]} − {names[0]}: {recall['difference']} ({recall['interval']})."]
    for metric in run.manifest["about"]["metrics"]:
        own = tables["differences"][tables["differences"]["metric"] == metric]
        rows = [_row(row, names) for row in own.to_dict("records")]
        head = ["what", "quantity", "heads", "n", "a", "b", "difference", "interval", "p"]
        lines += ["", f"## {html.words(metric)}", ""]
        lines += _grid(head, [[row[c] for c in head] for row in rows])
    return "\n".join(lines) + "\n"


def _grid(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(name.replace("_", " ") for name in head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]


def _section(run: Run, tables: Mapping[str, Any], metric: str) -> dict[str, Any]:
    about, names = run.manifest["about"]["metrics"][metric], run.manifest["comparison"]["names"]
    own = tables["differences"][tables["differences"]["metric"] == metric]
    scores = tables["scores"][tables["scores"]["metric"] == metric]
    return {
        "metric": metric,
        "title": html.words(metric),
        "about": about,
        "first_line": html.first_line(about["doc"]),
        "pictures": [p for kind in ("effects", "heads", "layers") if (p := html.picture(run, f"{kind}_{metric}"))],
        "defined": bool(tables["scores"].loc[tables["scores"]["metric"] == metric, "mean"].notna().any()),
        "model_rows": [_row(row, names) for row in own.to_dict("records") if _between(row)],
        "effect_rows": [_row(row, names) for row in own.to_dict("records") if not _between(row)],
        "scores": [_score(row) for row in scores.to_dict("records")],
    }


def _between(row: Mapping[Any, Any]) -> bool:
    """Whether the difference is one between the models, and not within one."""
    return row["contrast"] == "recall" or str(row["contrast"]).startswith("model")


def _row(row: Mapping[Any, Any], names: Sequence[str]) -> dict[str, str]:
    """A paired difference, ready to be read."""
    what = {
        "model": f"{names[1]} − {names[0]}",
        "normalise": f"{row['model']}: mean subtracted − raw",
        "query": f"{row['model']}: predicting − own row",
        "heads": f"{row['model']}: few − all heads",
    }.get(str(row["contrast"]), f"{names[1]} − {names[0]}, {CHANGED.get(str(row['contrast']), row['contrast'])}")
    return {
        "what": what,
        "quantity": str(row["quantity"]),
        "heads": html.REDUCTIONS.get(str(row["heads"]), str(row["heads"])),
        "n": str(int(row["n"])),
        "a": html.number(row["a"]),
        "b": html.number(row["b"]),
        "difference": _plus(row["difference"]),
        "interval": f"{_plus(row['low'])} to {_plus(row['high'])}",
        "p": html.p_value(row["p"]),
        "p_corrected": html.p_value(row["p_corrected"]),
        "favours": str(row["favours"]),
    }


def _score(row: Mapping[Any, Any]) -> dict[str, str]:
    numbers = {name: html.number(row[name]) for name in ("mean", "low", "high", "null", "chance")}
    tested = {name: html.p_value(row[name]) for name in ("p", "p_corrected")}
    setting = f"{'mean subtracted' if row['normalise'] == 'answer' else 'raw'}, {row['query']} row"
    about = {
        "model": row["model"],
        "quantity": row["quantity"],
        "setting": setting,
        "heads": html.REDUCTIONS[row["heads"]],
        "n": str(row["n"]),
    }
    return numbers | tested | about


def _models(run: Run) -> Mapping[str, Any]:
    return run.manifest.get("models", {})


def _model(row: Mapping[str, Any]) -> dict[str, str]:
    about = {name: str(row[name]) for name in ("model", "layers", "heads", "phrases", "paired", "skipped")}
    low, high = html.number(row["recall_low"]), html.number(row["recall_high"])
    return about | {"recall": html.number(row["recall"]), "recall_interval": f"{low} to {high}"}


def _recall(differences: pd.DataFrame) -> dict[str, str] | None:
    own = differences.loc[differences["contrast"] == "recall", :].to_dict("records")
    return _row(own[0], ("", "")) if own else None


def _plus(value: Any) -> str:
    text = html.number(value)
    return text if text == "–" or value < 0 else f"+{text}"


def _signed(row: Any) -> str:
    return f"{_plus(row['difference'])} (95 % interval {_plus(row['low'])} to {_plus(row['high'])})"


def _verdict(row: Any, names: Sequence[str]) -> str:
    better = {"a": names[0], "b": names[1]}.get(row["favours"])
    return f"in favour of {better}" if better else "which leaves open which one is better"
