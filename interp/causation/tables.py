"""Effects of heads, sets and edges -> tidy tables."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from interp.causation.result import Effects
from interp.causation.setting import EDGES
from interp.statistics.contrasts import differences


def set_table(found: Effects, seed: int) -> pd.DataFrame:
    """Each set with its rank among its random sets, and the paired difference from the mean of these very sets
    (``gap_...``: interval and p over images, the sets taken for given)."""
    frames = []
    for name, score in found.scores.items():
        if score.null is None:
            continue
        own, null = score.values[:, 0], score.null[:, 0]
        gap = differences(null, own, score.images, higher_is_better=True, seed=seed)
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
            frame = differences(a, b, own.scores[name].images, higher_is_better=True, seed=seed)
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
