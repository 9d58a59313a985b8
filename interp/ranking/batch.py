"""One batch of a ranking: what all batches share, maps, masks and scores, and their form in the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.contracts import Metric
from interp.ranking.scoring import MetricScores
from interp.statistics.nulls import MaskPool
from interp.types import Query, Rows, Skip, Weighting

Mentions = Literal["all", "first"]
"""Which phrases are scored: all that name a target, or the first that names it; a later one may copy."""
Control = Literal["none", "image", "sinks"]
"""What is taken away on purpose: the image (see `interp.ranking.controls`), or the patches that every word looks at."""


@dataclass(frozen=True)
class Plan:
    """What all batches of a run have in common; see `interp.rank`.

    ``by_rows``: the metric that is also scored on each word's first and last row alone; none if empty. ``known`` keeps
    masks on patch grids for a data set that is scored again and again; None keeps none.
    """

    lmm: Any
    metrics: Mapping[str, Metric]
    pool: MaskPool
    answers: Literal["reference", "generated"]
    normalise: Literal["answer", "none"]
    query: Query
    seed: int
    nulls: int
    max_new_tokens: int
    weighting: Weighting = "attention"
    rows: Rows = "mean"
    mentions: Mentions = "all"
    control: Control = "none"
    by_rows: str = ""
    known: dict[tuple[Any, ...], tuple[Tensor, Tensor, Tensor]] | None = None


@dataclass(frozen=True)
class Maps:
    """Phrases that share a grid: their maps and masks. ``rows`` and ``samples`` are their places in the batch;
    ``elsewhere`` is raw attention to the image's tokens outside the maps, None where there are none."""

    rows: list[int]
    samples: list[int]
    raw: Float[Tensor, "phrase layer head row col"]
    normalised: Float[Tensor, "phrase layer head row col"]
    masks: Float[Tensor, "phrase row col"]
    others: Float[Tensor, "phrase row col"]
    nulls: Float[Tensor, "phrase null row col"]
    elsewhere: Float[Tensor, "phrase layer head"] | None = None


@dataclass(frozen=True)
class Batch:
    """A batch that has been scored.

    ``phrases``: of each its ``sample_id, image_id, text, root, tokens, area, targets`` (places of those that it names),
    ``mention`` (how often one of them has been named, this time included), ``kind`` (what told them before they were
    named, `interp.types.Target`) and ``partners`` (their number). ``by_rows``:
    scores of one metric on each word's first and last row. ``losses``: sample id -> mean -log p of its answer's
    tokens, in nats. ``unmatched``: phrases of its answers that name no target. ``layers``: the layers' numbers.
    """

    phrases: list[dict[str, Any]]
    skipped: list[Skip]
    scores: dict[str, MetricScores]
    reduced: dict[str, MetricScores]
    groups: list[Maps]
    losses: dict[str, float] = field(default_factory=dict)
    by_rows: dict[str, MetricScores] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    layers: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.phrases)

    def place(self, layer: int) -> int:
        """Where the layer of that number stands along the axis of layers."""
        return self.layers.index(layer) if self.layers else layer

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], maps: bool = True) -> Batch:
        """The batch from what the store holds; without its maps if they are not needed."""
        about = json.loads(bytes(arrays["about"]).decode())
        scores, reduced, by_rows = (
            {name: MetricScores(*(arrays[f"{kind}.{name}.{part}"] for part in MetricScores._fields)) for name in names}
            for kind, names in (
                ("heads", about["metrics"]),
                ("reduced", about["metrics"]),
                ("rows", about.get("rows", ())),
            )
        )
        groups = [unpack_group(arrays, g) for g in range(about["groups"])] if maps else []
        skipped = [Skip(*s) for s in about["skipped"]]
        more = about.get("losses", {}), by_rows, about.get("unmatched", []), tuple(about.get("layers", ()))
        return cls(about["phrases"], skipped, scores, reduced, groups, *more)


def _elsewhere(some: Sequence[Maps]) -> Float[Tensor, "phrase layer head"] | None:
    """What lies elsewhere, joined; nothing for an image that has one view alone. None where all have."""
    if all(m.elsewhere is None for m in some):
        return None
    return torch.cat([m.raw.new_zeros(m.raw.shape[:3]) if m.elsewhere is None else m.elsewhere for m in some])


def by_grid(prepared: Sequence[Maps]) -> list[Maps]:
    """The samples' maps, joined where their grids have one shape."""
    groups: dict[tuple[int, ...], list[Maps]] = {}
    for maps in prepared:
        groups.setdefault(tuple(maps.masks.shape[1:]), []).append(maps)
    return [
        Maps(
            rows=[row for m in some for row in m.rows],
            samples=[place for m in some for place in m.samples],
            raw=torch.cat([m.raw for m in some]),
            normalised=torch.cat([m.normalised for m in some]),
            masks=torch.cat([m.masks for m in some]),
            others=torch.cat([m.others for m in some]),
            nulls=torch.cat([m.nulls for m in some]),
            elsewhere=_elsewhere(some),
        )
        for some in groups.values()
    ]


def pack_group(group: Maps, i: int) -> dict[str, np.ndarray]:
    """The group as arrays. Maps are in half precision; what was subtracted from a sample's maps is kept once, so that
    the raw ones can be had back."""
    arrays = {"rows": np.array(group.rows, dtype=np.int64), "samples": np.array(group.samples, dtype=np.int64)}
    for name in ("masks", "others", "nulls"):
        arrays[name] = getattr(group, name).cpu().numpy()
    arrays |= _halved("maps", group.normalised)
    first = np.unique(group.samples, return_index=True)[1].tolist()
    offset = group.raw[first] - group.normalised[first]
    if offset.count_nonzero():
        arrays |= _halved("offset", offset)
    if group.elsewhere is not None:
        arrays["elsewhere"] = group.elsewhere.cpu().numpy()
    return {f"group{i}.{name}": array for name, array in arrays.items()}


def _halved(name: str, maps: Float[Tensor, "phrase layer head row col"]) -> dict[str, np.ndarray]:
    """Half precision in units of each map's maximum: attention of 1e-5 would else lose its digits."""
    unit = maps.abs().amax((-1, -2), keepdim=True)
    unit = torch.where(unit > 0, unit, 1.0)
    return {name: (maps / unit).half().cpu().numpy(), f"{name}_unit": unit.cpu().numpy()}


def unpack_group(arrays: Mapping[str, np.ndarray], i: int) -> Maps:
    def of(name: str) -> Tensor:
        return torch.from_numpy(arrays[f"group{i}.{name}"])

    rows, samples = of("rows").tolist(), of("samples").tolist()
    normalised = raw = of("maps").float() * of("maps_unit")
    if f"group{i}.offset" in arrays:
        place = np.unique(samples, return_inverse=True)[1]
        raw = (normalised + (of("offset").float() * of("offset_unit"))[place]).clamp(min=0)
    elsewhere = of("elsewhere") if f"group{i}.elsewhere" in arrays else None
    return Maps(rows, samples, raw, normalised, of("masks"), of("others"), of("nulls"), elsewhere)
