"""Panoptic narrative grounding on disk: narratives whose phrases have panoptic segments (COCO val2017)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from jaxtyping import Int
from typing_extensions import TypedDict

from interp.datasets import _files
from interp.datasets._annotations import AnnotationFile, Entry, FileName, Flag, ImageEntry, Key, LeftOut
from interp.datasets._files import DatasetError
from interp.images import read_image
from interp.types import Sample, Skip, Target

PROMPT = "Describe the image in detail."


class _Panoptic(TypedDict):
    image_id: Key
    file_name: FileName
    segments_info: list


class _Segment(TypedDict):
    id: Key
    category_id: Key


class _Category(TypedDict):
    id: Key
    isthing: Flag


class _Narrative(TypedDict):
    image_id: Key
    segments: list


class _Words(TypedDict):
    utterance: str


class _Part(_Words):
    segment_ids: list[int]
    plural: NotRequired[Flag]


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
    left_out: LeftOut = field(default_factory=LeftOut)

    def __len__(self) -> int:
        return len(self.entries)

    def stretch(self, start: int, stop: int) -> Narratives:
        """Those from ``start`` to before ``stop``; the others are not read."""
        return replace(self, entries=self.entries[start:stop])

    def __iter__(self) -> Iterator[Sample | Skip]:
        for entry in self.entries:
            name = f"{entry['image_id']}-{entry['at']}"
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
            ids = part.get("segment_ids", [])
            mask = np.isin(segments, ids)
            if mask.any():
                thing = len(ids) > 1 or self.things[str(ids[0])]
                span = (len(text) - len(words), len(text))
                targets.append(Mention(words, mask, span, thing, part.get("plural", False)))
            elif ids:
                self.left_out.add_told(f"{words!r} of {name}", f"the panoptic image does not show its segments {ids}")
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
    left_out = LeftOut()
    panoptic = AnnotationFile(shown, _files.read_json(shown), left_out)
    images = panoptic.keyed(panoptic.entries("images", ImageEntry), "images")
    annotated = panoptic.entries("annotations", _Panoptic)
    kinds = panoptic.keyed(panoptic.entries("categories", _Category), "categories")
    things: dict[str, bool] = {}
    for record in annotated:
        place = f"annotations[{record['at']}].segments_info"
        segments = panoptic.checked(record["segments_info"], place, _Segment)
        segments = panoptic.pointing(segments, place, "category_id", kinds, "categories", some=False)
        things |= {str(s["id"]): kinds[s["category_id"]]["isthing"] for s in segments}
    file = AnnotationFile(told, _files.read_json(told, list), left_out)
    drawn = panoptic.keyed(annotated, "annotations", "image_id")
    entries = file.pointing(file.entries("", _Narrative), "", "image_id", images, f"images of {shown.name}")
    entries = file.pointing(entries, "", "image_id", drawn, f"annotations of {shown.name}")
    read = [{**entry, "segments": _parts(file, entry, things)} for entry in entries[:samples]]
    left_out.tell()
    return Narratives(at, split, tuple(read), _by_text(images), _by_text(drawn), things, left_out)


def _by_text(known: Mapping[Any, Entry]) -> dict[str, Entry]:
    return {str(key): entry for key, entry in known.items()}


def _parts(file: AnnotationFile, entry: Entry, things: Mapping[str, bool]) -> list[Entry]:
    """The narrative's stretches of text. One whose segments cannot be used keeps its words: the text stays whole."""
    place = f"[{entry['at']}].segments"
    parts = {part["at"]: part for part in file.checked(entry["segments"], place, _Words)}
    for part in file.checked(entry["segments"], place, _Part):
        lost = [i for i in part["segment_ids"] if str(i) not in things]
        if lost:
            file.left_out[f"{file.path.name}: {place}[{part['at']}]"] = f"no segment {lost[0]!r} is known"
        else:
            parts[part["at"]] = part
    return list(parts.values())
