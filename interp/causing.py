"""Grounding beside its effect: which heads look at the thing that a word names, and which of them make it said.

One study of a model: heads are ranked by grounding (`interp.rank`); each is taken away by itself, and the best of them
together beside random heads of the same layers (`interp.effects`); and the edges from a word to its thing's patches are
knocked out, beside as many other patches, in all layers and in each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata

from interp import intervals
from interp.contrasts import differences
from interp.effect import Effects, effects
from interp.intervened import EDGES
from interp.interventions import Reference
from interp.ranking import TOP, rank, repeatable
from interp.references import reference as reference_of
from interp.stores import Memory, Store
from interp.summary import summarise
from interp.types import HeadScores, Sample, Skip, Weighting

REPEATS = 2000
BY_LAYER = ("own", "background")


@dataclass(frozen=True)
class Cause:
    """What a study found; effects are harm, positive where the model does worse (`interp.effects`).

    ``heads``: a row per metric, layer and head (`summary.summarise`), the grounding metric first, then each measure of
    effect. ``correlation``: Spearman's rho over heads between grounding and each measure, with its interval over
    images. ``sets``: the best heads by grounding taken away together, beside random ones (``null``), with their paired
    difference. ``edges``: knockouts of a word's row to patches of each kind; ``contrasts``: own patches less the other
    kinds, paired over phrases. ``layers``: the same knockouts in one layer at a time. ``phrases``: the plain model.
    """

    heads: pd.DataFrame
    correlation: pd.DataFrame
    sets: pd.DataFrame
    edges: pd.DataFrame
    contrasts: pd.DataFrame
    layers: pd.DataFrame
    phrases: pd.DataFrame
    skipped: tuple[Skip, ...]
    manifest: dict[str, Any] = field(default_factory=dict)


def cause(
    lmm: Any,
    dataset: Iterable[Sample | Skip],
    samples: int | None = None,
    *,
    metric: str = "pointing_game",
    weighting: Weighting = "attention",
    intervention: str = "mean",
    where: str = "answer",
    reference: Reference | None = None,
    generate: bool = False,
    answers: str = "reference",
    draws: int = 8,
    seed: int = 0,
    batch: int = 8,
    copies: int = 64,
    max_new_tokens: int = 128,
    store: Store | None = None,
    progress: bool = True,
) -> Cause:
    """The study of one model on one data set.

    Args:
        metric, weighting: of grounding; heads are ranked by it, on maps of attention or of attention times value norm.
        intervention, where, reference: how heads are taken away: "mean", "zero" or "resample", as for `interp.effects`.
        generate: also whether the sets' and edges' words are still named when the model answers by itself.
        draws: random sets beside each set of the best heads.

    All else is as for `interp.rank` and `interp.effects`.

    Raises:
        ValueError: a bad argument, or "knockout" as intervention: edges are knocked out anyway.
        interp.ranking.NothingToRank, interp.effect.NothingToMeasure: no phrase names a target.
    """
    if intervention == "knockout":
        raise ValueError("intervention is 'knockout'; expected 'mean', 'zero' or 'resample': edges are cut besides")
    again, kept = repeatable(dataset, samples), Memory() if store is None else store
    data = list(again()) if iter(dataset) is dataset else _Again(again)
    common: Any = {"answers": answers, "seed": seed, "batch": batch, "max_new_tokens": max_new_tokens}
    common |= {"store": kept, "progress": progress}
    ranking = rank(lmm, data, [metric], weighting=weighting, **common)
    grounding = ranking.scores[metric]
    if intervention != "zero" and reference is None:
        rows: Any = "all" if where == "all" else "answer"
        reference = reference_of(lmm, again(), rows=rows, **{k: v for k, v in common.items() if k != "store"})
    how = {"draws": draws, "copies": copies, "weighting": weighting, **common}
    away = {"intervention": intervention, "where": where, "reference": reference}
    single = effects(lmm, data, "all", **away, **how)
    best = {name: grounding.top(k) for name, k in TOP.items() if k < lmm.layers * lmm.heads}
    together = effects(lmm, data, best, **away, generate=generate, **how)
    cut = {k: effects(lmm, data, {"all heads": "all"}, "knockout", keys=k, generate=generate, **how) for k in EDGES}
    layers = {k: effects(lmm, data, "layers", "knockout", keys=k, **how) for k in BY_LAYER}
    shape = (lmm.layers, lmm.heads)
    scores = {metric: grounding} | {name: _by_head(score, shape) for name, score in single.scores.items()}
    return Cause(
        heads=summarise(scores, seed),
        correlation=correlations(scores, metric, seed),
        sets=_sets(together, seed),
        edges=_edges(cut),
        contrasts=_contrasts(cut, seed),
        layers=_layers(layers),
        phrases=cut["own"].phrases,
        skipped=single.skipped,
        manifest={
            "metric": metric,
            "grounding": ranking.manifest,
            "effects": single.manifest,
            "sets": {name: [list(h) for h in heads] for name, heads in best.items()},
            "seed": seed,
        },
    )


class _Again:
    """A data set from a function that starts it anew."""

    def __init__(self, start: Any):
        self.start = start

    def __iter__(self) -> Any:
        return self.start()


def _by_head(score: HeadScores, shape: tuple[int, int]) -> HeadScores:
    """Units that are all heads in order, as layers and heads."""
    values, null = (None if x is None else x.reshape(len(x), *shape) for x in (score.values, score.null))
    assert values is not None
    return HeadScores(score.metric, True, score.sample_ids, score.phrases, values, null)


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


def _sets(found: Effects, seed: int) -> pd.DataFrame:
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


def _edges(cut: Mapping[str, Effects]) -> pd.DataFrame:
    """``measure keys patches n images mean low high``; patches: how many are hidden on average."""
    frames = []
    for keys, found in cut.items():
        rows = found.frame[["measure", "n", "images", "mean", "low", "high"]].copy()
        rows.insert(1, "keys", keys)
        hidden = found.phrases.loc[found.phrases["patches"] > 0, "patches"]
        rows.insert(2, "patches", hidden.mean())
        frames.append(rows)
    return pd.concat(frames, ignore_index=True)


def _contrasts(cut: Mapping[str, Effects], seed: int) -> pd.DataFrame:
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


def _layers(found: Mapping[str, Effects]) -> pd.DataFrame:
    """``measure keys layer n images mean low high``."""
    frames = []
    for keys, one in found.items():
        rows = one.frame[["measure", "n", "images", "mean", "low", "high"]].copy()
        rows.insert(1, "keys", keys)
        rows.insert(2, "layer", [int(unit.removeprefix("L")) for unit in one.frame["unit"]])
        frames.append(rows)
    return pd.concat(frames, ignore_index=True)
