"""Two measured models -> tidy tables: everything about a comparison that needs no model.

Models are compared on the phrases that both have. All differences are paired: the same phrase of the same image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp import plugins
from interp.comparison.pairs import contrasts_of, flat, images_of, recall_of
from interp.comparison.result import Comparison, Measured, NothingToCompare
from interp.statistics import contrasts, intervals
from interp.statistics.contrasts import KEY
from interp.statistics.nulls import halves
from interp.statistics.scores import HeadScores


def compared(
    a: Measured, b: Measured, names: tuple[str, str], *, answers: str = "reference", seed: int = 0
) -> Comparison:
    """The tables of two measured models."""
    word = "phrase" if answers == "reference" else "root"
    both = tuple(_of(m, name, word) for m, name in zip((a, b), names, strict=True))
    keys = _shared(*both)
    if not len(keys):
        raise NothingToCompare(
            f"{names[0]} has {len(a.words)} phrases and {names[1]} {len(b.words)}, and none is the same word of the "
            "same image; compare models on one data set, with answers='reference' if they say different things"
        )
    phrases = _phrases(both, names, keys)
    metrics = list(a.scores)
    higher = {name: plugins.get("metrics", name).higher_is_better for name in metrics}
    layer, head = _by_place(both, keys, higher, seed)
    return Comparison(
        models=_models(both, keys, seed),
        scores=_scores(phrases, higher, seed),
        differences=pd.concat([*contrasts_of(phrases, names, higher, seed), *recall_of(both, seed)], ignore_index=True),
        layers=pd.concat([_layers(m, seed) for m in both], ignore_index=True),
        heads=pd.concat([_heads(m) for m in both], ignore_index=True),
        layer_differences=layer,
        head_differences=head,
        phrases=phrases,
        skipped=tuple((m.name, skip) for m in both for skip in m.skipped),
        manifest={"names": list(names), "metrics": metrics, "paired": len(keys), "answers": answers, "seed": seed},
    )


def _shared(a: Measured, b: Measured) -> pd.MultiIndex:
    """The phrases that both have and that name the same thing: "a dog" and "a hot dog" share a root, not a mask."""
    own, other = contrasts.keyed(a.words), contrasts.keyed(b.words)
    keys = contrasts.shared(own, other)
    here, there = (m.words["area"].to_numpy()[contrasts.places(index, keys)] for m, index in ((a, own), (b, other)))
    same: Any = keys[here == there]
    return same


def _of(m: Measured, name: str, word: str) -> Measured:
    """The model under its name, with the column by which phrases are paired."""
    tables = {setting: table.assign(word=table[word].str.lower()) for setting, table in m.tables.items()}
    return Measured(
        **{**vars(m), "name": name, "tables": tables, "words": m.words.assign(word=m.words[word].str.lower())}
    )


def _phrases(both: Sequence[Measured], names: Sequence[str], keys: pd.MultiIndex) -> pd.DataFrame:
    """A row per phrase that both models have, model, setting, metric and choice of heads: value, null and chance."""
    frames = []
    for m in both:
        for (normalise, query), table in m.tables.items():
            table = table.assign(occurrence=table.groupby(["metric", "heads", "sample_id", "word"]).cumcount())
            inside = pd.MultiIndex.from_frame(table.loc[:, KEY]).isin(keys)
            frames.append(table[inside].assign(model=m.name, normalise=normalise, query=query))
    columns = ["model", "normalise", "query", *KEY, "image_id", "phrase", "root", "tokens", "area", "mention", "kind"]
    columns += ["partners", "half", "metric", "heads", "value", "null", "chance", "specificity"]
    return pd.concat(frames, ignore_index=True).loc[:, columns]


def _models(both: Sequence[Measured], keys: pd.MultiIndex, seed: int) -> pd.DataFrame:
    rows = []
    for m in both:
        hits, images = flat(m.named)
        image = images_of(m.words)
        hits = hits[:, None]
        interval = intervals.bootstrap(hits, images, seed=seed)
        rows.append(
            {
                "model": m.name,
                "layers": m.layers,
                "heads": m.heads_per_layer,
                "phrases": len(m.words),
                "paired": len(keys),
                "images": len({image[sample] for sample in keys.get_level_values("sample_id")}),
                "skipped": len(m.skipped),
                "recall": float(intervals.mean(hits)[0]),
                "recall_low": float(interval.low[0]),
                "recall_high": float(interval.high[0]),
                "targets": len(hits),
            }
        )
    return pd.DataFrame(rows)


def _scores(phrases: pd.DataFrame, higher: Mapping[str, bool], seed: int) -> pd.DataFrame:
    """Means, intervals and tests over the phrases that both models have: of scores, beside their nulls, and of
    specificity, beside 0."""
    frames = []
    by = ["metric", "model", "normalise", "query"]
    image = images_of(phrases)
    for key, some in phrases.groupby(by, sort=False):
        group: Any = key
        value, null, chance, specific = (
            some.set_index([*KEY, "heads"])[column].unstack("heads", sort=False)
            for column in ("value", "null", "chance", "specificity")
        )
        images = [image[sample] for sample in value.index.get_level_values("sample_id")]
        nothing = np.full(value.shape, np.nan)
        sign = 1 if higher[str(group[0])] else -1
        for quantity, own, beside, area, way in (
            ("specificity", specific, nothing, nothing, 1),
            ("score", value, null, chance, sign),
        ):
            values, nulls, chances = (np.asarray(x, dtype=np.float64) for x in (own, beside, area))
            better = (values if quantity == "specificity" else values - nulls) * way
            columns = {"heads": list(value.columns), **_tested(values, nulls, chances, better, images, seed)}
            frames.append(pd.DataFrame({"quantity": quantity, **dict(zip(by, group, strict=True)), **columns}))
    return pd.concat(frames, ignore_index=True)


def _tested(
    values: np.ndarray, null: np.ndarray, chance: np.ndarray, better: np.ndarray, images: Sequence[str], seed: int
) -> dict[str, Any]:
    """Columns of `_scores`, of arrays of phrases and choices of heads."""
    # Specificity is a difference, of which 0 and 1 make no rate.
    interval = intervals.bootstrap(values, images, seed=seed, rates=bool(np.isfinite(null).any()))
    test = intervals.sign_flip(better, images, seed=seed)
    defined = np.isfinite(values)
    return {
        "n": defined.sum(0),
        "mean": intervals.mean(values),
        "low": interval.low,
        "high": interval.high,
        "null": intervals.mean(np.where(defined, null, np.nan)),
        "chance": intervals.mean(np.where(defined, chance, np.nan)),
        "p": test.p,
        "p_corrected": test.p_corrected,
    }


def _heads(m: Measured) -> pd.DataFrame:
    """The ranking's heads under every setting, with the layer's relative depth."""
    frames = [
        frame.assign(model=m.name, normalise=normalise, query=query, depth=_depth(frame["layer"], m.layers))
        for (normalise, query), frame in m.heads.items()
    ]
    frame = pd.concat(frames, ignore_index=True)
    first = ["model", "normalise", "query", "metric", "layer", "head", "depth"]
    return frame.loc[:, [*first, *(c for c in frame if c not in first)]]


def _depth(layer: Any, layers: int) -> Any:
    """0 is the first layer, 1 the last."""
    return layer / max(layers - 1, 1)


def _layers(m: Measured, seed: int) -> pd.DataFrame:
    """Per metric and layer: the mean over heads, and the best head as chosen on the other half; with intervals."""
    frames = []
    for metric, score in m.scores.items():
        mean, best = _layer_values(score, seed)
        null = _nanmean(score.null if score.null is not None else np.full_like(score.values, np.nan))
        columns: dict[str, Any] = {"layer": score.numbers, "depth": _depth(score.numbers, m.layers)}
        for name, values in (("", mean), ("best_", best)):
            interval = intervals.bootstrap(values, score.images, seed=seed)
            ends = {f"{name}low": interval.low, f"{name}high": interval.high}
            columns |= {f"{name}mean": intervals.mean(values), **ends}
        columns["null"] = intervals.mean(null)
        frames.append(pd.DataFrame({"model": m.name, "metric": metric, **columns}))
    return pd.concat(frames, ignore_index=True)


def _layer_values(score: HeadScores, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Per phrase and layer: the mean score of its heads, and the score of its best head by the other half's images."""
    by_image = halves(seed, score.images)
    which = np.array([by_image[i] for i in score.images], dtype=np.int64)
    best = np.full(score.values.shape[:2], np.nan)
    for own in (0, 1):
        means = intervals.mean(score.values[which != own]) * (1 if score.higher_is_better else -1)
        for layer in np.flatnonzero(np.isfinite(means).any(1)):
            best[which == own, layer] = score.values[which == own, layer, np.nanargmax(means[layer])]
    return _nanmean(score.values), best


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over heads, where defined."""
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(finite, values, 0).sum(2, dtype=np.float64) / finite.sum(2)


def _by_place(
    both: Sequence[Measured], keys: pd.MultiIndex, higher: Mapping[str, bool], seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """B - A for each layer's mean over heads and for each head; without rows where the models are not alike."""
    at = [contrasts.places(contrasts.keyed(m.words), keys) for m in both]
    image = images_of(both[0].words)
    images = [image[sample] for sample in keys.get_level_values("sample_id")]
    by_layer, by_head, empty = [], [], ["quantity", "metric", "layer"]
    for quantity, part in (("specificity", "specificity"), ("score", "values")):
        for metric in higher:
            scores = [_part(m.scores[metric], part)[rows] for m, rows in zip(both, at, strict=True)]
            layers = both[0].scores[metric].numbers
            if not np.array_equal(layers, both[1].scores[metric].numbers):
                continue
            how = {"higher_is_better": higher[metric] or quantity == "specificity", "seed": seed}
            about = {"quantity": quantity, "metric": metric}
            frame = contrasts.differences(_nanmean(scores[0]), _nanmean(scores[1]), images, **how)
            by_layer.append(pd.DataFrame({**about, "layer": layers, **frame}))
            if scores[0].shape[2] == scores[1].shape[2]:
                heads = scores[0].shape[2]
                layer, head = np.repeat(layers, heads), np.tile(np.arange(heads), len(layers))
                left, right = (s.reshape(len(s), -1) for s in scores)
                frame = contrasts.differences(left, right, images, **how)
                by_head.append(pd.DataFrame({**about, "layer": layer, "head": head, **frame}))
    return (
        pd.concat(by_layer, ignore_index=True) if by_layer else pd.DataFrame(columns=empty),
        pd.concat(by_head, ignore_index=True) if by_head else pd.DataFrame(columns=[*empty, "head"]),
    )


def _part(score: HeadScores, part: str) -> np.ndarray:
    """Scores or specificity, in double precision; NaN where there is none."""
    found = getattr(score, part)
    return np.full(score.values.shape, np.nan) if found is None else found.astype(np.float64)
