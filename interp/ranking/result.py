"""What a ranking found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.handle import OfTables
from interp.statistics.scores import HeadScores
from interp.statistics.summary import PhraseTable
from interp.types import By, Head, Sample, Skip

TOP = {"top1": 1, "top3": 3, "top10": 10}


MASK_FREE = ("image_mass", "spatial_entropy")


class NothingToRank(ValueError):
    """Not one phrase of any sample could be scored.

    What to do: look at the commonest reasons in the message: answers that name no target, images that cannot be read,
    or a model whose answers are empty (then ``answers="reference"`` reads the data set's own).
    """


def nothing(count: int, reasons: Iterable[str]) -> NothingToRank:
    """The error, with the commonest of the reasons why ``count`` samples have nothing to score."""
    found = Counter(reasons).most_common(3)
    listed = "; ".join(f"{times} x {reason}" for reason, times in found) or "the data set is empty"
    return NothingToRank(f"no phrase of {count} samples could be scored: {listed}")


def no_masks(samples: Iterable[Sample | Skip]) -> NothingToRank:
    """The error for samples of which none has a mask, which shows before a model has read them."""
    without = "the sample has no mask; take a data set that marks the things its answers name"
    reasons = [s.reason if isinstance(s, Skip) else without for s in samples]
    return nothing(len(reasons), reasons)


class _WhenAsked:
    """A field that holds a table, or a `PhraseTable`, which is made whole when it is first asked for."""

    def __get__(self, owner: Any, kind: Any = None) -> pd.DataFrame:
        if owner is None:
            raise AttributeError("a field without a default")
        if not isinstance(found := vars(owner)["_phrases"], pd.DataFrame):
            found = vars(owner)["_phrases"] = found()
        return found

    def __set__(self, owner: Any, table: Any) -> None:
        vars(owner)["_phrases"] = table


@dataclass(frozen=True, eq=False, repr=False)
class Ranking(OfTables):
    """What a run found.

    ``scores``: metric -> every phrase and head. ``heads``: a row per metric and head (`summary.statistics`).
    ``reductions``: a row per metric and ``heads`` in ``paper`` (mean of all heads), ``released`` (head H-2 of each
    layer), ``top1``, ``top3``, ``top10``: mean map of the best heads by that metric, always chosen on the half of the
    images that the phrase's image is not in. ``phrases``: their values phrase by phrase. ``rows``: the headline metric
    on the mean, the first and the last of a word's rows, for words of one token, of several, and all; a row per head.
    ``subsets``: the reductions over other sets and weights of phrases (`interp.ranking.subsets`). ``localization``:
    the mask-free ranking, without a row unless both metrics of `MASK_FREE` were asked for. ``agreement``: Kendall's tau
    per metric. ``manifest``: what went in.
    """

    scores: Mapping[str, HeadScores]
    heads: pd.DataFrame
    reductions: pd.DataFrame
    if TYPE_CHECKING:  # what may be given is more than what is got
        phrases: pd.DataFrame
    else:
        phrases: pd.DataFrame | PhraseTable = _WhenAsked()
    localization: pd.DataFrame
    agreement: pd.DataFrame
    rows: pd.DataFrame
    subsets: pd.DataFrame
    skipped: tuple[Skip, ...]
    manifest: dict[str, Any] = field(default_factory=dict)

    def phrase_pieces(self, rows: int) -> Iterator[pd.DataFrame]:
        """``phrases`` in pieces of at most so many rows, without the whole in memory, unless it is there."""
        table = vars(self)["_phrases"]
        return iter([table]) if isinstance(table, pd.DataFrame) else table.pieces(rows)

    @property
    def headline(self) -> str:
        """The metric that was named before anything was measured."""
        return self.manifest["headline"]

    def top(self, k: int, by: By | None = None, metric: str | None = None) -> list[Head]:
        """The k best heads by the headline metric (or another), best first: by specificity where there is one."""
        return self.scores[metric or self.headline].top(k, by)

    def plot(self, metric: str | None = None, by: By | None = None, **how: Any) -> Any:
        """A layer x head map of the headline metric (or another); ``how`` as `interp.plots.heads.heat_map` takes it."""
        from interp.plots.heads import heat_map

        metric = metric or self.headline
        return heat_map(self.heads, metric, by=by or self.scores[metric].chosen_by(self.manifest["by"][metric]), **how)

    def _line(self) -> str:
        about = self.manifest
        layers, heads = self.scores[self.headline].values.shape[1:]
        best = ", ".join(map(str, self.top(3)))
        counts = f"{about['phrases']} phrases of {about['images']} images"
        return f"{about['model']!r}, {self.headline}, best of {layers} x {heads} heads: {best}; {counts}"
