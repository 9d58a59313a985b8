"""Figures and report of an emergence run, from its saved tables and examples alone."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from interp.emergence.result import Example
from interp.emergence.tables import LEVEL
from interp.explorer.contents import contents
from interp.explorer.handle import Explorer
from interp.explorer.shown import Recording, Shown
from interp.plots import emergence as plots
from interp.plots.animated import animation
from interp.report import explorer, figures, html
from interp.report.run import Run
from interp.types import Head, Phrase, Target, layer_numbers
from interp.work.files import write_bytes

TABLES = {"heads": "emergence", "onsets": "onsets", "layers": "layers", "steps": "steps", "agreement": "agreement"} | {
    "leaders": "leaders",
    "lags": "lags",
    "orders": "orders",
}
"""Which file holds which table of `interp.emergence.result.Emergence`."""


SHOWN = 12


def draw(run: Run) -> None:
    """Writes the figures of every metric that is drawn (`figures.of`; the first is the main one) and defined."""
    heads, onsets, steps = (run.read_table(TABLES[name]) for name in ("heads", "onsets", "steps"))
    metrics = run.manifest["about"]["metrics"]
    for metric in figures.of(run, metrics, next(iter(metrics))):
        about = metrics[metric]
        if not heads.loc[heads["metric"] == metric, "mean"].notna().any():
            continue
        higher = about["higher_is_better"]
        figures.save(run, f"growth_{metric}", plots.growth(heads, onsets, metric, steps))
        figures.save(run, f"maps_{metric}", plots.small_multiples(heads, metric, higher_is_better=higher))
        figures.save(run, f"layers_{metric}", plots.layer_onsets(onsets, heads, metric))
        moving = animation(heads, metric, higher_is_better=higher)
        write_bytes(run.folder / "figures" / f"maps_{metric}.gif", moving)


def keep_examples(run: Run, examples: Sequence[Example], best: Head, metrics: Mapping[str, Any]) -> None:
    """The examples' maps at every step, for the explorer; fewer examples or steps where all would be too much."""
    how = run.manifest["arguments"]
    steps = sorted(examples[0].maps) if examples else []
    attempts = [(len(examples), 1), *((1, every) for every in (1, 2, 4, 8))] if examples else []
    explored = explorer.first_that_fits(
        lambda n=n, every=every: Explorer(
            contents(
                [_view(example, step, how) for example in examples[:n] for step in steps[::-every][::-1]],
                metrics,
                "all",
                explorer.LIMIT,
            )
        )
        for n, every in attempts
    )
    explorer.keep(run, explored and {**explored, "start": [*best]})


def _view(example: Example, step: int, how: Mapping[str, Any]) -> Shown:
    words = example.phrase.split()[-1]
    phrase = Phrase(example.phrase, words, words, 0, len(example.phrase), ())
    maps = torch.from_numpy(example.maps[step])[None]
    recording = Recording(how["query"], how["weighting"], {how["normalise"]: maps})
    group = f"image {example.sample.id}"
    about = (f"{group}, step {step}", example.sample.image, example.sample.prompt, group, (), (phrase,), 1)
    layers = layer_numbers(example.layers, maps.shape[1])
    return Shown(*about, example.grid, layers, [recording], [Target(example.phrase, example.mask)], group, step)


def clear(run: Run) -> None:
    """Takes the figures of an earlier state away: a series may have lost a checkpoint since."""
    for kind in ("growth", "maps", "layers"):
        for old in (run.folder / "figures").glob(f"{kind}_*.[pg][ni][gf]"):
            old.unlink()


def page(run: Run) -> Path:
    """The path of the written report."""
    tables = {name: run.read_table(file) for name, file in TABLES.items()}
    steps = tables["steps"]
    means = tables["heads"].groupby("metric")["mean"].count()
    defined = [metric for metric in run.manifest["about"]["metrics"] if means.get(metric, 0)]
    text = html.template("emergence").render(
        manifest=run.manifest,
        level=LEVEL,
        steps=steps["step"].tolist(),
        headlines=[headline(tables, metric) for metric in defined],
        explorer=explorer.shown(run),
        sections=[_section(run, tables, metric) for metric in defined],
        step_rows=[_step_row(row, defined) for row in steps.to_dict("records")],
        recall=bool(steps["recall"].notna().any()),
        skipped=run.manifest["skipped"],
    )
    return html.write(run, text)


def headlines(run: Run) -> list[str]:
    """What was found, a line for each metric."""
    frames = {name: run.read_table(file) for name, file in TABLES.items()}
    return [headline(frames, metric) for metric in run.manifest["about"]["metrics"]]


def tables(run: Run) -> str:
    """Where the tables lie."""
    return f"{run.folder}/emergence.parquet, onsets.parquet, ..."


def headline(tables: Mapping[str, pd.DataFrame], metric: str) -> str:
    """What was found for the metric, in words with numbers: heads that come to know the word, and to look at things."""
    onsets = tables["onsets"].query("metric == @metric")
    name, last = metric.replace("_", " ").capitalize(), tables["steps"]["step"].max()
    at_last = tables["heads"].query("metric == @metric and step == @last")
    basis = f"{int(np.max(at_last['n']))} phrases on {int(np.max(at_last['images']))} images"
    rule = f"from the first step on at which corrected p < {LEVEL} and stays so to the last"
    said = [f"{name} ({basis}; {rule}): {_begun(onsets, '_word', 'tell the named thing from the others', last)};"]
    said.append(f"{_begun(onsets, '', 'look at things at all', last)}.")
    order = tables["orders"].query("metric == @metric").iloc[0]
    if math.isfinite(order["lag"]):
        said.append(
            f"Of the heads that tell it, looking at things is half-way up at step {order['things_half']:.3g}, telling "
            f"the named one at step {order['words_half']:.3g}: {_lag(order, 'things', 'words')}."
        )
    lag = tables["lags"].query("metric == @metric").iloc[0]
    if math.isfinite(lag["lag"]):
        said.append(
            f"The caption loss is half-way down at step {lag['loss_half']:.3g}, grounding half-way up at step "
            f"{lag['grounding_half']:.3g}: {_lag(lag, 'the loss', 'grounding')}."
        )
    return " ".join(said)


def _begun(onsets: pd.DataFrame, end: str, what: str, last: Any) -> str:
    """How many heads have begun, in which stages, the first one and the median."""
    found = onsets.dropna(subset=[f"onset{end}"]).sort_values([f"onset{end}", "layer", "head"], kind="stable")
    if found.empty:
        return f"no head of {len(onsets)} comes to {what} by step {last}"
    first, steps = found.iloc[0], np.sort(found[f"onset{end}"])
    stages = found[f"stage{end}"].value_counts(sort=False).items()
    by_stage = ", ".join(f"{count} in the stage “{stage}”" for stage, count in stages)
    return (
        f"{len(found)} of {len(onsets)} heads come to {what} ({by_stage}; first {_name(first)} from step "
        f"{first[f'onset{end}']:g}, half of them by step {steps[(len(found) - 1) // 2]:g})"
    )


def _lag(row: Any, first: str, second: str) -> str:
    """Which comes first, if the interval says so."""
    interval = f"95 % interval {row['low']:.3g} to {row['high']:.3g} steps"
    if not math.isfinite(row["low"]) or row["low"] <= 0 <= row["high"]:
        return f"which comes first is open ({second} − {first} {row['lag']:.3g}, {interval})"
    before, after = (first, second) if row["lag"] > 0 else (second, first)
    return f"{after} come after {before} ({second} − {first} {row['lag']:.3g}, {interval})"


def _section(run: Run, tables: Mapping[str, pd.DataFrame], metric: str) -> dict[str, Any]:
    onsets = tables["onsets"].query("metric == @metric and (onset == onset or onset_word == onset_word)")
    agreement = tables["agreement"].query("metric == @metric")
    last = tables["steps"]["step"].max()
    to_last = agreement[agreement["step_b"] == last].set_index("step_a")
    leading = tables["leaders"].query("metric == @metric")
    rows = []
    for step, some in leading.groupby("step"):
        there = to_last.loc[step] if step in to_last.index else None
        rows.append(
            {
                "step": step,
                "heads": ", ".join(map(_name, some.sort_values("place").to_dict("records"))),
                "tau": html.number(there["tau"]) if there is not None else "–",
                "overlap": html.number(there["overlap"]) if there is not None else "–",
            }
        )
    best = onsets.sort_values("specificity", ascending=False, kind="stable").head(SHOWN)
    return {
        "title": metric.replace("_", " "),
        "growth": _picture(run, f"growth_{metric}.png"),
        "maps": _picture(run, f"maps_{metric}.png"),
        "animation": _picture(run, f"maps_{metric}.gif"),
        "layer_onsets": _picture(run, f"layers_{metric}.png"),
        "k": int(agreement["k"].iloc[0]) if len(agreement) else 0,
        "leaders": rows,
        "heads": [_head(row) for row in best.to_dict("records")],
    }


def _head(row: Mapping[Any, Any]) -> dict[str, str]:
    columns = ("first", "final", "low", "high", "null", "specificity", "specificity_low", "specificity_high")
    steps = {name: f"{row[name]:g}" if math.isfinite(row[name]) else "–" for name in ("onset", "onset_word")}
    tested = {name: html.p_value(row[name]) for name in ("p_corrected", "p_specific")}
    return {name: html.number(row[name]) for name in columns} | steps | tested | {"name": _name(row)}


def _name(row: Mapping[Any, Any]) -> str:
    return str(Head(int(row["layer"]), int(row["head"])))


def _step_row(row: Mapping[Any, Any], metrics: Sequence[str]) -> dict[str, Any]:
    def between(name: str) -> str:
        return f"{html.number(row[f'{name}_low'])} to {html.number(row[f'{name}_high'])}"

    return {
        "step": row["step"],
        "stage": row["stage"],
        "loss": html.number(row["loss"]),
        "loss_interval": between("loss"),
        "recall": html.number(row["recall"]),
        "recall_interval": between("recall"),
        "counts": [(row[f"specific_{metric}"], row[f"grounding_{metric}"]) for metric in metrics],
    }


def _picture(run: Run, name: str) -> str | None:
    path = run.folder / "figures" / name
    kind = "gif" if name.endswith("gif") else "png"
    return f"data:image/{kind};base64," + base64.b64encode(path.read_bytes()).decode() if path.exists() else None
