"""What several trainings of one kind say together: means, intervals for another training and other images, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student

from interp.statistics import intervals
from interp.statistics.contrasts import KEY

LEVEL = 0.95
INDEX = ["image_id", *KEY]
"""What tells phrases apart, and the image that intervals go by: several captions may speak of one."""


class Estimate(NamedTuple):
    """A mean with the ends of its interval."""

    mean: float
    low: float
    high: float


def one_training(gap: pd.Series, seed: int = 0) -> Estimate:
    """Mean over phrases (`INDEX`) with its bootstrap interval over images: how sure it is for *this* training."""
    values, images = gap.to_numpy(dtype=np.float64)[:, None], gap.index.get_level_values("image_id").tolist()
    interval = intervals.bootstrap(values, images, seed=seed, rates=False)
    return Estimate(float(intervals.mean(values)[0]), float(interval.low[0]), float(interval.high[0]))


def over_trainings(each: Sequence[pd.Series]) -> Estimate:
    """Mean over trainings and phrases, with a 95 % interval for *another* training and *other* images.

    Trainings and images are crossed random effects. The squared error of the mean is taken as s^2 / S (s: deviation of
    the S trainings' means) plus the error from images of the trainings' average (ratio estimator, Cochran 1977, section
    6.3). The interaction is counted in both, so the interval errs on the wide side. Student's t with Satterthwaite's
    degrees of freedom. Phrases that are undefined in one of the trainings are left out. NaN ends with one training.
    """
    table = pd.concat(each, axis=1, join="inner").dropna()
    if table.empty:
        return Estimate(np.nan, np.nan, np.nan)
    means, trainings = table.mean(axis=0).to_numpy(), len(each)
    mean = float(means.mean())
    sums = intervals.cluster_sums(table.mean(axis=1).to_numpy(), table.index.get_level_values("image_id").tolist())
    images = len(sums.total)
    if trainings < 2 or images < 2:
        return Estimate(mean, np.nan, np.nan)
    residual = (sums.total - mean * sums.number)[:, 0]
    from_images = images / (images - 1) * float((residual**2).sum()) / float(sums.number.sum()) ** 2
    from_trainings = float(means.var(ddof=1)) / trainings
    error = from_images + from_trainings
    if error == 0:
        return Estimate(mean, mean, mean)
    freedom = error**2 / (from_trainings**2 / (trainings - 1) + from_images**2 / (images - 1))
    half = float(student.ppf((1 + LEVEL) / 2, freedom)) * error**0.5
    return Estimate(mean, mean - half, mean + half)


def verdict(estimate: Estimate) -> str:
    """Whether the interval leaves 0 out, and on which side."""
    if not np.isfinite([estimate.low, estimate.high]).all():
        return "needs more trainings"
    return "holds" if estimate.low > 0 else "reversed" if estimate.high < 0 else "open"


def mark(axes: Any, y: float, each: Sequence[float], total: Estimate, colour: str) -> None:
    """A row of a figure: small marks are trainings, the large one is over trainings; filled if 0 is outside."""
    shift = np.linspace(-0.12, 0.12, len(each)) if len(each) > 1 else np.zeros(1)
    axes.plot(each, y + 0.22 + shift, ".", color=colour, alpha=0.7)
    axes.plot([total.low, total.high], [y, y], color=colour, linewidth=1.6)
    filled = colour if verdict(total) in ("holds", "reversed") else "white"
    axes.plot(total.mean, y, "o", color=colour, markerfacecolor=filled)
