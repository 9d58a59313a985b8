"""Paired differences between two measured models, and within each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp.comparison.result import CHOICES, EFFECTS, QUANTITIES, Measured
from interp.statistics import contrasts


def flat(named: Mapping[str, np.ndarray]) -> tuple[np.ndarray, list[str]]:
    """Every target as 0 or 1, and its image."""
    images = [image for image, hits in named.items() for _ in hits]
    return np.concatenate([*named.values(), np.zeros(0)]).astype(np.float64), images


def recall_of(both: Sequence[Measured], seed: int) -> list[pd.DataFrame]:
    """Noun recall, B - A, over the targets of the images that both models answered."""
    common = [image for image in both[0].named if image in both[1].named]
    if not common:
        return []
    (a, images), (b, _) = (flat({i: m.named[i] for i in common}) for m in both)
    frame = contrasts.differences(a[:, None], b[:, None], images, higher_is_better=True, seed=seed)
    about = {"quantity": "score", "metric": "noun_recall", "contrast": "recall", "model": "", "heads": ""}
    return [_labelled(frame, about, both[0].name, both[1].name)]


def contrasts_of(
    phrases: pd.DataFrame, names: tuple[str, str], higher: Mapping[str, bool], seed: int, raw: Sequence[str]
) -> list[pd.DataFrame]:
    """All paired differences between models, settings and choices of heads, of specificity and of scores. ``raw``:
    metrics that get the raw attention, whatever the normalisation."""
    frames = []
    main, image = tuple(phrases[["normalise", "query"]].iloc[0]), images_of(phrases)
    for quantity, column in QUANTITIES.items():
        for metric, some in phrases.groupby("metric", sort=False):
            table = contrasts.wide(some.assign(value=some[column]), ["model", "normalise", "query", "heads"])
            images = [image[sample] for sample in table.index.get_level_values("sample_id")]
            better = higher[str(metric)] or quantity == "specificity"
            for contrast, model, a, b, columns in _pairs(table.columns, names, main, str(metric) in raw):
                left, right = (table[[c[side] for c in columns]].to_numpy(dtype=np.float64) for side in (0, 1))
                frame = contrasts.differences(left, right, images, higher_is_better=better, seed=seed)
                about = {"quantity": quantity, "metric": metric, "contrast": contrast, "model": model}
                frames.append(_labelled(frame, {**about, "heads": [c[1][-1] for c in columns]}, a, b))
    return frames


def images_of(phrases: pd.DataFrame) -> dict[str, str]:
    """Sample id -> image id."""
    return dict(zip(phrases["sample_id"], phrases["image_id"], strict=True))


def _labelled(frame: pd.DataFrame, about: Mapping[str, Any], a: str, b: str) -> pd.DataFrame:
    labels = {**about, "a_is": a, "b_is": b}
    return frame.assign(**labels).loc[:, [*labels, *frame]]


def _pairs(columns: pd.Index, names: tuple[str, str], main: tuple[str, str], raw: bool) -> Iterator[tuple]:
    """(contrast, model, what a is, what b is, column pairs) of every contrast that was measured."""
    there = set(columns)
    settings = list(dict.fromkeys((c[1], c[2]) for c in columns))
    for setting in settings:
        label = "model" if setting == main else f"model, {'normalise' if setting[0] != main[0] else 'query'} changed"
        yield label, "", *names, [((names[0], *setting, h), (names[1], *setting, h)) for h in CHOICES]
    for axis, (effect, sides) in enumerate(EFFECTS.items()):
        if effect == "normalise" and raw:
            continue  # it gets the raw attention either way
        own = [tuple(side if i == axis else x for i, x in enumerate(main)) for side in sides]
        for name in names:
            pairs = [((name, *own[0], h), (name, *own[1], h)) for h in CHOICES]
            if all(c in there for pair in pairs for c in pair):
                yield effect, name, *sides, pairs
    for name in names:
        others = [h for h in CHOICES if h != "paper"]
        yield "heads", name, "paper", "", [((name, *main, "paper"), (name, *main, h)) for h in others]
