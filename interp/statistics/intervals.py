"""How sure a mean over phrases is when phrases of one image hang together: bootstrap intervals and permutation tests.

The image is the unit of chance. Every function takes ``clusters``: which image each row of ``values`` belongs to.
Images are put in the order of their names first, so the order of the rows does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

Alternative = Literal["greater", "two-sided"]


class Sums(NamedTuple):
    """Per image and column: the sum of the finite values and how many they are."""

    total: Float[np.ndarray, "image column"]
    number: Float[np.ndarray, "image column"]


class Interval(NamedTuple):
    """The ends of a percentile interval; NaN where fewer than two images have a value."""

    low: Float[np.ndarray, "*axes"]
    high: Float[np.ndarray, "*axes"]


class SignFlip(NamedTuple):
    """p-values of a sign-flip test, alone and corrected for the number of columns; NaN where it says nothing."""

    p: Float[np.ndarray, "*axes"]
    p_corrected: Float[np.ndarray, "*axes"]


def cluster_sums(values: Float[np.ndarray, "phrase *axes"], clusters: Sequence[str]) -> Sums:
    """Sum and count of the finite values of each image, images in the order of their names.

    Raises:
        ValueError: not one cluster per row.

    >>> sums = cluster_sums(np.array([1.0, np.nan, 3.0]), ["dog.jpg", "dog.jpg", "cat.jpg"])
    >>> sums.total[:, 0].tolist(), sums.number[:, 0].tolist()  # cat.jpg comes first
    ([3.0, 1.0], [1.0, 1.0])
    """
    if len(clusters) != len(values):
        raise ValueError(f"got {len(clusters)} clusters for {len(values)} rows of values; expected one image per row")
    flat = values.reshape(len(values), int(np.prod(values.shape[1:]))).astype(np.float64)
    finite = np.isfinite(flat)
    names, image = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    # A stable sort by image makes each image a run of rows, which reduceat sums at once.
    order = np.argsort(image, kind="stable")
    starts = np.searchsorted(image[order], np.arange(len(names)))
    if not len(names):
        return Sums(np.zeros((0, flat.shape[1])), np.zeros((0, flat.shape[1])))
    total = np.add.reduceat(np.where(finite, flat, 0.0)[order], starts, axis=0)
    count = np.add.reduceat(finite[order].astype(np.float64), starts, axis=0)
    return Sums(total, count)


def mean(values: Float[np.ndarray, "phrase *axes"]) -> Float[np.ndarray, "*axes"]:
    """Mean over the rows where the value is finite; NaN where none is.

    >>> mean(np.array([[1.0, np.nan], [3.0, np.nan]])).tolist()
    [2.0, nan]
    """
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(finite, values, 0.0).sum(0, dtype=np.float64) / finite.sum(0)


def bootstrap(
    values: Float[np.ndarray, "phrase *axes"],
    clusters: Sequence[str],
    *,
    seed: int,
    repeats: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of the mean over phrases, images drawn anew with replacement.

    A repeat draws as many images as there are and divides the sum of their values by the number of their values (a
    ratio of sums: an image with more phrases weighs more, as it does in the mean). All repeats are one matrix product.
    Davison and Hinkley 1997, section 3.8 (resampling whole clusters).

    Raises:
        ValueError: ``level`` outside 0..1, no repeats, or not one cluster per row.

    >>> hits = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    >>> images = ["a", "a", "a", "b", "b", "c"]
    >>> low, high = bootstrap(hits, images, seed=0)  # the mean is 0.67
    >>> float(low), float(high)
    (0.0, 1.0)
    >>> bootstrap(hits[:3], images[:3], seed=0).low.item()  # a single image says nothing of others
    nan
    """
    if not 0 < level < 1 or repeats < 1:
        raise ValueError(f"got level={level}, repeats={repeats}; expected 0 < level < 1 and at least one repeat")
    sums = cluster_sums(values, clusters)
    n = len(sums.total)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=repeats) if n else np.zeros((repeats, 0))
    weights = draws.astype(np.float64)
    with np.errstate(invalid="ignore"):
        means = (weights @ sums.total) / (weights @ sums.number)
    ends = _quantiles(means, [(1 - level) / 2, (1 + level) / 2])
    ends[:, (sums.number > 0).sum(0) < 2] = np.nan
    low, high = ends.reshape(2, *values.shape[1:])
    return Interval(low, high)


def sign_flip(
    differences: Float[np.ndarray, "phrase *axes"],
    clusters: Sequence[str],
    *,
    seed: int,
    repeats: int = 5000,
    alternative: Alternative = "greater",
) -> SignFlip:
    """p-values of "these differences are zero on average", against greater (or unequal) ones.

    With D_i the sum of image i's differences, t = mean(D) / (sd(D) / sqrt(n)). Under the null the sign of an image's
    differences is as likely one way as the other: each repeat flips the signs of whole images at random, the same flips
    for every column, and takes t again. p = (1 + number of t* >= t) / (1 + repeats). Corrected: t* is the largest over
    all columns (single-step max-T of Westfall and Young 1993), which keeps the probability of any false finding at
    alpha whatever the columns' correlation. Columns whose differences are all zero, or that fewer than two images
    have, say nothing: NaN, and they do not count as columns.

    Raises:
        ValueError: an unknown alternative, no repeats, or not one cluster per row.

    >>> gains = np.array([[0.2, 0.1], [0.3, -0.1], [0.2, 0.1], [0.4, -0.1], [0.3, 0.1]])  # 5 images, 2 heads
    >>> test = sign_flip(gains, list("abcde"), seed=0)
    >>> test.p.round(2).tolist()  # the first wins in each image: about 1 of 2 ** 5 flips is as extreme
    [0.03, 0.5]
    >>> test.p_corrected.round(2).tolist()
    [0.06, 0.69]
    """
    if alternative not in ("greater", "two-sided") or repeats < 1:
        raise ValueError(
            f"got alternative={alternative!r}, repeats={repeats}; expected 'greater' or 'two-sided', and repeats > 0"
        )
    sums = cluster_sums(differences, clusters)
    tested = ((sums.number > 0).sum(0) > 1) & (sums.total != 0).any(0)
    p, corrected = np.full((2, sums.total.shape[1]), np.nan)
    if tested.any():
        total, n = sums.total[:, tested], (sums.number[:, tested] > 0).sum(0)
        observed = _studentised(total.sum(0)[None], total, n, alternative)[0]
        signs = np.random.default_rng(seed).integers(0, 2, (repeats, len(total))).astype(np.float64) * 2 - 1
        flipped = _studentised(signs @ total, total, n, alternative)
        # Flips that give the same t up to rounding are as extreme as what was seen.
        bar = observed - 1e-9 * np.maximum(1, np.abs(observed))
        p[tested] = (1 + (flipped >= bar).sum(0)) / (1 + repeats)
        corrected[tested] = (1 + (flipped.max(1)[:, None] >= bar).sum(0)) / (1 + repeats)
    return SignFlip(p.reshape(differences.shape[1:]), corrected.reshape(differences.shape[1:]))


def _studentised(
    sums: Float[np.ndarray, "repeat column"],
    total: Float[np.ndarray, "image column"],
    n: Int[np.ndarray, " column"],
    alternative: Alternative,
) -> Float[np.ndarray, "repeat column"]:
    """t of flipped sums. The sum of squares does not change with the signs, so the variance follows from the sum."""
    m = sums / n
    variance = np.maximum((total**2).sum(0) / n - m**2, 0.0) / (n - 1)
    # All images alike: t would be infinite; a very large number keeps their order by the mean.
    t = m / np.sqrt(np.maximum(variance, 1e-18 * (total**2).sum(0) / n))
    return np.abs(t) if alternative == "two-sided" else t


def _quantiles(means: Float[np.ndarray, "repeat column"], at: list[float]) -> Float[np.ndarray, "end column"]:
    """Quantiles over the repeats that are defined; NaN where none is."""
    ends = np.quantile(means, at, axis=0)
    for column in np.flatnonzero(np.isnan(means).any(0) & ~np.isnan(means).all(0)):
        ends[:, column] = np.nanquantile(means[:, column], at)
    return ends
