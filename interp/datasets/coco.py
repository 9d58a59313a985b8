"""COCO format on disk: images with instance masks (polygons or run lengths) and captions; reads and writes it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from typing_extensions import TypedDict

from interp.datasets import _files
from interp.datasets._annotations import AnnotationFile, Flag, ImageEntry, Key, LeftOut, Size, Text
from interp.datasets._coco_masks import CocoError, PycocotoolsMissing, decode, pycocotools
from interp.datasets._coco_write import write
from interp.types import Sample, Skip, Target

__all__ = ["PROMPT", "CocoError", "CocoImages", "Instance", "PycocotoolsMissing", "load", "write"]

PROMPT = "Describe the image in detail."


class _Category(TypedDict):
    id: Key
    name: Text


class _Annotation(TypedDict):
    id: NotRequired[Any]
    image_id: Key
    category_id: Key
    segmentation: list | dict
    iscrowd: NotRequired[Flag]
    area: NotRequired[Size | None]


class _Caption(TypedDict):
    image_id: Key
    caption: Text


@dataclass(frozen=True)
class Instance(Target):
    """One instance of a category, as `load` gives with ``apart``: COCO's iscrowd, and its own area in pixels."""

    crowd: bool = False
    area: float | None = None


@dataclass(frozen=True)
class CocoSample(Sample):
    """A sample with its image's id in the file's own type."""

    image_id: int | str = ""


@dataclass(frozen=True)
class CocoImages:
    """The samples of a split in the annotation file's order; can be gone through more than once, lazily each time.

    An image that cannot be used (missing, unreadable, of another size than its annotations say) comes as a ``Skip``
    with the reason, so that it does not end a long run. An entry that cannot be used (a mask that cannot be decoded, an
    area that is no number, ...) is in ``left_out`` with the reason, and its image does without it.
    """

    root: Path
    split: str
    images: tuple[dict[str, Any], ...]
    instances: Mapping[int | str, list[dict[str, Any]]]
    categories: Mapping[int | str, str]
    captions: Mapping[int | str, str]
    apart: bool = False
    left_out: LeftOut = field(default_factory=LeftOut)

    def __len__(self) -> int:
        return len(self.images)

    def stretch(self, start: int, stop: int) -> CocoImages:
        """Those from ``start`` to before ``stop``; the others are not read."""
        return replace(self, images=self.images[start:stop])

    def __iter__(self) -> Iterator[Sample | Skip]:
        for record in self.images:
            try:
                yield self._sample(record)
            except (ValueError, OSError) as error:
                yield Skip(str(record["id"]), f"{type(error).__name__}: {error}")

    def _sample(self, record: Mapping[str, Any]) -> Sample:
        own = self.instances.get(record["id"], ())
        said = _files.said_size([record], [annotation["segmentation"] for annotation in own])
        image = _files.read_as_annotated(self._find(record["file_name"]), said)
        height, width = image.shape[:2]
        found, wrong = [], None
        for annotation in own:
            which = f"annotation {annotation.get('id', annotation['at'])!r} of image {record['id']!r}"
            try:
                mask = decode(annotation["segmentation"], height, width, which)
            except ValueError as error:
                wrong = wrong or error
                self.left_out.add_told(which, error)
                continue
            name, crowd = self.categories[annotation["category_id"]], annotation.get("iscrowd", False)
            found.append(Instance(name, mask, crowd, annotation.get("area")))
        if wrong and not found:
            raise wrong
        targets = tuple(found) if self.apart else _joined(found)
        key = record["id"]
        return CocoSample(str(key), image, PROMPT, self.captions.get(key), targets, key)

    def _find(self, name: str) -> Path:
        images = self.root / "images"
        return _files.find_image(name, [self.root / self.split, images / self.split, images, self.root])


def load(
    root: str | os.PathLike | None = None,
    split: str = "val2017",
    samples: int | None = None,
    *,
    crowd: bool = False,
    apart: bool = False,
) -> CocoImages:
    """The first ``samples`` images of ``root/annotations/instances_SPLIT.json``, each with a target per category.

    A target is the union of the masks of all instances of a category, since "a dog" may mean any of the dogs. The
    answer is the image's longest caption in ``captions_SPLIT.json`` (of equally long ones the first): it names the most
    objects. Without that file, or a caption for the image, there is none. Images lie in ``SPLIT/``, ``images/SPLIT/``,
    ``images/`` or where their file name says, seen from ``root``.

    ``crowd``: whether crowd regions ("iscrowd": many instances behind one coarse outline) belong to their category.
    ``apart``: a target per instance in place of one per category, as COCO's average precision needs them.

    Raises:
        CocoError: no such files, or annotations that are not COCO's or contradict themselves.
        PycocotoolsMissing: there are polygons and pycocotools is not installed.
    """
    home = _files.home(root, samples, "annotations/instances_SPLIT.json and images")
    path = _annotation_file(home, split)
    left_out = LeftOut()
    file = AnnotationFile(path, _files.read_json(path), left_out)
    images = file.keyed(file.entries("images", ImageEntry), "images")
    categories = file.keyed(file.entries("categories", _Category), "categories")
    annotations = file.entries("annotations", _Annotation)
    for name, known in (("image", images), ("category", categories)):
        where = "images" if name == "image" else "categories"
        annotations = file.pointing(annotations, "annotations", f"{name}_id", known, where)
    chosen = dict(list(images.items())[:samples])
    instances: dict[int | str, list[dict[str, Any]]] = {key: [] for key in chosen}
    for annotation in annotations:
        if annotation["image_id"] in chosen and (crowd or not annotation.get("iscrowd")):
            instances[annotation["image_id"]].append(annotation)
    if any(isinstance(a["segmentation"], list) for some in instances.values() for a in some):
        pycocotools()  # that it is missing shows here, not in the middle of a run
    names = {key: record["name"] for key, record in categories.items()}
    captions = _captions(home, split, images, left_out)
    left_out.tell()
    return CocoImages(home, split, tuple(chosen.values()), instances, names, captions, apart, left_out)


def _joined(found: Iterable[Instance]) -> tuple[Target, ...]:
    """A target per category, with the union of its instances' masks."""
    masks: dict[str, np.ndarray] = {}
    for one in found:
        masks[one.phrase] = masks[one.phrase] | one.mask if one.phrase in masks else one.mask
    return tuple(Target(name, mask) for name, mask in masks.items())


def _annotation_file(home: Path, split: str) -> Path:
    path = home / "annotations" / f"instances_{split}.json"
    if not path.exists():
        there = sorted(p.stem.removeprefix("instances_") for p in path.parent.glob("instances_*.json"))
        what = f"the splits there are: {', '.join(there)}" if there else f"{path.parent} has no instances_*.json at all"
        raise CocoError(f"no annotation file {path}; {what}")
    return path


def _captions(home: Path, split: str, images: Mapping[int | str, Any], left_out: LeftOut) -> dict[int | str, str]:
    """The longest caption of each image that has one. Captions of other images do no harm."""
    path = home / "annotations" / f"captions_{split}.json"
    if not path.exists():
        return {}
    found: dict[int | str, str] = {}
    records = AnnotationFile(path, _files.read_json(path), left_out).entries("annotations", _Caption)
    keys = {str(key): key for key in images}
    for record in records:
        caption, key = record["caption"].strip(), keys.get(str(record["image_id"]))
        if key is not None and len(caption) > len(found.get(key, "")):
            found[key] = caption
    if records and not found:
        raise CocoError(
            f"{path} has no caption for any image of instances_{split}.json (its first image_id is "
            f"{records[0]['image_id']!r}); the two must be of one data set"
        )
    return found
