"""What a study of effects found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from interp.causation.units import Units
from interp.handle import OfTables
from interp.statistics.scores import HeadScores
from interp.types import Skip


@dataclass(frozen=True, eq=False, repr=False)
class Cause(OfTables):
    """What a study found; effects are harm, positive where the model does worse (`interp.effects`).

    ``heads``: a row per metric, layer and head (`summary.summarise`), the grounding metric first, then each measure of
    effect. ``correlation``: Spearman's rho over heads between grounding and each measure
    (`interp.causation.correlation.correlations`). ``sets``: the best heads by grounding taken away together, with
    their rank among random sets of the same layers (``random, rank_among_random, p_random``); ``null`` is the mean of
    those sets, and ``gap_...`` the paired difference from it, whose interval and p are over images and take these very
    sets for given: they do not say that the set is out of the ordinary. ``edges``: knockouts of a word's row to
    patches of each kind; ``contrasts``: own patches less the other kinds, paired over phrases. ``layers``: the same
    knockouts in one layer at a time. ``phrases``: the plain model.
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

    def plot(self, measure: str = "logprob", **how: Any) -> Any:
        """Each head's grounding against what its loss does; ``how`` as `interp.plots.cause.against` takes it."""
        from interp.plots.cause import against

        rho = self.correlation.set_index("measure").loc[measure] if len(self.correlation) else None
        return against(self.heads, self.manifest["metric"], measure, rho, **how)

    def _line(self) -> str:
        phrases, images = len(self.phrases), self.phrases["image_id"].nunique()
        return (
            f"{self.manifest['metric']}, {phrases} phrases of {images} images, sets: {', '.join(self.manifest['sets'])}"
        )


class NothingToMeasure(ValueError):
    """Not one phrase of any sample could be measured.

    What to do: look at the reason in the message; the answers must name targets that have masks.
    """


@dataclass(frozen=True, eq=False, repr=False)
class Effects(OfTables):
    """What a run found; every effect is a harm, positive where the model does worse.

    ``scores``: measure -> `HeadScores` whose heads are the units (of one layer), with the mean of each unit's random
    sets as null. ``frame``: a row per measure and unit (`summary.statistics`), with ``unit``, ``layer`` and ``head``
    (-1 for sets), ``size``, and the unit's place among its random sets: ``random, rank_among_random, p_random``.
    ``phrases``: what the plain model does, a row per phrase. Measures: ``logprob`` (fall of the log-probability of the
    root's tokens, nats), ``rank`` (rise of the first token's rank), ``grounding`` (fall of the mean grounding of all
    heads in the layers above the unit's first), ``named`` (1: named no more, -1: now named).
    """

    frame: pd.DataFrame
    scores: dict[str, HeadScores]
    phrases: pd.DataFrame
    units: Units
    skipped: tuple[Skip, ...]
    manifest: dict[str, Any] = field(default_factory=dict)

    def to_frame(self, table: str = "frame") -> pd.DataFrame:
        """Tidy, a row per measure and unit; or the ``phrases``."""
        return self[table]

    def plot(self, measure: str = "logprob", **how: Any) -> Any:
        """Single heads over layers and heads (`interp.plots.heads.heat_map`), sets beside random ones
        (`interp.plots.cause.sets`)."""
        from interp.plots.cause import MEASURES, sets
        from interp.plots.heads import heat_map

        if max(map(len, self.units.asked), default=1) > 1:
            return sets(self.frame, measure, **how)
        said = {"title": f"greatest {MEASURES[measure]}", "label": MEASURES[measure]}
        return heat_map(self.frame.rename(columns={"measure": "metric"}), measure, **{**said, **how})

    def _line(self) -> str:
        measures = ", ".join(self.scores)
        return f"{len(self.units.names)} units, {len(self.phrases)} phrases, {measures}"
