"""Whether grounding comes before or after the fall of the caption loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import ndtr, stdtrit

from interp.emergence.result import Measurement
from interp.statistics import intervals
from interp.types import Head


def half_way(curve: Float[np.ndarray, "row step"], steps: Float[np.ndarray, " step"]) -> Float[np.ndarray, " row"]:
    """Per row the step at which it has first come half the way from its first value to its last, linear between steps.

    NaN for one that ends where it began, or that is undefined somewhere.

    >>> half_way(np.array([[0.0, 0.25, 1.0]]), np.array([0.0, 100.0, 400.0])).tolist()
    [200.0]
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (curve - curve[:, :1]) / (curve[:, -1:] - curve[:, :1])
    usable = np.isfinite(share).all(1) & (curve.shape[1] > 1)
    after = (
        np.maximum((np.nan_to_num(share, nan=-1.0) >= 0.5).argmax(1), 1)
        if curve.shape[1] > 1
        else np.zeros(len(curve), int)
    )
    rows, before = np.arange(len(curve)), np.maximum(after - 1, 0)
    low, high = share[rows, before], share[rows, after]
    with np.errstate(invalid="ignore", divide="ignore"):
        step = steps[before] + (0.5 - low) / (high - low) * (steps[after] - steps[before])
    return np.where(usable, step, np.nan)


def lags(measured: Sequence[Measurement], found: pd.DataFrame, seed: int, repeats: int = 2000) -> pd.DataFrame:
    """A row per metric: by how many steps grounding comes after the caption loss (negative: before), from half to half.

    ``grounding_half``: the step at which the mean of the heads with an onset, less their null, has come half its way;
    ``loss_half``: the same of the caption loss; ``lag`` their difference with the 95 % interval ``low`` to ``high``,
    images drawn anew for both curves together. NaN without such heads, or for a loss that does not fall. ``heads``:
    how many have an onset; the interval is about these. ``comes``: "after" or "before" the loss where the interval
    leaves 0 out; "" where it does not, and nothing can be said of the order.

    The interval's ends are percentiles that lie as far out as Student's quantile asks of so many images (the expanded
    percentile interval; Hesterberg 2015, Am. Stat. 69:371, section 5.3); NaN below `intervals.FEWEST` images.
    """
    rows = []
    for metric, some in found.groupby("metric", sort=False):
        chosen = having(some, "onset")
        halves = np.full((2, 1 + repeats), np.nan)
        if chosen and len(measured) > 1 and all(m.losses for m in measured):
            halves = _halves(measured, str(metric), chosen, seed, repeats)
        lag = halves[0] - halves[1]
        low, high = ends_of(lag[1:], min((len(m.losses) for m in measured), default=0))
        rows.append(
            {
                "metric": metric,
                "heads": len(chosen),
                "grounding_half": halves[0, 0],
                "loss_half": halves[1, 0],
                "lag": lag[0],
                "low": low,
                "high": high,
                "comes": "after" if low > 0 else "before" if high < 0 else "",
            }
        )
    return pd.DataFrame(rows)


def ends_of(draws: Float[np.ndarray, " draw"], images: int) -> tuple[float, float]:
    """Ends of the expanded percentile interval; NaN for too few images, or where a twentieth of the draws is NaN."""
    defined = np.isfinite(draws)
    if images < intervals.FEWEST or defined.mean() < 0.95:
        return np.nan, np.nan
    tail = ndtr(np.sqrt(images / (images - 1)) * stdtrit(images - 1, 0.025))
    low, high = np.quantile(draws[defined], [tail, 1 - tail])
    return float(low), float(high)


def having(onsets: pd.DataFrame, column: str) -> list[Head]:
    """The heads whose onset in this column is known."""
    known = onsets.loc[np.isfinite(onsets[column].to_numpy(dtype=float)), ["layer", "head"]]
    return [Head(int(layer), int(head)) for layer, head in known.to_numpy()]


def redrawn(images: int, seed: int, repeats: int) -> Float[np.ndarray, "draw image"]:
    """How often each image is drawn: all of them once first, then each bootstrap draw."""
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=repeats)
    return np.concatenate([np.ones((1, images)), drawn])


def _halves(
    measured: Sequence[Measurement], metric: str, chosen: Sequence[Head], seed: int, repeats: int
) -> Float[np.ndarray, "curve draw"]:
    """Half-way steps of grounding and of the loss: of all images first, then of each draw of them."""
    scores = [m.scores[metric] for m in measured]
    image = {i: name for score in scores for i, name in zip(score.sample_ids, score.images, strict=True)}
    image |= {i: i for m in measured for i in m.losses if i not in image}
    images = sorted(set(image.values()))
    place = {name: row for row, name in enumerate(images)}
    weights = redrawn(len(images), seed, repeats)
    numbers = scores[0].numbers.tolist()
    layer, head = (np.array(i) for i in zip(*((numbers.index(h.layer), h.head) for h in chosen), strict=True))
    curves: list[list[np.ndarray]] = [[], []]
    for m in measured:
        score = m.scores[metric]
        values = score.values[:, layer, head]
        null = np.zeros_like(values) if score.null is None else score.null[:, layer, head]
        better = (values - null).astype(np.float64)
        sums = intervals.cluster_sums(better, score.images)
        rows = [place[i] for i in sorted(set(score.images))]
        with np.errstate(invalid="ignore"):
            curves[0].append(((weights[:, rows] @ sums.total) / (weights[:, rows] @ sums.number)).mean(1))
        rows = [place[image[i]] for i in m.losses]
        with np.errstate(invalid="ignore"):
            curves[1].append(weights[:, rows] @ np.array(list(m.losses.values())) / weights[:, rows].sum(1))
    steps = np.array([m.step for m in measured], dtype=float)
    grounding, loss = (np.stack(curve, 1) for curve in curves)
    return np.stack([half_way(grounding, steps), np.where(loss[:, -1] < loss[:, 0], half_way(loss, steps), np.nan)])
