"""Paired differences over the same phrases: one condition against another, with intervals over images.

A *condition* is a column of a wide table (a row per phrase). A difference is b - a, phrase by phrase, where both are
defined; images are drawn anew with all their phrases, so the interval is that of a paired comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.statistics import intervals

KEY = ["sample_id", "word", "occurrence"]


SURE = 0.05
"""p below which a difference favours one side."""


def keyed(words: pd.DataFrame) -> pd.MultiIndex:
    """One key per row of ``sample_id, word``: the n-th occurrence of a word in an image counts for itself.

    >>> keyed(pd.DataFrame({"sample_id": "1", "word": ["dog", "dog", "cat"]})).tolist()
    [('1', 'dog', 0), ('1', 'dog', 1), ('1', 'cat', 0)]
    """
    occurrence = words.groupby(["sample_id", "word"]).cumcount()
    return pd.MultiIndex.from_arrays([words["sample_id"], words["word"], occurrence], names=KEY)


def shared(a: pd.MultiIndex, b: pd.MultiIndex) -> pd.MultiIndex:
    """The keys that both have, in the order of ``a``.

    A word that occurs a different number of times in the two is left out: nobody knows which is which.
    """
    names: list[Any] = [index.droplevel("occurrence") for index in (a, b)]
    count_a, count_b = (of.value_counts() for of in names)
    same: Any = count_a.index[count_a.eq(count_b.reindex(count_a.index, fill_value=0))]
    shared_keys: Any = a[names[0].isin(same)]
    return shared_keys


def places(of: pd.MultiIndex, keys: pd.MultiIndex) -> Int[np.ndarray, " phrase"]:
    """Where each of the keys stands in ``of``."""
    return of.get_indexer(keys).astype(np.int64)


def differences(
    a: Float[np.ndarray, "phrase column"],
    b: Float[np.ndarray, "phrase column"],
    images: Sequence[str],
    *,
    higher_is_better: bool,
    seed: int,
) -> pd.DataFrame:
    """A row per column: ``n images a b difference low high p p_corrected favours``.

    ``a``, ``b``: means over the ``n`` phrases where both are defined; ``difference`` = b - a; ``low`` to ``high``: 95 %
    bootstrap interval over images (`intervals.bootstrap`); ``p``: two-sided sign-flip test over images, corrected for
    all columns in ``p_corrected`` (`intervals.sign_flip`); ``favours``: a or b, whichever is better, where the interval
    leaves 0 out and p is below ``SURE``, else nothing. Below `intervals.FEWEST` images intervals and p are NaN, and
    nothing is favoured.

    >>> a, b = np.array([[0.0], [1.0], [0.0], [0.0], [0.0], [1.0]]), np.array([[1.0]] * 5 + [[np.nan]])
    >>> row = differences(a, b, ["1", "2", "3", "4", "5", "5"], higher_is_better=True, seed=0).iloc[0]
    >>> int(row["n"]), float(row["difference"])  # the NaN takes its pair away
    (5, 0.8)
    >>> row["favours"]  # five images, one of them alike, say nothing sure
    ''
    """
    gap = b.astype(np.float64) - a
    both = np.isfinite(gap)
    gap = np.where(both, gap, np.nan)
    interval = intervals.bootstrap(gap, images, seed=seed, rates=False)
    test = intervals.sign_flip(gap, images, seed=seed, alternative="two-sided")
    frame = pd.DataFrame(
        {
            "n": both.sum(0),
            "images": (intervals.cluster_sums(gap, images).number > 0).sum(0),
            "a": intervals.mean(np.where(both, a, np.nan)),
            "b": intervals.mean(np.where(both, b, np.nan)),
            "difference": intervals.mean(gap),
            "low": interval.low,
            "high": interval.high,
            "p": test.p,
            "p_corrected": test.p_corrected,
        }
    )
    up, down = ("b", "a") if higher_is_better else ("a", "b")
    sure = frame["p"] < SURE
    frame["favours"] = np.select([sure & (frame["low"] > 0), sure & (frame["high"] < 0)], [up, down], "")
    return frame


def wide(phrases: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """A row per phrase (keyed by `KEY`), a column per combination of ``by``; NaN where a phrase has no value.

    ``phrases`` is tidy, of one metric: the columns of `KEY`, of ``by``, and ``value``.

    >>> rows = {"sample_id": "1", "word": "dog", "occurrence": 0, "heads": ["paper", "top1"], "value": [0.2, 0.7]}
    >>> wide(pd.DataFrame(rows), ["heads"]).to_dict("records")
    [{'paper': 0.2, 'top1': 0.7}]
    """
    table: Any = phrases.set_index([*KEY, *by])["value"].unstack(list(by), sort=False)
    return table
