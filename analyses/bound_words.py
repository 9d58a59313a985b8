"""Whether words that the text has told are named right and looked at before they are said: a table, kind by kind.

    python analyses/bound_words.py mini-llava runs/llava-3 --samples 500 --out runs/bound

Per model and kind of phrase of `bound_scenes`: ``named``, the share of first mentions at whose first token the model's
own noun is more probable than that of every other thing in the scene (teacher-forced), beside ``chance`` (a guess among
the scene's things) and ``left`` (a guess among those not yet named); ``specificity`` of the best three heads in the
predicting row of the first token, pointing game, chosen on one half of the images by that kind and measured on the
other; and ``free``: the same heads on free phrases. Intervals are 95 % over images. Noun recall is that of the model's
own captions.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import interp
from interp.answer.phrases import answer_text, find_phrases
from interp.answer.recall import named_targets
from interp.answer.replay import answer_ids
from interp.answer.targets import targets_named
from interp.datasets import scenes
from interp.datasets.scenes.bound import plural
from interp.statistics import intervals
from interp.statistics.nulls import halves
from interp.types import Sample

BEST, METRIC = 3, "pointing_game"


@torch.no_grad()
def named_right(lmm: Any, samples: Sequence[Sample], batch: int) -> pd.DataFrame:
    """``image_id kind right chance left``, a row per first mention: is its noun's first token the likeliest of those of
    the scene's things? A tie of two nouns that begin alike counts for one half."""
    rows = []
    for start in tqdm(range(0, len(samples), batch), desc="named", leave=False):
        group = samples[start : start + batch]
        texts = [lmm.family.template(lmm.processor, s.prompt) for s in group]
        ids = [answer_ids(lmm.tokenizer, text, s.answer or "") for text, s in zip(texts, group, strict=True)]
        inputs = lmm.inputs([s.image for s in group], texts)
        longest, pad = max(map(len, ids)), lmm.tokenizer.pad_token_id
        answers = torch.tensor([some + [pad] * (longest - len(some)) for some in ids], device=lmm.device)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answers], 1)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], (answers != pad).long()], 1)
        logits = lmm.model(**inputs).logits[:, -longest - 1 : -1].float().cpu()
        for sample, own, row in zip(group, ids, logits, strict=True):
            rows += _mentions(lmm.tokenizer, sample, own, row)
    return pd.DataFrame(rows)


def _mentions(tokenizer: Any, sample: Sample, ids: list[int], logits: torch.Tensor) -> list[dict[str, Any]]:
    """The first mentions of one sample."""
    text, offsets = answer_text(tokenizer, ids, sample.answer)
    rows, said = [], set[int]()
    phrases = find_phrases(text, offsets)
    for phrase, some in zip(phrases, targets_named(phrases, sample.targets), strict=True):
        if len(some) != 1 or some[0] in said:
            continue
        said.add(some[0])
        many = phrase.root.lower() == plural(sample.targets[some[0]].phrase)
        nouns = [plural(t.phrase) if many else t.phrase for t in sample.targets]
        first = [tokenizer(f" {noun}", add_special_tokens=False).input_ids[0] for noun in nouns]
        if ids[phrase.tokens[0]] != first[some[0]]:
            continue  # a noun that begins the sentence, in capitals
        at = logits[phrase.tokens[0]]
        right = all(at[first[some[0]]] >= at[one] for one in first) / first.count(first[some[0]])
        there, left = len(first), len(first) - len(said) + 1
        kind = sample.targets[some[0]].kind
        rows.append({"image_id": sample.image_id, "kind": kind, "right": right, "chance": 1 / there, "left": 1 / left})
    return rows


def specific(lmm: Any, samples: Sequence[Sample], batch: int) -> tuple[pd.DataFrame, np.ndarray]:
    """What `interp.rank` knows of each phrase, and its specificity (phrase, layer, head) in the first token's row."""
    found = interp.rank(lmm, samples, [METRIC], batch=batch, rows="first", progress=False, nulls=0)
    phrases = found.phrases[found.phrases["heads"] == "paper"].reset_index(drop=True)
    scores = found.scores[METRIC].specificity
    assert scores is not None
    return phrases, scores


def best_heads(phrases: pd.DataFrame, scores: np.ndarray, kind: str, measured: str) -> tuple[pd.Series, set[str]]:
    """Mean specificity of each ``measured`` phrase's three heads, which are the best for ``kind`` on the other half of
    the images; and the heads that are among them on either half."""
    which = halves(0, list(phrases["image_id"]))
    half = phrases["image_id"].map(which).to_numpy()
    parts, names = [], set[str]()
    for own in (0, 1):
        chosen = scores[((phrases["kind"] == kind) & (half != own)).to_numpy()]
        flat = np.nan_to_num(_mean(chosen).ravel(), nan=-np.inf)
        top = np.argsort(-flat, kind="stable")[:BEST]
        names |= {f"L{k // scores.shape[2]} H{k % scores.shape[2]}" for k in top}
        there = (phrases["kind"] == measured) & (half == own)
        values = scores[there.to_numpy()].reshape(int(there.sum()), -1)[:, top].mean(1)
        parts.append(pd.Series(values, phrases.loc[there, "image_id"]))
    return pd.concat(parts), names


def _mean(values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.nansum(values, 0) / np.isfinite(values).sum(0)


def estimate(values: pd.Series) -> tuple[float, float, float]:
    """Mean with its interval over images; the index holds the images."""
    kept = values.dropna().astype(float)
    if kept.empty:
        return np.nan, np.nan, np.nan
    ends = intervals.bootstrap(kept.to_numpy()[:, None], kept.index.tolist(), seed=0, rates=False)
    return float(kept.mean()), float(ends.low[0]), float(ends.high[0])


def measured(name: str, scenes_: int, batch: int, device: str) -> pd.DataFrame:
    """The rows of one model over that many test scenes."""
    lmm = interp.load(name, device=device)
    samples = [s for i in range(scenes_) for s in scenes.described_samples("test", i)]
    right, (phrases, scores) = named_right(lmm, samples, batch), specific(lmm, samples, batch)
    free = [s for s in samples if {t.kind for t in s.targets} == {"free"}]
    hits = [h for i in range(0, len(free), batch) for h in named_targets(lmm, free[i : i + batch], 56)]
    recall = pd.Series(np.concatenate(hits), [s.image_id for s, h in zip(free, hits, strict=True) for _ in h])
    rows = []
    for kind in get_args(scenes.Kind):
        own = right[right["kind"] == kind].set_index("image_id")
        row = {"model": name, "kind": kind, "n": len(own), "chance": own["chance"].mean(), "left": own["left"].mean()}
        best, heads = best_heads(phrases, scores, kind, kind)
        for label, values in (
            ("named", own["right"]),
            ("specificity", best),
            ("free", best_heads(phrases, scores, kind, "free")[0]),
            ("recall", recall if kind == "free" else pd.Series(dtype=float)),
        ):
            row |= dict(zip((label, f"{label}_low", f"{label}_high"), estimate(values), strict=True))
        rows.append(row | {"heads": ", ".join(sorted(heads))})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """The table to read."""
    columns = ["model", "kind", "phrases", "named right", "chance", "left", "specificity", "on free", "heads"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in table.to_dict("records"):
        named, own, free = (_cell(row, key) for key in ("named", "specificity", "free"))
        chances = [f"{row['chance']:.3f}", f"{row['left']:.3f}"]
        cells = [row["model"], row["kind"], str(row["n"]), named, *chances, own, free, row["heads"]]
        lines.append("| " + " | ".join(cells) + " |")
    recalls = table[table["kind"] == "free"].to_dict("records")
    lines += [f"\nNoun recall of {row['model']}: {_cell(row, 'recall')}." for row in recalls]
    return "\n".join(lines) + "\n"


def _cell(row: Any, key: str) -> str:
    """A number with its interval."""
    return f"{row[key]:.3f} [{row[f'{key}_low']:.3f}, {row[f'{key}_high']:.3f}]"


def main() -> None:
    """OUT/bound_words.csv and .md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="shipped names, folders or hub ids")
    parser.add_argument("--samples", type=int, default=500, help="scenes, each with its captions")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/bound"))
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    table = pd.concat([measured(name, a.samples, a.batch, a.device) for name in a.models], ignore_index=True)
    table.to_csv(a.out / "bound_words.csv", index=False, float_format="%.4f")
    (a.out / "bound_words.md").write_text(markdown(table))
    print(markdown(table))


if __name__ == "__main__":
    main()
