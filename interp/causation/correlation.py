"""Whether heads that ground more do more: rank correlation over heads, its interval for other heads and other images.

The heads are a sample as the images are: an interval from images alone says how well the correlation of *these* heads
is known, and covers that of heads like them in half the cases or in none. Heads of one layer hang together, and both
grounding and effect change with depth; so the correlation within layers stands beside that over all heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.special import ndtri, stdtrit

from interp.statistics import intervals
from interp.statistics.scores import HeadScores

REPEATS = 400
"""Draws of images, of which only the spread is used."""

SPLITS = 40
FEWEST = 5
"""Heads, beyond the layers' number within layers, that an interval needs."""

LAYERS = 4
"""Layers that are needed to see how heads of one layer hang together."""

LEVEL = 0.95

Groups = Sequence[Int[np.ndarray, " _"]]


def correlations(scores: Mapping[str, HeadScores], metric: str, seed: int) -> pd.DataFrame:
    """A row per measure: ``measure rho low high heads rho_within low_within high_within reliability``.

    ``rho``: Spearman's correlation over heads between mean grounding and the measure's mean effect; ``rho_within``: the
    same of ranks within each layer, pooled. ``low`` to ``high``: 95 % interval for other heads like these and as many
    other images. On Fisher's scale its half-width is the root of two squares. For heads: z times the root of (1 + rho^2
    / 2) / (heads - 3) (Bonett and Wright 2000, Psychometrika 65:23); over all heads at least that of the layers' sums
    of rho's influence, with Student's quantile; within layers a degree is lost for each. For images: z times the spread
    over draws of images, the same for both means. NaN with fewer than ``FEWEST`` heads.

    The means are not free of noise, which lowers rho: it is not corrected for that. ``reliability`` (0..1) is the
    highest rho that it leaves: the root of the product of both means' split-half reliabilities (Spearman-Brown, random
    halves of the images). rho / reliability is the corrected value (Spearman 1904); NaN where halves do not agree.
    """
    first = scores[metric]
    sign = 1 if first.higher_is_better else -1
    rows = []
    for name, score in scores.items():
        if name == metric:
            continue
        x, y = (s.values.reshape(len(s.values), -1).astype(np.float64) for s in (first, score))
        defined = np.isfinite(x).any(0) & np.isfinite(y).any(0)
        layer = np.repeat(np.arange(score.values.shape[1]), score.values.shape[2])[defined]
        pair = _Pair(sign * x[:, defined], first.images, y[:, defined], score.images, seed)
        layers = [np.flatnonzero(layer == number) for number in np.unique(layer)]
        over, within = pair.estimate([np.arange(len(layer))], layers), pair.estimate(layers, [])
        rows.append(
            {"measure": name, **dict(zip(("rho", "low", "high"), over, strict=True)), "heads": len(layer),
             **dict(zip(("rho_within", "low_within", "high_within"), within, strict=True)),
             "reliability": pair.reliability()}
        )  # fmt: skip
    return pd.DataFrame(rows)


class _Pair:
    """Two scores of the same heads, over the images that both have."""

    def __init__(
        self, x: Float[np.ndarray, "n head"], images_x: Sequence[str],
        y: Float[np.ndarray, "m head"], images_y: Sequence[str], seed: int,
    ):  # fmt: skip
        common = sorted(set(images_x) & set(images_y))
        self.sums = []
        for values, images in ((x, images_x), (y, images_y)):
            names = np.array(images)
            keep = np.isin(names, common)
            self.sums.append(intervals.cluster_sums(values[keep], names[keep].tolist()))
        self.rng, n = np.random.default_rng(seed), len(common)
        self.seen = self._means(np.ones((1, n)))
        drawn = self.rng.multinomial(n, np.full(n, 1 / n), REPEATS) if n else np.zeros((REPEATS, 0))
        self.drawn = self._means(drawn.astype(np.float64))

    def _means(self, weights: Float[np.ndarray, "repeat image"]) -> list[Float[np.ndarray, "repeat head"]]:
        with np.errstate(invalid="ignore"):
            return [(weights @ s.total) / (weights @ s.number) for s in self.sums]

    def estimate(self, groups: Groups, layers: Groups) -> tuple[float, float, float]:
        """Correlation of the ranks within each group, and its interval."""
        heads = sum(map(len, groups))
        a, b = (_ranks(mean, groups) for mean in self.seen)
        rho = float(_correlation(a, b)[0])
        degrees = heads - 2 - len(groups)
        if degrees < FEWEST - 3 or np.isnan(rho):
            return rho if heads > 2 else np.nan, np.nan, np.nan
        z = -ndtri((1 - LEVEL) / 2)
        # Ranks that agree in all places: as if one pair of neighbours were exchanged, else z would be infinite.
        most = 1 - 12 / (heads**3 - heads)
        centre = np.arctanh(np.clip(rho, -most, most))
        half = max(z * np.sqrt((1 + rho**2 / 2) / degrees), _of_layers(a[0], b[0], layers))
        drawn = _correlation(*(_ranks(mean, groups) for mean in self.drawn))
        drawn = np.arctanh(np.clip(drawn[np.isfinite(drawn)], -most, most))
        half = np.hypot(half, z * drawn.std() if len(drawn) else 0.0)
        low, high = np.tanh([centre - half, centre + half])
        return rho, float(min(low, rho)), float(max(high, rho))

    def reliability(self) -> float:
        """Root of the product of both means' split-half reliabilities."""
        n = len(self.sums[0].total)
        if n < 2 or self.seen[0].shape[1] < 3:
            return np.nan
        half = np.stack([self.rng.permutation(n) < n // 2 for _ in range(SPLITS)]).astype(np.float64)
        every = [np.arange(self.seen[0].shape[1])]
        product = 1.0
        for a, b in zip(self._means(half), self._means(1 - half), strict=True):
            r = _correlation(_ranks(a, every), _ranks(b, every))
            r = r[np.isfinite(r)].mean() if np.isfinite(r).any() else np.nan
            product *= 2 * r / (1 + r) if r > 0 else np.nan
        return float(np.sqrt(product))


def _ranks(values: Float[np.ndarray, "repeat head"], groups: Groups) -> Float[np.ndarray, "repeat head"]:
    """Ranks within each group less their mean, ties averaged; NaN for a repeat in which a head is undefined."""
    from scipy.stats import rankdata

    ranks = np.full(values.shape, np.nan)
    for group in groups:
        ranks[:, group] = rankdata(values[:, group], axis=1) - (len(group) + 1) / 2
    return np.where(np.isfinite(values).all(1, keepdims=True), ranks, np.nan)


def _correlation(
    a: Float[np.ndarray, "repeat head"], b: Float[np.ndarray, "repeat head"]
) -> Float[np.ndarray, " repeat"]:
    with np.errstate(invalid="ignore"):
        return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


def _of_layers(a: Float[np.ndarray, " head"], b: Float[np.ndarray, " head"], layers: Groups) -> float:
    """Half-width on Fisher's scale from the layers' sums of rho's influence; 0 with fewer than ``LAYERS``."""
    n = len(layers)
    if n < LAYERS:
        return 0.0
    a, b = a / a.std(), b / b.std()
    rho = (a * b).mean()
    if abs(rho) > 1 - 1e-9:
        return 0.0
    influence = a * b - rho / 2 * (a**2 + b**2)
    total = np.array([influence[layer].sum() for layer in layers])
    spread = np.sqrt((total**2).sum() * n / (n - 1)) / len(a) / (1 - rho**2)
    return float(-stdtrit(n - 1, (1 - LEVEL) / 2) * spread)
