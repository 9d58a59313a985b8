"""One metric for every phrase and head, with its nulls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.types import Head


@dataclass(frozen=True)
class HeadScores:
    """One metric for every phrase and head, with its nulls.

    ``values`` are the scores against the phrase's own mask; ``null`` the mean score of the same maps against masks
    of *other* images (shuffled-mask null); ``chance`` what a map without information about the image scores on a
    mask of that area (area-matched), NaN where the metric has no such value. ``sample_ids`` names each phrase's
    image: the cluster of every interval. Undefined scores are NaN.
    """

    metric: str
    higher_is_better: bool
    sample_ids: tuple[str, ...]
    phrases: tuple[str, ...]
    values: Float[np.ndarray, "phrase layer head"]
    null: Float[np.ndarray, "phrase layer head"] | None = None
    chance: Float[np.ndarray, " phrase"] | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def mean(self) -> Float[np.ndarray, "layer head"]:
        """Mean over the phrases for which the metric is defined; NaN for a head that has none."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.nansum(self.values, 0) / np.isfinite(self.values).sum(0)

    def top(self, k: int) -> list[Head]:
        """The k best heads by mean, best first. Heads that are NaN come never."""
        mean = self.mean()
        order = np.argsort(-mean if self.higher_is_better else mean, axis=None, kind="stable")
        flat = [i for i in order if np.isfinite(mean.flat[i])][:k]
        return [Head(*(int(x) for x in np.unravel_index(i, mean.shape))) for i in flat]

    def to_frame(self) -> pd.DataFrame:
        """Tidy: one row per phrase, layer and head."""
        n, layers, heads = self.values.shape
        frame = pd.DataFrame(
            {
                "sample_id": np.repeat(np.array(self.sample_ids, dtype=object), layers * heads),
                "phrase": np.repeat(np.array(self.phrases, dtype=object), layers * heads),
                "layer": np.tile(np.repeat(np.arange(layers), heads), n),
                "head": np.tile(np.arange(heads), n * layers),
                "metric": self.metric,
                "value": self.values.ravel(),
            }
        )
        if self.null is not None:
            frame["null"] = self.null.ravel()
        if self.chance is not None:
            frame["chance"] = np.repeat(self.chance, layers * heads)
        return frame
