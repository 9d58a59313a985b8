"""How sure a mean over phrases is when phrases of one image hang together: bootstrap intervals and permutation tests.

The image is the unit of chance. Every function takes ``clusters``: which image each row of ``values`` belongs to.
Images are put in the order of their names first, so the order of the rows does not matter. With fewer than ``FEWEST``
images nothing is said.

Draws and flips weigh sums over images; where they are many they lie in a file and are taken a piece at a time. Pieces
and blocks of columns change the rounding of such sums and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.special import ndtri, stdtrit  # scipy.stats takes a second to import

from interp.work.room import put, room, taken

FEWEST = 5
"""Images that a column needs. All differences of n images point one way by chance in 1 of 2^n: with 4 no one-sided p
can come below .05, with 5 it can be 1/32; and a spread estimated from fewer says nothing."""

BLOCK = 64
"""Columns that are resampled at a time, so that memory does not grow with their number."""

DAMPED = 0.02
"""The share of the column's variance that is added to each draw's: a draw of images that are all alike has none."""

PIECE = 1 << 23
"""Weights of draws or flips, images times repeats, that are in memory at a time: 64 MiB."""

Alternative = Literal["greater", "two-sided"]


class Sums(NamedTuple):
    """Per image and column: the sum of the finite values and how many they are."""

    total: Float[np.ndarray, "image column"]
    number: Float[np.ndarray, "image column"]


class Interval(NamedTuple):
    """The ends of an interval of a mean; NaN where fewer than ``FEWEST`` images have a value."""

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
    order, starts = _runs(tuple(clusters))
    if not len(starts):
        return Sums(np.zeros((0, flat.shape[1])), np.zeros((0, flat.shape[1])))
    flat = flat[order]
    finite = np.isfinite(flat)
    count = np.add.reduceat(finite.astype(np.float64), starts, axis=0)
    flat[~finite] = 0.0
    return Sums(np.add.reduceat(flat, starts, axis=0), count)


@lru_cache(maxsize=4)
def _runs(clusters: tuple[str, ...]) -> tuple[Int[np.ndarray, " phrase"], Int[np.ndarray, " image"]]:
    """The order of rows that makes each image a run of rows, which reduceat sums at once, and where each run begins."""
    names, image = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    order = np.argsort(image, kind="stable")
    return order, np.searchsorted(image[order], np.arange(len(names)))


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
    rates: bool = True,
) -> Interval:
    """Interval of the mean over phrases, images drawn anew with replacement; NaN below ``FEWEST`` images.

    The mean m is a ratio of sums over images, of values and of their numbers: an image with more phrases weighs more.
    Its variance v is that of the linearised ratio, n / (n - 1) x sum over images of (total - m number)^2 / (sum of
    number)^2. Each repeat draws as many images as there are and takes t* = (m* - m) / s*; the ends are m - s t* at the
    upper and lower quantile (studentised bootstrap; Davison and Hinkley 1997, sections 2.4 and 3.8), or m -/+ sqrt(v)
    times Student's quantile with n - 1 degrees where that lies farther out. s*^2 = v* + ``DAMPED`` x v and s^2 alike.

    A column of nothing but 0 and 1 is a rate, unless ``rates`` is False (for differences, which may be negative). It
    gets Wilson's interval for m (1 - m) / v phrases, at most as many as there are, times the square of the normal
    quantile over Student's (Dean and Pagano 2015, J. Survey Stat. Methodol. 3:484). If it is all 0 or all 1 nothing
    tells how phrases of an image hang together, and each image counts as one phrase: 0 of 8 images gives 0 to 0.32. Any
    other column that is constant gets an interval of width 0: the data do not say how far other images would lie.

    Raises:
        ValueError: ``level`` outside 0..1, no repeats, or not one cluster per row.

    >>> hits = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    >>> images = ["a", "a", "b", "c", "c", "d", "e"]
    >>> low, high = bootstrap(hits, images, seed=0)  # the mean is 0.71
    >>> float(low.round(2)), float(high.round(2))
    (0.15, 0.97)
    >>> bootstrap(hits[:6], images[:6], seed=0).low.item()  # four images say too little of others
    nan
    """
    if not 0 < level < 1 or repeats < 1:
        raise ValueError(f"got level={level}, repeats={repeats}; expected 0 < level < 1 and at least one repeat")
    sums = cluster_sums(values, clusters)
    n, columns = sums.total.shape
    ends = np.full((2, columns), np.nan)
    if n >= FEWEST:
        flat = values.reshape(len(values), columns)
        rate = (np.isin(flat, (0, 1)) | ~np.isfinite(flat)).all(0) & rates
        draws = _drawn(seed, n, repeats)
        enough = (sums.number > 0).sum(0) >= FEWEST
        for columns_of, ends_of in ((enough & ~rate, _studentised_ends), (enough & rate, _wilson)):
            for block in np.array_split(np.flatnonzero(columns_of), -(-int(columns_of.sum()) // BLOCK) or 1):
                ends[:, block] = ends_of(Sums(sums.total[:, block], sums.number[:, block]), draws, level)
    low, high = ends.reshape(2, *values.shape[1:])
    return Interval(low, high)


@lru_cache(maxsize=4)
def _drawn(seed: int, images: int, repeats: int) -> UInt8[np.ndarray, "repeat image"]:
    """How often each image is drawn."""
    rng, found = np.random.default_rng(seed), room((repeats, images), np.uint8)
    for rows in _pieces(repeats, images):
        put(found[rows], rng.multinomial(images, np.full(images, 1 / images), size=rows.stop - rows.start))
    found.setflags(write=False)
    return found


@lru_cache(maxsize=4)
def _flips(seed: int, images: int, repeats: int) -> UInt8[np.ndarray, "repeat image"]:
    """1 where an image's sign stays, 0 where it is turned."""
    rng, found = np.random.default_rng(seed), room((repeats, images), np.uint8)
    for rows in _pieces(repeats, images):
        put(found[rows], rng.integers(0, 2, (rows.stop - rows.start, images)))
    found.setflags(write=False)
    return found


def _pieces(repeats: int, images: int) -> Iterator[slice]:
    """Repeats whose weights are in memory at a time: all, unless there are many images."""
    step = max(PIECE // max(images, 1), 1)
    return (slice(first, min(first + step, repeats)) for first in range(0, repeats, step))


def _mean_and_variance(
    sums: Sums, weights: Float[np.ndarray, "repeat image"]
) -> tuple[Float[np.ndarray, "repeat column"], Float[np.ndarray, "repeat column"]]:
    """The mean and its variance when each image counts so many times."""
    total, number = sums
    n = (number > 0).sum(0)
    if (number == number[:, :1]).all():  # the usual case: no head is undefined anywhere
        number = number[:, :1]
    with np.errstate(invalid="ignore", divide="ignore"):
        phrases = weights @ number
        mean = (weights @ total) / phrases
        squares = weights @ total**2 - 2 * mean * (weights @ (total * number)) + mean**2 * (weights @ number**2)
        # What rounding leaves of a spread of nothing is nothing.
        squares = np.where(squares > 1e-12 * (weights @ total**2), squares, 0.0)
        return mean, squares / phrases**2 * n / (n - 1)


def _studentised_ends(
    sums: Sums, draws: UInt8[np.ndarray, "repeat image"], level: float
) -> Float[np.ndarray, "end column"]:
    tail, n = (1 - level) / 2, (sums.number > 0).sum(0)
    (mean,), (variance,) = _mean_and_variance(sums, np.ones((1, len(sums.total))))
    pieces = _pieces(*draws.shape)
    found = [_mean_and_variance(sums, taken(draws[rows]).astype(np.float64)) for rows in pieces]
    means, variances = (np.concatenate(each) for each in zip(*found, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        t = (means - mean) / np.sqrt(variances + DAMPED * variance)
    t[:, variance == 0] = 0.0
    low, high = _quantiles(t, [tail, 1 - tail])
    spread, plain = np.sqrt((1 + DAMPED) * variance), -stdtrit(n - 1, tail) * np.sqrt(variance)
    return np.stack([mean - np.maximum(high * spread, plain), mean - np.minimum(low * spread, -plain)])


def _wilson(sums: Sums, draws: UInt8[np.ndarray, "repeat image"], level: float) -> Float[np.ndarray, "end column"]:
    tail, n = (1 - level) / 2, (sums.number > 0).sum(0)
    z = -ndtri(tail)
    (rate,), (variance,) = _mean_and_variance(sums, np.ones((1, len(sums.total))))
    with np.errstate(invalid="ignore", divide="ignore"):
        counted = np.minimum(rate * (1 - rate) / variance, sums.number.sum(0)) * (z / -stdtrit(n - 1, tail)) ** 2
    counted = np.where((rate == 0) | (rate == 1), n, counted)
    middle = (rate + z**2 / (2 * counted)) / (1 + z**2 / counted)
    half = z * np.sqrt(rate * (1 - rate) / counted + z**2 / (4 * counted**2)) / (1 + z**2 / counted)
    return np.stack([middle - half, middle + half]).clip(0, 1)


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
    alpha whatever the columns' correlation.

    Columns with fewer images have a t with heavier tails, and would rule the largest. So it is taken on one scale:
    each t is turned into the normal deviate of the same tail (Wallace 1959, Ann. Math. Stat. 30:1121), which is never
    let beyond that of 2^-n, the smallest p that n images can show. Columns whose differences are all zero, or that
    fewer than ``FEWEST`` images have, say nothing: NaN, and they do not count as columns.

    Raises:
        ValueError: an unknown alternative, no repeats, or not one cluster per row.

    >>> gains = np.array([[0.2, 0.1], [0.3, -0.1], [0.2, 0.1], [0.4, -0.1], [0.3, 0.1]])  # 5 images, 2 heads
    >>> test = sign_flip(gains, list("abcde"), seed=0)
    >>> test.p.round(2).tolist()  # the first wins in each image: about 1 of 2 ** 5 flips is as extreme
    [0.03, 0.5]
    >>> test.p_corrected.round(2).tolist()
    [0.06, 0.69]
    """
    test = Flips(clusters, seed=seed, repeats=repeats, alternative=alternative)
    test.add(differences)
    p, corrected = test.found()
    return SignFlip(p.reshape(differences.shape[1:]), corrected.reshape(differences.shape[1:]))


class Flips:
    """The test of `sign_flip` for columns that come a block at a time: `add` each, then `found`."""

    def __init__(
        self, clusters: Sequence[str], *, seed: int, repeats: int = 5000, alternative: Alternative = "greater"
    ):
        if alternative not in ("greater", "two-sided") or repeats < 1:
            raise ValueError(
                f"got alternative={alternative!r}, repeats={repeats}; expected 'greater' or 'two-sided', and "
                "repeats > 0"
            )
        self.clusters, self.seed, self.repeats, self.alternative = clusters, seed, repeats, alternative
        self._most = np.full(repeats, -np.inf)  # of each repeat, over the columns so far
        self._p: list[np.ndarray] = []
        self._bars: list[np.ndarray] = []

    def add(self, differences: Float[np.ndarray, "phrase *axes"]) -> None:
        """Takes these columns in."""
        sums = cluster_sums(differences, self.clusters)
        tested = ((sums.number > 0).sum(0) >= FEWEST) & (sums.total != 0).any(0)
        p, deviates = np.full((2, sums.total.shape[1]), np.nan)
        if tested.any():
            total, n = sums.total[:, tested], (sums.number[:, tested] > 0).sum(0)
            total = total / np.sqrt((total**2).sum(0) * n)  # flips do not change the sum of squares
            two_sided = self.alternative == "two-sided"
            observed = np.abs(total.sum(0)) if two_sided else total.sum(0)
            bar = observed - 1e-9  # flips that give the same up to rounding are as extreme as what was seen
            signs, extreme = _flips(self.seed, len(total), self.repeats), np.zeros(len(bar), dtype=np.int64)
            for rows in _pieces(*signs.shape):
                flipped = (taken(signs[rows]).astype(np.float64) * 2 - 1) @ total
                flipped = np.abs(flipped) if two_sided else flipped
                extreme += (flipped >= bar).sum(0)
                self._most[rows] = np.maximum(self._most[rows], _deviates(flipped, n).max(1))
            p[tested], deviates[tested] = (1 + extreme) / (1 + self.repeats), _deviates(bar, n)
        self._p.append(p)
        self._bars.append(deviates)

    def found(self) -> SignFlip:
        """p-values of all columns, in the order in which they came."""
        corrected = []
        for bar in self._bars:
            share = (1 + (self._most[:, None] >= bar).sum(0)) / (1 + self.repeats)
            corrected.append(np.where(np.isnan(bar), np.nan, share))
        return SignFlip(np.concatenate(self._p), np.concatenate(corrected))


def _deviates(r: Float[np.ndarray, "*axes column"], n: Int[np.ndarray, " column"]) -> Float[np.ndarray, "*axes column"]:
    """Normal deviates of t with n - 1 degrees, given r = mean / root mean square of n numbers: 1 + t^2 / (n - 1) is
    1 / (1 - r^2)."""
    degrees = n - 1
    with np.errstate(divide="ignore"):
        z = (8 * degrees + 1) / (8 * degrees + 3) * np.sqrt(-degrees * np.log1p(-np.minimum(r**2, 1.0)))
    return np.sign(r) * np.minimum(z, -ndtri(0.5 ** np.minimum(n, 1000.0)))


def _quantiles(means: Float[np.ndarray, "repeat column"], at: list[float]) -> Float[np.ndarray, "end column"]:
    """Quantiles over the repeats that are defined; NaN where none is."""
    ends = np.quantile(means, at, axis=0)
    for column in np.flatnonzero(np.isnan(means).any(0) & ~np.isnan(means).all(0)):
        ends[:, column] = np.nanquantile(means[:, column], at)
    return ends
