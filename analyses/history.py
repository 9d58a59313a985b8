"""Noun recall and grounding of every checkpoint of a series on test scenes -> a table and a figure.

    python analyses/history.py mini-llava --samples 500 --out data/mini-llava

Noun recall: the share of a scene's objects that the generated caption names (precision: the share of the nouns in the
caption that are there). Pointing: `pointing_game` of the phrase maps of the reference caption, mean of all heads minus
the answer's mean (the paper's reduction), on predicting and on self rows, beside area-matched chance; and, for
``--generated``, on the model's own captions.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import interp
from interp.answer.capturing import captures
from interp.answer.maps import coverage, phrase_maps, reduce_heads
from interp.answer.targets import match_targets
from interp.datasets import scenes
from interp.metrics import pointing_game
from interp.statistics import intervals
from interp.types import Capture, Sample


def named(answer: str) -> set[str]:
    """The scene nouns that a text names."""
    return set(re.findall(r"[a-z]+", answer.lower())) & set(scenes.nouns())


def naming(lmm: interp.LMM, samples: Sequence[Sample], batch: int) -> dict[str, float]:
    """Noun recall and precision 0..1 over all objects of the samples."""
    hits = wanted = said = 0
    for start in tqdm(range(0, len(samples), batch), desc="captions", leave=False):
        group = samples[start : start + batch]
        answers = lmm.generate_batch([s.image for s in group], [s.prompt for s in group], max_new_tokens=56)
        for sample, answer in zip(group, answers, strict=True):
            there = {t.phrase for t in sample.targets}
            hits, wanted, said = (
                hits + len(named(answer) & there),
                wanted + len(there),
                said + len(named(answer)),
            )
    return {"noun_recall": hits / wanted, "noun_precision": hits / said if said else float("nan")}


def pointing(results: Iterable[object], samples: Sequence[Sample]) -> dict[str, float]:
    """Pointing game of the paper's reduction over all phrases that name a target, with interval and chance."""
    values, chances, ids = [], [], []
    for sample, result in zip(samples, results, strict=True):
        if not isinstance(result, Capture):
            continue
        matched = match_targets(result.phrases, sample.targets)
        if not matched:
            continue
        maps = reduce_heads(phrase_maps(result).maps, "all")[[i for i, _ in matched]]
        masks = coverage(np.stack([m for _, m in matched]), result.grid)
        values.append(pointing_game.score(maps[:, None, None], masks, masks)[:, 0])
        chances.append(pointing_game.chance(masks))
        ids += [sample.id] * len(matched)
    if not ids:
        return {"pointing": float("nan"), "low": float("nan"), "high": float("nan"), "chance": float("nan"), "n": 0}
    value = torch.cat(values).double().numpy()
    interval = intervals.bootstrap(value, ids, seed=0)
    return {
        "pointing": float(np.nanmean(value)),
        "low": float(interval.low[0]),
        "high": float(interval.high[0]),
        "chance": float(torch.cat(chances).nanmean()),
        "n": int(np.isfinite(value).sum()),
    }


def main() -> None:
    """The table, line by line as checkpoints are done; done ones are not measured again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a shipped model or a folder with base/ and checkpoint-N/")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--generated", action="store_true", help="also on the model's own captions")
    parser.add_argument("--out", type=Path, default=Path("runs/history"))
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    samples = list(scenes.load("", "test", a.samples))
    file = a.out / "history.csv"
    rows = pd.read_csv(file).to_dict("records") if file.exists() else []
    for checkpoint in interp.series(a.model).points:
        if any(row["step"] == checkpoint.step for row in rows):
            continue
        lmm = interp.load(checkpoint.place)
        row = {"step": checkpoint.step, "trained": checkpoint.kind, **naming(lmm, samples, a.batch)}
        ways = [("reference", "predicting"), ("reference", "self")] + [("generated", "predicting")] * a.generated
        for answers, query in ways:
            results = captures(lmm, samples, answers=answers, query=query, batch=a.batch, max_new_tokens=56)
            found = pointing(tqdm(results, desc=f"{answers} {query}", total=len(samples), leave=False), samples)
            row |= {f"{answers}_{query}_{key}": value for key, value in found.items()}
        rows.append(row)
        frame = pd.DataFrame(rows).sort_values("step")
        frame.to_csv(file, index=False, float_format="%.4f")
        print(frame.tail(1).to_string(), flush=True)
    draw(pd.read_csv(file), a.out / "history.png")


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Naming and pointing, checkpoint by checkpoint."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import seaborn as sns

    sns.set_theme(style="whitegrid", palette="colorblind")
    figure, axes = plt.subplots(figsize=(7.5, 4.2), constrained_layout=True)
    place = np.arange(len(frame))  # stages begin densely: side by side, each step can be read
    axes.plot(place, frame.noun_recall, "o-", label="noun recall of generated captions")
    for query, style in (("predicting", "s-"), ("self", "^:")):
        name = f"reference_{query}"
        (line,) = axes.plot(place, frame[f"{name}_pointing"], style, label=f"pointing, {query} rows, mean of all heads")
        axes.fill_between(place, frame[f"{name}_low"], frame[f"{name}_high"], alpha=0.2, color=line.get_color())
    axes.plot(place, frame.reference_predicting_chance, "k--", label="area-matched chance of pointing")
    switch = (frame.trained == "projector").sum() - 0.5
    axes.axvline(switch, color="grey", lw=1)
    axes.text(switch, 1.01, "projector | + LoRA", ha="center", va="bottom", fontsize=9)
    axes.set(xlabel="training step (checkpoints side by side)", ylabel="share (0..1)", ylim=(0, 1))
    axes.set_xticks(place, frame.step, rotation=45)
    axes.legend(fontsize=8, loc="upper left")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
