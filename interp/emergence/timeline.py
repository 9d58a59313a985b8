"""A series of checkpoints of one run: where they lie, what each changes, and one model that becomes each in turn.

    series = interp.series("mini-llava")
    lmm = series.load()
    with series.swap(lmm) as swap:
        for checkpoint in swap:      # lmm.model now has this checkpoint's weights
            ...
    # and here those that it came with

Of the files only the headers are read until a checkpoint's turn comes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from interp.emergence.points import Point, fetched, point_of
from interp.emergence.swap import Swap
from interp.emergence.weights import Files, whole, whole_original
from interp.handle import Handle
from interp.models._adapter import settings
from interp.models._lmm import LMM
from interp.models._load import load
from interp.models._load_original import load_original
from interp.models._original.layout import config_of, model_type
from interp.models._original.parts import Parts, parts_of
from interp.models._original.weights import Weights
from interp.models._overlay import BASE
from interp.plugins import data_folder


class NoSeries(ValueError):
    """No checkpoints where they were looked for, no steps to order them by, or no base to lay them over.

    What to do: name a folder of ``checkpoint-N``, give ``{step: place}``, or ``revisions`` of a hub id; a base is given
    as ``base``.
    """


@dataclass(frozen=True, eq=False, repr=False)
class Series(Handle):
    """Checkpoints by rising step, and the base that they are laid over. Iterating gives the sound ones."""

    name: str
    base: str
    points: tuple[Point, ...]
    base_revision: str | None = None

    def _line(self) -> str:
        steps = [point.step for point in self.points]
        span = f"{len(steps)} checkpoints, steps {steps[0]}..{steps[-1]}" if steps else "no checkpoints"
        damaged = len(self.points) - len(self.sound)
        return f"{self.name!r}, {span}" + (f", {damaged} damaged" if damaged else "")

    @property
    def sound(self) -> tuple[Point, ...]:
        """The checkpoints that are not damaged."""
        return tuple(point for point in self.points if not point.damaged)

    def to_frame(self) -> pd.DataFrame:
        """One row per checkpoint: ``step, kind, stage, weights`` (how many change), ``megabytes, damaged, place``."""
        rows = [
            {
                "step": p.step,
                "kind": p.kind,
                "stage": p.stage,
                "weights": len(p.changes),
                "megabytes": sum(h.bytes for h in (p.tensors or {}).values()) / 1e6,
                "damaged": p.damaged,
                "place": p.place + (f"@{p.revision}" if p.revision else ""),
            }
            for p in self.points
        ]
        return pd.DataFrame(rows)

    def load(self, **options: Any) -> Any:
        """The base as an ``LMM``; options as for ``interp.load``. One in the original LLaVA layout, or a Llama on which
        LLaVA's own code trained, is converted in memory, with the projector of the first checkpoint."""
        if parts := self.original():
            return load_original(parts, self.base, **options)
        if self.base_revision:
            options["revision"] = self.base_revision
        return load(self.base, **options)

    def base_folder(self) -> Path:
        """Where the base's files lie; fetched from the hub first if they are not here."""
        return fetched(self.base, self.base_revision)

    def original(self) -> Parts | None:
        """What the base is made of, if it must be converted from the original LLaVA layout; else None. Its settings are
        the last checkpoint's: LLaVA-1.5's first stage cuts images to a square, its second pads them."""
        if config_of(self.base, revision=self.base_revision) is not None:
            return parts_of(self.base_folder())
        runs = [(p, config) for p in self.sound if (config := config_of(p.place, revision=p.revision)) is not None]
        run = next((point for point, _ in runs if point.kind != "full"), None)
        if run is None or model_type(self.base) != "llama":
            return None
        return replace(parts_of(run.folder(), self.base, adapted=False), config=runs[-1][1])

    def base_files(self) -> list[Path]:
        """The files that the base's weights lie in."""
        if parts := self.original():
            return Weights(parts).files
        folder = self.base_folder()
        return sorted([*folder.glob("*.safetensors"), *folder.glob("shared.json")])

    def base_weights(self, model: Any) -> Files | Weights:
        """All of the base's weights, each read when asked for."""
        parts = self.original()
        return whole(model, self.base_folder()) if parts is None else whole_original(model, parts)

    def swap(self, lmm: Any) -> Swap:
        """A context manager that gives the model each checkpoint's weights; see `interp.emergence.swap.Swap`."""
        return Swap(lmm.model if isinstance(lmm, LMM) else lmm, self.points, self.base_weights)


def series(
    source: str | os.PathLike[str] | Mapping[int, str] | Sequence[str],
    *,
    steps: Sequence[int] | None = None,
    revisions: Mapping[int, str] | Sequence[str] | None = None,
    base: str | os.PathLike[str] | None = None,
) -> Series:
    """The checkpoints of a run, looked up but not loaded.

    Args:
        source: a folder of ``checkpoint-N`` (with the base in ``base/``, or given) or a shipped model's name; a list of
            folders or hub ids with their ``steps``, or a mapping from steps; a hub id with ``revisions``.
        steps: training step of each item of the list. None reads the last number of each name.
        revisions: of one hub repository: a mapping from steps, or names whose last number is the step.
        base: folder or hub id of the model that projectors and adapters belong to. None: ``base/`` in the folder, the
            first full checkpoint, or the model that the first adapter names.

    Raises:
        NoSeries: no checkpoints there, no base, a step that cannot be told or that occurs twice.

    >>> found = series("mini-llava")
    >>> found.points[0].step, found.points[-1].step, len(found.sound)
    (0, 20580, 17)
    """
    name, places, own_base = _places(source, steps, revisions)
    twice = sorted({s for s, _, _ in places if [p[0] for p in places].count(s) > 1})
    if twice:
        raise NoSeries(
            f"the series has more than one checkpoint of step {twice[0]}; give each its own with steps=[...]"
        )
    points = tuple(point_of(*place) for place in sorted(places, key=lambda p: p[0]))
    return _with_base(Series(name, str(base or own_base or ""), points))


def _places(source: Any, steps: Any, revisions: Any) -> tuple[str, list[tuple[int, str, str | None]], str | None]:
    """The series' name, (step, place, revision) of each checkpoint, and the base if it lies beside them."""
    if revisions is not None:
        pairs = revisions.items() if isinstance(revisions, Mapping) else [(_step(r), r) for r in revisions]
        return str(source), [(int(step), str(source), revision) for step, revision in pairs], None
    if isinstance(source, Mapping):
        source, steps = list(source.values()), list(source)
    if not isinstance(source, str | os.PathLike):
        places = [str(place) for place in source]
        labels = list(steps) if steps is not None else [_step(Path(p).name) for p in places]
        if len(labels) != len(places):
            raise NoSeries(f"got {len(places)} checkpoints but {len(labels)} steps; expected a step for each")
        return _joint(places), [(int(s), p, None) for s, p in zip(labels, places, strict=True)], None
    folder = next((f for f in (Path(source), data_folder() / source) if f.is_dir()), None)
    if folder is None:
        raise NoSeries(f"{source} is no folder and no shipped model; for a hub repository give revisions=[...] as well")
    found = [p for p in folder.iterdir() if p.is_dir() and re.fullmatch(r"checkpoint-\d+", p.name)]
    if not found:
        raise NoSeries(f"{folder} holds no folder checkpoint-N; expected a training run's output, or a list of folders")
    base = str(folder / BASE) if (folder / BASE / "config.json").is_file() else None
    return str(source), [(_step(p.name), str(p), None) for p in found], base


def _step(name: str) -> int:
    numbers = re.findall(r"\d+", name)
    if not numbers:
        raise NoSeries(f"no step can be read from {name!r}; give steps, or a mapping {{step: name}}")
    return int(numbers[-1])


def _joint(places: Sequence[str]) -> str:
    return places[0] + (f" and {len(places) - 1} more" if len(places) > 1 else "") if places else "no checkpoints"


def _with_base(found: Series) -> Series:
    """The series with a base: given, the first full checkpoint, or what the first other one was trained on."""
    if found.base:
        return found
    part = [point for point in found.sound if point.kind != "full"]
    for point in part:  # before any full checkpoint: LLaVA's first stage lies over Vicuna, not over its second
        config = config_of(point.place, revision=point.revision)
        if config is not None and (named := _named(point) or config.get("_name_or_path")):
            return replace(found, base=str(named))
    for point in found.sound:
        if point.kind == "full":
            return replace(found, base=point.place, base_revision=point.revision)
    for point in part:
        if named := _named(point):
            return replace(found, base=named)
    reasons = "; ".join(f"step {p.step}: {p.damaged}" for p in found.points if p.damaged)
    raise NoSeries(
        f"{found.name} has no base to lay its checkpoints over; give base=FOLDER or a hub id, or put it in {BASE}/ "
        f"beside them{f' ({reasons})' if reasons else ''}"
    )


def _named(point: Point) -> str:
    """What an adapter says that it was trained on; empty for other checkpoints."""
    return str(settings(point.folder()).get("base_model_name_or_path") or "") if point.kind == "adapter" else ""
