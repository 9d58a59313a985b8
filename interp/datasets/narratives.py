"""Panoptic narrative grounding on disk: narratives whose phrases have panoptic segments (COCO val2017)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from interp.datasets import _files
from interp.datasets._files import ID, DatasetError
from interp.images import read_image
from interp.types import Sample, Skip, Target

PROMPT = "Describe the image in detail."


@dataclass(frozen=True)
class Mention(Target):
    """A phrase of the narrative with the union of its segments' masks.

    ``span``: its (start, end) characters in the sample's answer. ``thing``: of a countable kind; a phrase of several
    segments is one, as in the released evaluation. ``plural``: as annotated.
    """

    span: tuple[int, int] = (0, 0)
    thing: bool = True
    plural: bool = False


@dataclass(frozen=True)
class NarrativeSample(Sample):
    """One narrative; several may be about one image."""

    image_id: str = ""


@dataclass(frozen=True)
class Narratives:
    """The narratives in their file's order; lazily, and more than once. One that cannot be used comes as a ``Skip``."""

    root: Path
    split: str
    entries: tuple[dict[str, Any], ...]
    images: Mapping[str, dict[str, Any]]
    panoptic: Mapping[str, dict[str, Any]]
    things: Mapping[str, bool]
    """Segment id -> whether its category is a thing."""

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Sample | Skip]:
        for i, entry in enumerate(self.entries):
            name = f"{entry['image_id']}-{i}"
            try:
                yield self._sample(entry, name)
            except (ValueError, OSError) as error:
                yield Skip(name, f"{type(error).__name__}: {error}")

    def _sample(self, entry: Mapping[str, Any], name: str) -> NarrativeSample:
        key = str(entry["image_id"])
        file = self.images[key]["file_name"]
        segments = self._segments(self.panoptic[key]["file_name"])
        places = [self.root / self.split, self.root / "images", self.root]
        image = _files.read_as_annotated(_files.find_image(file, places), segments.shape)
        text, targets = "", []
        for part in entry["segments"]:
            words = part["utterance"].strip()
            text += (" " if text and words[:1].isalnum() else "") + words
            ids = [int(i) for i in part["segment_ids"]]
            if ids:
                mask = np.isin(segments, ids)
                if not mask.any():
                    raise DatasetError(f"{words!r} has segments {ids}, which the panoptic image does not show")
                thing = len(ids) > 1 or self.things[str(ids[0])]
                span = (len(text) - len(words), len(text))
                targets.append(Mention(words, mask, span, thing, bool(part.get("plural"))))
        if not targets:
            raise DatasetError("the narrative has no phrase with a segment")
        return NarrativeSample(name, image, PROMPT, text, tuple(targets), key)

    def _segments(self, file: str) -> Int[np.ndarray, "height width"]:
        """Segment id of each pixel: R + 256 G + 256^2 B of the panoptic image."""
        folder = f"panoptic_{self.split}"
        places = [self.root / "annotations" / folder, self.root / folder]
        colours = read_image(_files.find_image(file, places), upright=False).astype(np.int64)
        return colours @ np.array([1, 256, 65536])


def load(root: str | os.PathLike | None = None, split: str = "val2017", samples: int | None = None) -> Narratives:
    """The first ``samples`` narratives of ``png_coco_SPLIT.json`` with the masks of ``panoptic_SPLIT.json`` and the
    images in ``panoptic_SPLIT/``, as published; photographs in ``SPLIT/``, ``images/`` or ``root``.

    The answer is the narrative, its utterances joined by spaces; targets are the utterances that have segments, in
    order (arXiv 2109.04988).

    Raises:
        DatasetError: no such files, or annotations that contradict themselves.
    """
    at = _files.home(root, samples, "annotations/png_coco_SPLIT.json, panoptic_SPLIT.json and images")
    places = [at / "annotations", at]
    told, shown = (
        _files.first_file([p / name for p in places], name)
        for name in (f"png_coco_{split}.json", f"panoptic_{split}.json")
    )
    panoptic = _files.read_json(shown)
    images = _keyed(_files.records(panoptic, "images", shown, {"id": ID, "file_name": str}), "id")
    wanted = {"image_id": ID, "file_name": str, "segments_info": list}
    annotated = _keyed(_files.records(panoptic, "annotations", shown, wanted), "image_id")
    kinds = _keyed(_files.records(panoptic, "categories", shown, {"id": ID, "isthing": int}), "id")
    for record in [*images.values(), *annotated.values()]:
        _files.check_name(record["file_name"], shown)
    things = {}
    for record in annotated.values():
        segments = _files.records(record["segments_info"], "", shown, {"id": ID, "category_id": ID})
        _check(segments, "category_id", kinds, "categories", shown)
        things |= {str(s["id"]): bool(kinds[str(s["category_id"])]["isthing"]) for s in segments}
    entries = _files.records(_files.read_json(told, list), "", told, {"image_id": ID, "segments": list})
    _check(entries, "image_id", images, f"images of {shown.name}", told)
    _check(entries, "image_id", annotated, f"annotations of {shown.name}", told)
    for entry in entries:
        parts = _files.records(entry["segments"], "", told, {"utterance": str, "segment_ids": list})
        lost = [i for part in parts for i in part["segment_ids"] if str(i) not in things]
        if lost:
            raise DatasetError(f"{told}: a phrase points to segment {lost[0]!r}, which {shown.name} does not hold")
    return Narratives(at, split, tuple(entries[:samples]), images, annotated, things)


def _keyed(found: list[dict[str, Any]], field: str) -> dict[str, dict[str, Any]]:
    """By the id as text: one file has numbers where the other has texts."""
    return {str(record[field]): record for record in found}


def _check(found: list[dict[str, Any]], field: str, known: Mapping[str, Any], where: str, path: Path) -> None:
    _files.check_references([{field: str(record[field])} for record in found], field, known, where, path)
