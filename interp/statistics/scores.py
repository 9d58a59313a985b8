"""One metric for every phrase and head, with its nulls and its specificity."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.types import By, Head, layer_numbers


@dataclass(frozen=True)
class HeadScores:
    """One metric for every phrase and head, with its nulls and its specificity.

    ``values`` are the scores against the phrase's own mask; ``null`` the mean score of the same maps against masks
    of *other* images (shuffled-mask null): beside it, ``values`` say that a head looks at *things*. ``chance`` is what
    a map without information about the image scores on a mask of that area (area-matched), NaN where the metric has no
    such value. ``specificity`` says that a head looks at *this word's* thing (`interp.ranking.specificity`): higher is
    better whatever the metric, about 0 for a head that does not know the word, NaN for a phrase without ``partners``
    (their number), other things of its image that are named by as many tokens. ``image_ids`` names each phrase's
    image, the cluster of every interval (default: ``sample_ids``). ``layers`` are the layers' numbers along that axis
    (default: 0, 1, ...; a model may have layers without heads). Undefined scores are NaN.

    >>> values = np.array([[[0.2, 0.9]], [[0.4, np.nan]]])  # 2 phrases, a layer, 2 heads
    >>> scores = HeadScores("nss", True, ("1.jpg", "2.jpg"), ("a dog", "a cat"), values)
    >>> scores.mean().round(2).tolist(), [str(head) for head in scores.top(1)]
    ([[0.3, 0.9]], ['L0 H1'])
    >>> len(scores.to_frame())
    4
    """

    metric: str
    higher_is_better: bool
    sample_ids: tuple[str, ...]
    phrases: tuple[str, ...]
    values: Float[np.ndarray, "phrase layer head"]
    null: Float[np.ndarray, "phrase layer head"] | None = None
    chance: Float[np.ndarray, " phrase"] | None = None
    details: dict[str, Any] = field(default_factory=dict)
    specificity: Float[np.ndarray, "phrase layer head"] | None = None
    partners: Int[np.ndarray, " phrase"] | None = None
    image_ids: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()

    @property
    def numbers(self) -> Int[np.ndarray, " layer"]:
        """The number of each layer along the axis."""
        return np.array(layer_numbers(self.layers, self.values.shape[1]), dtype=np.int64)

    @property
    def images(self) -> tuple[str, ...]:
        """The image of each phrase."""
        return self.image_ids or self.sample_ids

    def mean(self, by: By = "mean") -> Float[np.ndarray, "layer head"]:
        """Mean score, or mean specificity, over the phrases for which it is defined; NaN for a head that has none."""
        if by not in get_args(By):
            raise ValueError(f"by is {by!r}; expected one of {', '.join(map(repr, get_args(By)))}")
        values = self.values if by == "mean" else self.specificity
        if values is None:
            return np.full(self.values.shape[1:], np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.nansum(values, 0) / np.isfinite(values).sum(0)

    def chosen_by(self, by: By | None = None) -> By:
        """What heads are chosen by: as asked, or specificity where any head has one, else the mean score."""
        if by is not None:
            return by
        return "specificity" if np.isfinite(self.mean("specificity")).any() else "mean"

    def top(self, k: int, by: By | None = None) -> list[Head]:
        """The k best heads, best first: by specificity where any head has one, else by mean score; or as asked. Heads
        that are NaN come never."""
        by = self.chosen_by(by)
        mean = self.mean(by)
        falling = self.higher_is_better or by == "specificity"
        order = np.argsort(-mean if falling else mean, axis=None, kind="stable")
        flat = [i for i in order if np.isfinite(mean.flat[i])][:k]
        layer, head = np.unravel_index(np.array(flat, dtype=np.int64), mean.shape)
        return [Head(int(a), int(b)) for a, b in zip(self.numbers[layer], head, strict=True)]

    def to_frame(self) -> pd.DataFrame:
        """Tidy: one row per phrase, layer and head."""
        n, layers, heads = self.values.shape
        frame = pd.DataFrame(
            {
                "sample_id": np.repeat(np.array(self.sample_ids, dtype=object), layers * heads),
                "phrase": np.repeat(np.array(self.phrases, dtype=object), layers * heads),
                "layer": np.tile(np.repeat(self.numbers, heads), n),
                "head": np.tile(np.arange(heads), n * layers),
                "metric": self.metric,
                "value": self.values.ravel(),
            }
        )
        for name in ("null", "specificity"):
            if (column := getattr(self, name)) is not None:
                frame[name] = column.ravel()
        if self.chance is not None:
            frame["chance"] = np.repeat(self.chance, layers * heads)
        return frame
