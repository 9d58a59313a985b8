"""When grounding appears: scores of every head at every checkpoint -> curves, onsets, and how they lie to the loss.

A head has two onsets, and never one for the other. *Things*: the first step from which, at every later step as well,
(1) its own masks beat masks of other images by a sign-flip test over images, corrected for all heads (max-T), at
``level``, and (2) its 95 % interval lies beyond its null. *Words*: the same of its specificity (`interp.ranking`),
above 0: it tells the thing that the word names from the others of the image. Since an onset must hold at the last
step, the probability of any onset among heads that do not ground there is at most ``level`` per metric and kind,
whatever the number of heads and steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.emergence.lags import half_way, lags
from interp.emergence.orders import orders
from interp.emergence.result import Emergence, Measurement
from interp.statistics import intervals, summary
from interp.types import By

LEVEL = 0.05


HEAD = ["metric", "layer", "head"]


def emergence(
    measured: Sequence[Measurement], *, seed: int = 0, level: float = LEVEL, by: By | None = None
) -> Emergence:
    """The tables of a series' measurements, which may come in any order of steps.

    Raises:
        ValueError: no measurements, a step twice, or steps with different metrics.
    """
    measured = sorted(measured, key=lambda m: m.step)
    steps = [m.step for m in measured]
    if (
        not measured
        or len(set(steps)) < len(steps)
        or any(m.scores.keys() != measured[0].scores.keys() for m in measured)
    ):
        raise ValueError(f"got steps {steps}; expected at least one, each once, and the same metrics at each")
    higher = {name: score.higher_is_better for name, score in measured[0].scores.items()}
    heads = curves(measured, seed, by)
    found = onsets(heads, higher, level)
    return Emergence(
        heads=heads,
        onsets=found,
        layers=layer_onsets(found),
        steps=step_frame(measured, heads, level, seed),
        agreement=stability(heads, higher),
        leaders=leaders(heads),
        lags=lags(measured, found, seed),
        orders=orders(measured, found, seed),
    )


def curves(measured: Sequence[Measurement], seed: int, by: By | None = None) -> pd.DataFrame:
    """``step, stage`` and the columns of `summary.summarise`, a row per step, metric and head."""
    frames = []
    for m in measured:
        frame = summary.summarise(m.scores, seed, by)
        frame.insert(0, "stage", m.stage)
        frame.insert(0, "step", m.step)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def onsets(heads: pd.DataFrame, higher_is_better: Mapping[str, bool], level: float = LEVEL) -> pd.DataFrame:
    """A row per metric and head:

    - ``onset``: of looking at things, a step, NaN where there is none (see above), and ``stage``, what was trained
      there ("" if none); ``onset_word`` and ``stage_word``: of telling the named thing from the others;
    - ``half_rise``: for heads with an onset, the step at which the mean has come half the way from its first value to
      its last, linear between checkpoints; NaN else;
    - ``first``, ``final`` mean, ``low`` to ``high`` of the final one, ``null`` and ``p_corrected`` at the last step,
      and there ``specificity``, ``specificity_low`` to ``specificity_high``, ``p_specific``.
    """
    stages = heads.drop_duplicates("step").set_index("step")["stage"]
    frames = []
    for metric, rows in heads.groupby("metric", sort=False):
        sign = 1 if higher_is_better[str(metric)] else -1
        names = ("mean", "low" if sign > 0 else "high", "null", "p_corrected", "specificity_low", "p_specific")
        pivoted = [rows.pivot(index="step", columns=["layer", "head"], values=n).sort_index(axis=1) for n in names]
        mean, (near, null, p, above, p_word) = pivoted[0], (frame.to_numpy() for frame in pivoted[1:])
        steps = mean.index.to_numpy(dtype=float)
        onset = first_lasting((p <= level) & (sign * (near - null) > 0), steps)
        word = first_lasting((p_word <= level) & (above > 0), steps)
        half = half_way(mean.to_numpy().T, steps)
        last = rows[rows["step"] == rows["step"].max()].set_index(["layer", "head"]).reindex(mean.columns)
        columns = {
            "metric": metric,
            "layer": mean.columns.get_level_values("layer"),
            "head": mean.columns.get_level_values("head"),
            "onset": onset,
            "stage": ["" if np.isnan(s) else stages[int(s)] for s in onset],
            "onset_word": word,
            "stage_word": ["" if np.isnan(s) else stages[int(s)] for s in word],
            "half_rise": np.where(np.isnan(onset), np.nan, half),
            "first": mean.to_numpy()[0],
            "final": mean.to_numpy()[-1],
        }
        final = (
            "low",
            "high",
            "null",
            "p_corrected",
            "specificity",
            "specificity_low",
            "specificity_high",
            "p_specific",
        )
        frames.append(pd.DataFrame({**columns, **{name: last[name].to_numpy() for name in final}}))
    return pd.concat(frames, ignore_index=True)


def first_lasting(sure: Bool[np.ndarray, "step head"], steps: Float[np.ndarray, " step"]) -> Float[np.ndarray, " head"]:
    """Per head the first step from which it is sure at every step to the end; NaN if it is not at the last.

    >>> sure = np.array([[False, True], [True, False], [True, True]])  # 3 steps, 2 heads
    >>> first_lasting(sure, np.array([0.0, 100.0, 200.0])).tolist()
    [100.0, 200.0]
    """
    lasting = np.logical_and.accumulate(sure[::-1])[::-1]
    return np.where(lasting[-1], steps[lasting.argmax(0)], np.nan)


def layer_onsets(found: pd.DataFrame) -> pd.DataFrame:
    """A row per metric and layer: ``onset`` of its first head that looks at things (NaN if none), how many ``heads``
    have one, ``onset_word`` and ``heads_word`` of those that tell the named thing, ``of`` how many heads."""
    rows = []
    for key, some in found.groupby(["metric", "layer"], sort=False):
        metric, layer = cast(tuple[str, int], key)
        row: dict[str, object] = {"metric": metric, "layer": layer}
        for end in ("", "_word"):
            onset = some[f"onset{end}"].to_numpy(dtype=float)
            there = onset[np.isfinite(onset)]
            row |= {f"onset{end}": there.min() if len(there) else np.nan, f"heads{end}": len(there)}
        rows.append({**row, "of": len(some)})
    return pd.DataFrame(rows)


def step_frame(measured: Sequence[Measurement], heads: pd.DataFrame, level: float, seed: int) -> pd.DataFrame:
    """A row per step: ``step, stage, loss`` (mean over images of -log p a token, nats) with ``loss_low, loss_high``;
    ``recall`` (0..1, share of targets that the model's own answers name) with its interval, NaN if not asked for;
    ``images`` with a loss; at this step alone, ``grounding_METRIC``: heads that look at things for sure, and
    ``specific_METRIC``: heads that tell the named thing for sure."""
    rows = []
    for m in measured:
        own = heads[heads["step"] == m.step]
        loss = _estimate(list(m.losses.values()), list(m.losses), seed)
        hits = [float(i < named) for named, of in m.named.values() for i in range(of)]
        recall = _estimate(hits, [image for image, (_, of) in m.named.items() for _ in range(of)], seed)
        rows.append(
            {
                "step": m.step,
                "stage": m.stage,
                "images": len(m.losses),
                **dict(zip(("loss", "loss_low", "loss_high"), loss, strict=True)),
                **dict(zip(("recall", "recall_low", "recall_high"), recall, strict=True)),
                **{
                    f"{label}_{n}": int((own.loc[own["metric"] == n, p] <= level).sum())
                    for n in m.scores
                    for label, p in (("grounding", "p_corrected"), ("specific", "p_specific"))
                },
            }
        )
    return pd.DataFrame(rows)


def _estimate(values: Sequence[float], images: Sequence[str], seed: int) -> tuple[float, float, float]:
    """Mean with the ends of its interval; NaN where there are no values."""
    if not values:
        return float("nan"), float("nan"), float("nan")
    array = np.array(values, dtype=float)
    interval = intervals.bootstrap(array, images, seed=seed)
    return float(array.mean()), float(interval.low), float(interval.high)


def stability(heads: pd.DataFrame, higher_is_better: Mapping[str, bool], k: int = 10) -> pd.DataFrame:
    """A row per metric and pair of steps: ``tau`` (Kendall, -1..1) of the heads' means and ``overlap`` (0..1), the
    share of the k best heads of the one among those of the other; ``k`` is at most a quarter of the heads."""
    rows = []
    for metric, some in heads.groupby("metric", sort=False):
        table = some.pivot(index="step", columns=["layer", "head"], values="mean").sort_index()
        signed = table.to_numpy() * (1 if higher_is_better[str(metric)] else -1)
        size = max(1, min(k, signed.shape[1] // 4))
        best = [set(np.argsort(-np.nan_to_num(row, nan=-np.inf), kind="stable")[:size].tolist()) for row in signed]
        steps = table.index.to_list()
        rows += [
            {
                "metric": metric,
                "step_a": steps[a],
                "step_b": steps[b],
                "tau": summary.tau(signed[a], signed[b]),
                "overlap": len(best[a] & best[b]) / size,
                "k": size,
            }
            for a in range(len(steps))
            for b in range(a + 1, len(steps))
        ]
    return pd.DataFrame(rows, columns=["metric", "step_a", "step_b", "tau", "overlap", "k"])


def leaders(heads: pd.DataFrame, k: int = 5) -> pd.DataFrame:
    """The k best heads per metric and step, by their ``rank`` there: ``metric step place layer head mean low high null
    p_corrected specificity specificity_low specificity_high p_specific``."""
    frames = []
    for _, some in heads.groupby(["metric", "step"], sort=False):
        best = some.sort_values("rank", kind="stable").head(k)
        frames.append(best.assign(place=range(1, len(best) + 1)))
    columns = ["metric", "step", "place", "layer", "head", "mean", "low", "high", "null", "p_corrected"]
    columns += ["specificity", "specificity_low", "specificity_high", "p_specific"]
    return pd.concat(frames, ignore_index=True).loc[:, columns]
