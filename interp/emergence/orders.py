"""Which comes first: that a head looks at things, or that it looks at the word's thing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.emergence.lags import ends_of, half_way, having, redrawn
from interp.emergence.result import Measurement
from interp.statistics.intervals import cluster_sums
from interp.types import Head


def orders(measured: Sequence[Measurement], found: pd.DataFrame, seed: int, repeats: int = 2000) -> pd.DataFrame:
    """A row per metric: by how many steps words come after things (negative: before), from half-way to half-way.

    ``heads``: those that come to tell the named thing (``onset_word``); all that follows is the mean over them.
    ``things_half``: the step at which their score, less their null, has come half its way; ``words_half``: the same of
    their specificity; ``lag`` the second less the first, with the 95 % interval ``low`` to ``high``, images drawn anew
    for both curves together. NaN without such heads, with one checkpoint, or where fewer than 95 % of the draws have
    both.
    """
    rows = []
    for metric, some in found.groupby("metric", sort=False):
        chosen = having(some, "onset_word")
        halves = np.full((2, 1 + repeats), np.nan)
        if chosen and len(measured) > 1:
            halves = _halves(measured, str(metric), chosen, seed, repeats)
        lag = halves[1] - halves[0]
        low, high = ends_of(lag[1:], min(len(set(m.scores[str(metric)].images)) for m in measured))
        row = {"metric": metric, "heads": len(chosen), "things_half": halves[0, 0], "words_half": halves[1, 0]}
        rows.append({**row, "lag": lag[0], "low": low, "high": high})
    return pd.DataFrame(rows)


def _halves(
    measured: Sequence[Measurement], metric: str, chosen: Sequence[Head], seed: int, repeats: int
) -> Float[np.ndarray, "curve draw"]:
    """Half-way steps of things and of words: of all images first, then of each draw of them."""
    images = sorted({image for m in measured for image in m.scores[metric].images})
    place = {image: row for row, image in enumerate(images)}
    weights = redrawn(len(images), seed, repeats)
    numbers = measured[0].scores[metric].numbers.tolist()
    layer, head = (np.array(i) for i in zip(*((numbers.index(h.layer), h.head) for h in chosen), strict=True))
    curves: list[list[np.ndarray]] = [[], []]
    for m in measured:
        score = m.scores[metric]
        of_heads = score.values[:, layer, head]
        null = np.zeros_like(of_heads) if score.null is None else score.null[:, layer, head]
        things = (of_heads - null) * (1 if score.higher_is_better else -1)
        words = np.full_like(things, np.nan) if score.specificity is None else score.specificity[:, layer, head]
        rows = [place[i] for i in sorted(set(score.images))]
        for curve, values in zip(curves, (things, words), strict=True):
            sums = cluster_sums(values.astype(np.float64), score.images)
            with np.errstate(invalid="ignore"):
                curve.append(((weights[:, rows] @ sums.total) / (weights[:, rows] @ sums.number)).mean(1))
    steps = np.array([m.step for m in measured], dtype=float)
    return np.stack([half_way(np.stack(curve, 1), steps) for curve in curves])
