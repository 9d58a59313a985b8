"""One metric for every phrase and head, with its nulls and its specificity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.handle import OfPhrases
from interp.types import By, Head, layer_numbers
from interp.work.room import taken

BLOCK = 1 << 22
"""Scores that are in memory at a time as one array in double precision: 32 MiB."""


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores(OfPhrases):
    """One metric for every phrase and head, with its nulls and its specificity.

    ``values`` are the scores against the phrase's own mask; ``null`` the mean score of the same maps against masks
    of *other* images (shuffled-mask null): beside it, ``values`` say that a head looks at *things*. ``chance`` is what
    a map without information about the image scores on a mask of that area (area-matched), NaN where the metric has no
    such value. ``specificity`` says that a head looks at *this word's* thing (`interp.ranking.specificity`): higher is
    better whatever the metric, about 0 for a head that does not know the word, NaN for a phrase without ``partners``
    (their number), other things of its image that are named by as many tokens. ``image_ids`` names each phrase's
    image, the cluster of every interval (default: ``sample_ids``). ``layers`` are the layers' numbers along that axis
    (default: 0, 1, ...; a model may have layers without heads). Undefined scores are NaN.

    >>> values = np.array([[[0.2, 0.9]], [[0.4, np.nan]]])  # 2 phrases, a layer, 2 heads
    >>> scores = HeadScores("nss", True, ("1.jpg", "2.jpg"), ("a dog", "a cat"), values)
    >>> scores.mean().round(2).tolist(), [str(head) for head in scores.top(1)]
    ([[0.3, 0.9]], ['L0H1'])
    >>> len(scores.to_frame()), scores["a dog"]  # what is measured of one word
    (4, HeadScores('nss', 1 phrases, 1 x 2 heads, best L0H1: 0.9))
    """

    metric: str
    higher_is_better: bool
    sample_ids: tuple[str, ...]
    phrases: tuple[str, ...]
    values: Float[np.ndarray, "phrase layer head"]
    null: Float[np.ndarray, "phrase layer head"] | None = None
    chance: Float[np.ndarray, " phrase"] | None = None
    details: dict[str, Any] = field(default_factory=dict)
    specificity: Float[np.ndarray, "phrase layer head"] | None = None
    partners: Int[np.ndarray, " phrase"] | None = None
    image_ids: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()

    def __getitem__(self, phrase: str | int) -> HeadScores:
        """The scores of the phrases called so (whatever their case), or of one, by its number.

        Raises:
            KeyError: no phrase is called so; with some that there are.
        """
        if isinstance(phrase, int):
            rows = [range(len(self))[phrase]]
        else:
            wanted = phrase.strip().casefold()
            rows = [i for i, text in enumerate(self.phrases) if text.strip().casefold() == wanted]
        if not rows:
            there = ", ".join(repr(text) for text in list(dict.fromkeys(self.phrases))[:20])
            raise KeyError(f"no phrase {phrase!r}; there are: {there}{', ...' if len(set(self.phrases)) > 20 else ''}")
        return self.of(rows)

    def of(self, rows: Any) -> HeadScores:
        """The scores of some of the phrases: their numbers, or True for each that is meant."""
        rows = np.arange(len(self))[np.asarray(rows)]
        first, end = (int(rows.min()), int(rows.max()) + 1) if len(rows) else (0, 0)
        close = end - first == len(rows)  # then read what lies between, and nothing beside it
        parts = {
            name: own if own is None else taken(own[first:end])[rows - first] if close else own[rows]
            for name in ("values", "null", "chance", "specificity", "partners")
            for own in [getattr(self, name)]
        }
        names = {name: tuple(getattr(self, name)[i] for i in rows) for name in ("sample_ids", "phrases")}
        return replace(self, **names, **parts, image_ids=tuple(self.images[i] for i in rows))

    def blocks(self, rows: Any = None) -> Iterator[HeadScores]:
        """The scores of some heads at a time (of those phrases that ``rows`` is True for), as heads of one layer: few
        enough for memory, wherever the arrays lie; all at once where they are few."""
        n, layers, heads = self.values.shape
        count = max(-(-n * layers * heads // BLOCK), 1)
        names = (
            {} if rows is None else _some(rows, sample_ids=self.sample_ids, phrases=self.phrases, image_ids=self.images)
        )
        for columns in np.array_split(np.arange(layers * heads), min(count, max(layers * heads // 2, 1))):
            some = slice(columns[0], columns[-1] + 1) if len(columns) else slice(0, 0)
            yield replace(self, **self._of_heads(some, rows), **names, layers=())

    def _of_heads(self, columns: slice, rows: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in ("values", "null", "specificity", "chance", "partners"):
            own = getattr(self, name)
            if own is not None and own.ndim == 3:
                own = taken(own.reshape(len(own), -1)[:, columns])[:, None]
            found[name] = own if own is None or rows is None else own[rows]
        return found

    def _line(self) -> str:
        layers, heads = self.values.shape[1:]
        by = self.chosen_by()
        best = self.top(1, by)
        said = "all undefined"
        if best:
            value = self.mean(by)[list(self.numbers).index(best[0].layer), best[0].head]
            said = f"best {best[0]}: {value:.3g}{' specificity' if by == 'specificity' else ''}"
        return f"{self.metric!r}, {len(self)} phrases, {layers} x {heads} heads, {said}"

    def means(self) -> pd.DataFrame:
        """Tidy: a row per layer and head, ``metric layer head mean specificity p_specific higher_is_better``; the p is
        NaN: `interp.statistics.summary.summarise` makes tests and intervals."""
        layers, heads = self.values.shape[1:]
        return pd.DataFrame(
            {
                "metric": self.metric,
                "layer": np.repeat(self.numbers, heads),
                "head": np.tile(np.arange(heads), layers),
                "mean": self.mean().ravel(),
                "specificity": self.mean("specificity").ravel(),
                "p_specific": np.nan,
                "higher_is_better": self.higher_is_better,
            }
        )

    @property
    def numbers(self) -> Int[np.ndarray, " layer"]:
        """The number of each layer along the axis."""
        return np.array(layer_numbers(self.layers, self.values.shape[1]), dtype=np.int64)

    @property
    def images(self) -> tuple[str, ...]:
        """The image of each phrase."""
        return self.image_ids or self.sample_ids

    def mean(self, by: By = "mean", rows: Any = None) -> Float[np.ndarray, "layer head"]:
        """Mean score, or mean specificity, over the phrases for which it is defined (of those that ``rows`` is True
        for); NaN for a head that has none."""
        if by not in get_args(By):
            raise ValueError(f"by is {by!r}; expected one of {', '.join(map(repr, get_args(By)))}")
        if by != "mean" and self.specificity is None:
            return np.full(self.values.shape[1:], np.nan)
        found = []
        for block in self.blocks(rows):
            values = block.values if by == "mean" or block.specificity is None else block.specificity
            with np.errstate(invalid="ignore", divide="ignore"):
                found.append(np.nansum(values, 0)[0] / np.isfinite(values).sum(0)[0])
        return np.concatenate(found).reshape(self.values.shape[1:])

    def chosen_by(self, by: By | None = None) -> By:
        """What heads are chosen by: as asked, or specificity where any head has one, else the mean score."""
        if by is not None:
            return by
        return "specificity" if np.isfinite(self.mean("specificity")).any() else "mean"

    def top(self, k: int, by: By | None = None, rows: Any = None) -> list[Head]:
        """The k best heads, best first: by specificity where any head has one, else by mean score; or as asked, over
        the phrases that ``rows`` is True for. Heads that are NaN come never."""
        by = self.chosen_by(by)
        mean = self.mean(by, rows)
        falling = self.higher_is_better or by == "specificity"
        order = np.argsort(-mean if falling else mean, axis=None, kind="stable")
        flat = [i for i in order if np.isfinite(mean.flat[i])][:k]
        layer, head = np.unravel_index(np.array(flat, dtype=np.int64), mean.shape)
        return [Head(int(a), int(b)) for a, b in zip(self.numbers[layer], head, strict=True)]

    def to_frame(self) -> pd.DataFrame:
        """Tidy: one row per phrase, layer and head."""
        n, layers, heads = self.values.shape
        frame = pd.DataFrame(
            {
                "sample_id": np.repeat(np.array(self.sample_ids, dtype=object), layers * heads),
                "phrase": np.repeat(np.array(self.phrases, dtype=object), layers * heads),
                "layer": np.tile(np.repeat(self.numbers, heads), n),
                "head": np.tile(np.arange(heads), n * layers),
                "metric": self.metric,
                "value": self.values.ravel(),
            }
        )
        for name in ("null", "specificity"):
            if (column := getattr(self, name)) is not None:
                frame[name] = column.ravel()
        if self.chance is not None:
            frame["chance"] = np.repeat(self.chance, layers * heads)
        return frame


def _some(rows: Any, **names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The names of those phrases that ``rows`` is True for."""
    return {key: tuple(np.array(own, dtype=object)[rows].tolist()) for key, own in names.items()}
