"""Grounding and noun recall of trained variants, and the table of all of them."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import interp
from interp.answer.recall import named_targets
from interp.datasets import scenes
from over_trainings import INDEX, Estimate, one_training, over_trainings, verdict

METRIC = "pointing_game"


def measure(folder: Path, a: argparse.Namespace) -> tuple[pd.DataFrame, pd.Series]:
    """Grounding per phrase and choice of heads, and whether the model's own answer names each target."""
    kept = folder / f"measured-{a.samples}"
    if not (kept / "named.parquet").exists():
        kept.mkdir(exist_ok=True)
        lmm, samples = interp.load(folder, device=a.device), list(scenes.load(split="test", samples=a.samples))
        interp.rank(lmm, samples, [METRIC], batch=a.batch).phrases.to_parquet(kept / "phrases.parquet")
        naming(lmm, samples, a.batch).to_parquet(kept / "named.partial")
        (kept / "named.partial").rename(kept / "named.parquet")
        del lmm
        gc.collect()
    named = pd.read_parquet(kept / "named.parquet").assign(occurrence=0)
    phrases = pd.read_parquet(kept / "phrases.parquet").assign(word=lambda f: f["phrase"].str.lower())
    phrases["occurrence"] = phrases.groupby(["metric", "heads", "sample_id", "word"]).cumcount()
    return phrases, named.set_index(INDEX)["value"].astype(np.float64)


def naming(lmm: Any, samples: list[Any], batch: int) -> pd.DataFrame:
    """``sample_id image_id word value``: whether the model's own answer names each target."""
    rows = []
    for first in range(0, len(samples), batch):
        group = samples[first : first + batch]
        for sample, named in zip(group, named_targets(lmm, group, max_new_tokens=56), strict=True):
            about = {"sample_id": sample.id, "image_id": sample.image_id}
            rows += [{**about, "word": f"target {i}", "value": x} for i, x in enumerate(named)]
    return pd.DataFrame(rows)


def table(measured: dict[tuple[str, int], tuple[pd.DataFrame, pd.Series]]) -> pd.DataFrame:
    """A row per variant, measure and seed (and ``all``): its mean and how much more than ``both``, with intervals."""
    found: dict[tuple[str, str], dict[int, pd.Series]] = {}
    for (variant, seed), (phrases, named) in measured.items():
        found.setdefault((variant, "noun recall"), {})[seed] = named
        for heads, rows in phrases.groupby("heads"):
            found.setdefault((variant, f"{METRIC}, {heads}"), {})[seed] = rows.set_index(INDEX)["value"]
    result = []
    for (variant, measure_), each in found.items():
        beside = found.get(("both", measure_), {})
        gaps = {seed: values - beside[seed] for seed, values in each.items() if seed in beside}
        about = {"variant": variant, "measure": measure_}
        for seed, values in each.items():
            gap = one_training(gaps[seed]) if seed in gaps else None
            result.append({**about, "seed": str(seed), **_columns(one_training(values), gap)})
        total = over_trainings([*gaps.values()]) if gaps else None
        result.append({**about, "seed": "all", **_columns(over_trainings([*each.values()]), total)})
    return pd.DataFrame(result)


def _columns(own: Estimate, gap: Estimate | None) -> dict[str, Any]:
    beside = gap or Estimate(np.nan, np.nan, np.nan)
    more = {"more_than_both": beside.mean, "more_low": beside.low, "more_high": beside.high}
    return own._asdict() | more | {"verdict": verdict(beside).replace("holds", "better").replace("reversed", "worse")}
