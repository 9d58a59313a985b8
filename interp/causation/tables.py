"""Effects of heads, sets and edges -> tidy tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata

from interp.causation.result import Effects
from interp.causation.setting import EDGES
from interp.statistics import intervals
from interp.statistics.contrasts import differences
from interp.statistics.scores import HeadScores

REPEATS = 2000


def correlations(scores: Mapping[str, HeadScores], metric: str, seed: int) -> pd.DataFrame:
    """``measure rho low high heads``: Spearman's rho over heads between mean grounding and each measure's mean effect.

    The interval is of a bootstrap over images, both means from the same draws; it is about these heads. NaN where a
    measure is defined for fewer than three heads.
    """
    first = scores[metric]
    sign = 1 if first.higher_is_better else -1
    rows = []
    for name, score in scores.items():
        if name == metric:
            continue
        x, y = (s.values.reshape(len(s.values), -1) for s in (first, score))
        defined = np.isfinite(x).any(0) & np.isfinite(y).any(0)
        x, y = x[:, defined], y[:, defined]
        found = [np.nan] * 3
        if x.shape[1] > 2:
            a, b = _bootstrapped(x, first.sample_ids, y, score.sample_ids, seed)
            rho = _spearman(sign * a, b)
            found = [float(rho[0]), *np.nanquantile(rho[1:], [0.025, 0.975]).tolist()]
        rows.append({"measure": name, "rho": found[0], "low": found[1], "high": found[2], "heads": x.shape[1]})
    return pd.DataFrame(rows)


def _bootstrapped(
    x: Float[np.ndarray, "n head"], images_x: Sequence[str], y: Float[np.ndarray, "m head"], images_y: Sequence[str],
    seed: int,
) -> tuple[Float[np.ndarray, "repeat head"], Float[np.ndarray, "repeat head"]]:  # fmt: skip
    """Means of both over the images that both have; the first row of all of them, the others of images drawn anew."""
    common = sorted(set(images_x) & set(images_y))
    weights = np.random.default_rng(seed).multinomial(len(common), np.full(len(common), 1 / len(common)), REPEATS)
    weights = np.concatenate([np.ones((1, len(common))), weights])
    means = []
    for values, images in ((x, images_x), (y, images_y)):
        names = np.array(images)
        keep = np.isin(names, common)
        sums = intervals.cluster_sums(values[keep], names[keep].tolist())
        with np.errstate(invalid="ignore"):
            means.append((weights @ sums.total) / (weights @ sums.number))
    return means[0], means[1]


def _spearman(a: Float[np.ndarray, "repeat head"], b: Float[np.ndarray, "repeat head"]) -> Float[np.ndarray, " repeat"]:
    """Rank correlation of each row's pairs, ties averaged."""
    ranks = [rankdata(v, axis=1) for v in (a, b)]
    x, y = (r - r.mean(1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore"):
        return (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))


def set_table(found: Effects, seed: int) -> pd.DataFrame:
    """Each set beside its random sets, and the paired difference with its interval."""
    frames = []
    for name, score in found.scores.items():
        if score.null is None:
            continue
        own, null = score.values[:, 0], score.null[:, 0]
        gap = differences(null, own, score.sample_ids, higher_is_better=True, seed=seed)
        rows = found.frame[found.frame["measure"] == name].reset_index(drop=True)
        gap = gap[["difference", "low", "high", "p", "p_corrected"]].add_prefix("gap_")
        frames.append(pd.concat([rows.drop(columns=["layer", "head", "p", "p_corrected"]), gap], axis=1))
    return pd.concat(frames, ignore_index=True)


def edge_table(cut: Mapping[str, Effects]) -> pd.DataFrame:
    """``measure keys patches n images mean low high``; patches: how many are hidden on average."""
    frames = []
    for keys, found in cut.items():
        rows = found.frame[["measure", "n", "images", "mean", "low", "high"]].copy()
        rows.insert(1, "keys", keys)
        hidden = found.phrases.loc[found.phrases["patches"] > 0, "patches"]
        rows.insert(2, "patches", hidden.mean())
        frames.append(rows)
    return pd.concat(frames, ignore_index=True)


def contrast_table(cut: Mapping[str, Effects], seed: int) -> pd.DataFrame:
    """Own patches less each other kind, over phrases that have as many of both."""
    frames = []
    for keys in EDGES[1:]:
        own, other = cut["own"], cut[keys]
        same = (own.phrases["patches"] == other.phrases["patches"]).to_numpy()
        for name in own.scores.keys() & other.scores.keys():
            a, b = (np.where(same[:, None], e.scores[name].values[:, 0], np.nan) for e in (other, own))
            frame = differences(a, b, own.scores[name].sample_ids, higher_is_better=True, seed=seed)
            frame.insert(0, "keys", keys)
            frame.insert(0, "measure", name)
            frames.append(frame.drop(columns="favours"))
    found = pd.concat(frames, ignore_index=True)
    return found.sort_values(["measure", "keys"], ignore_index=True)


def layer_table(found: Mapping[str, Effects]) -> pd.DataFrame:
    """``measure keys layer n images mean low high``."""
    frames = []
    for keys, one in found.items():
        rows = one.frame[["measure", "n", "images", "mean", "low", "high"]].copy()
        rows.insert(1, "keys", keys)
        rows.insert(2, "layer", [int(unit.removeprefix("L")) for unit in one.frame["unit"]])
        frames.append(rows)
    return pd.concat(frames, ignore_index=True)
