"""Whether a map finds the thing that its own word names, and not just a thing: own map on own mask and on the masks of
the other named things of the same image, both ways round.

For two named things p, q of one image, with maps a_p, a_q, masks M_p, M_q and a metric s,

    d(p, q) = [s(a_p, M_p) - s(a_p, M_q) + s(a_q, M_q) - s(a_q, M_p)] / 2.

What depends on the map alone (a head that always looks there) or on the mask alone (area, place, saliency) cancels
exactly. A phrase's specificity is the mean over its partners. Higher is better whatever the metric's own direction.

Their product does not: a head that looks at the same things whatever the word, but with clearer maps for words whose
things it looks at most, is specific by this sum. Metrics that read order alone (`pointing_game`) suffer least, and the
mean over a word's rows more than its first row, since it is flatter for words of more tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.contracts import Metric


def partners(words: Sequence[Mapping[str, Any]]) -> Int[np.ndarray, "phrase slot"]:
    """For each phrase the places of its partners among the phrases, in order; -1 where it has fewer than others.

    Partners are of the same sample, token class and kind and name other targets. A word of several tokens draws
    attention in its later rows because they have read its beginning: one token is compared with one, several with
    several. A phrase that the text has told before it is said is compared with such ones, not with free ones.
    ``words``: ``sample_id``, ``tokens`` (how many), ``targets`` (places of those that it names) and, where the data
    set tells it, ``kind`` of each phrase.
    """
    sample = np.unique([w["sample_id"] for w in words], return_inverse=True)[1] if words else np.zeros(0, int)
    several = np.array([w["tokens"] > 1 for w in words], dtype=bool)
    kind = np.unique([w.get("kind", "") for w in words], return_inverse=True)[1] if words else np.zeros(0, int)
    named = np.zeros((len(words), 1 + max((t for w in words for t in w["targets"]), default=0)), dtype=bool)
    for row, word in enumerate(words):
        named[row, list(word["targets"])] = True
    apart = (named.astype(np.int64) @ named.T.astype(np.int64)) == 0
    fit = apart & (sample[:, None] == sample) & (several[:, None] == several) & (kind[:, None] == kind)
    slots = int(fit.sum(1).max(initial=0))
    order = np.argsort(~fit, axis=1, kind="stable")[:, :slots]
    return np.where(np.take_along_axis(fit, order, 1), order, -1)


def of_partners(
    masks: Float[Tensor, "phrase row col"], partner: Int[np.ndarray, "phrase slot"]
) -> Float[Tensor, "phrase slot row col"]:
    """The masks of each phrase's partners; empty ones where it has fewer."""
    known = torch.from_numpy(partner >= 0).to(masks.device)
    return torch.where(known[..., None, None], masks[np.maximum(partner, 0)], 0.0)


def specificity(
    metric: Metric,
    own: Float[Tensor, "phrase layer head"],
    cross: Float[Tensor, "phrase slot layer head"],
    partner: Int[np.ndarray, "phrase slot"],
) -> Float[Tensor, "phrase layer head"]:
    """Mean of d(p, q) over each phrase's partners; NaN where it has none, or none for which the metric is defined.

    ``own``: the metric's scores on the phrases' own masks; ``cross``: those on the masks of their partners.
    """
    if not partner.shape[1]:
        return torch.full_like(own, torch.nan)
    there, place = partner >= 0, np.maximum(partner, 0)
    known = torch.from_numpy(there).to(own.device)
    # Where a phrase stands among the partners of its partner: the other way round of the same pair.
    back = (partner[place] == np.arange(len(partner))[:, None, None]).argmax(-1)
    pairs = (own[:, None] - cross + own[place] - cross[place, back]) / 2
    pairs = torch.where(known[..., None, None], pairs, torch.nan)
    found = pairs.nanmean(1) * (1 if metric.higher_is_better else -1)
    return torch.where(found.isnan(), torch.nan, found)  # one NaN for all: its bits would else depend on the batch
