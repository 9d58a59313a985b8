"""COCO format on disk: images with instance masks (polygons or run lengths) and captions; reads and writes it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from interp.datasets import _files
from interp.datasets._coco_masks import CocoError, PycocotoolsMissing, decode, encode, pycocotools
from interp.datasets._files import ID
from interp.types import Sample, Skip, Target

__all__ = ["PROMPT", "CocoError", "CocoImages", "Instance", "PycocotoolsMissing", "load", "write"]

PROMPT = "Describe the image in detail."


@dataclass(frozen=True)
class Instance(Target):
    """One instance of a category, as `load` gives with ``apart``: COCO's iscrowd, and its own area in pixels."""

    crowd: bool = False
    area: float | None = None


@dataclass(frozen=True)
class CocoImages:
    """The samples of a split in the annotation file's order; can be gone through more than once, lazily each time.

    An image that cannot be used (missing, unreadable, of another size than its annotations say, with a mask that cannot
    be decoded) comes as a ``Skip`` with the reason, so that it does not end a long run.
    """

    root: Path
    split: str
    images: tuple[dict[str, Any], ...]
    instances: Mapping[int | str, list[dict[str, Any]]]
    categories: Mapping[int | str, str]
    captions: Mapping[int | str, str]
    apart: bool = False

    def __len__(self) -> int:
        return len(self.images)

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
        masks: dict[str, np.ndarray] = {}
        found: list[Instance] = []
        for annotation in own:
            name = self.categories[annotation["category_id"]]
            mask = decode(annotation["segmentation"], height, width, f"annotation {annotation.get('id')!r}")
            masks[name] = masks[name] | mask if name in masks else mask
            area = annotation.get("area")
            pixels = None if area is None else float(area)
            found.append(Instance(name, mask, bool(annotation.get("iscrowd")), pixels))
        targets = tuple(found) if self.apart else tuple(Target(name, mask) for name, mask in masks.items())
        return Sample(str(record["id"]), image, PROMPT, self.captions.get(record["id"]), targets)

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
    document = _files.read_json(path)
    images = _files.by_id(_files.records(document, "images", path, {"id": ID, "file_name": str}), "image", path)
    categories = _files.by_id(_files.records(document, "categories", path, {"id": ID, "name": str}), "category", path)
    for record in images.values():
        _files.check_name(record["file_name"], path)
    fields = {"image_id": ID, "category_id": ID, "segmentation": list | dict}
    annotations = _files.records(document, "annotations", path, fields)
    _files.check_references(annotations, "image_id", images, "images", path)
    _files.check_references(annotations, "category_id", categories, "categories", path)
    chosen = dict(list(images.items())[:samples])
    instances: dict[int | str, list[dict[str, Any]]] = {key: [] for key in chosen}
    for annotation in annotations:
        if annotation["image_id"] in chosen and (crowd or not annotation.get("iscrowd")):
            instances[annotation["image_id"]].append(annotation)
    if any(isinstance(a["segmentation"], list) for some in instances.values() for a in some):
        pycocotools()  # that it is missing shows here, not in the middle of a run
    names = {key: record["name"] for key, record in categories.items()}
    return CocoImages(home, split, tuple(chosen.values()), instances, names, _captions(home, split, images), apart)


def write(samples: Iterable[Sample | Skip], folder: str | os.PathLike, split: str = "test") -> Path:
    """Writes samples as COCO format below ``folder`` and returns the path of the instances' file.

    ``SPLIT/*.png``, ``annotations/captions_SPLIT.json`` and ``annotations/instances_SPLIT.json`` (uncompressed run
    lengths, one instance per target). Ids are the samples' own if they all are whole numbers, else 1, 2, ... with the
    sample's id as file name. Prompts have no place in the format and are left out, as are skipped samples.

    Raises:
        CocoError: there is such a split already, an id that cannot be a file name or comes twice, a mask of another
            size, no sample.
    """
    home = Path(folder).expanduser()
    path = home / "annotations" / f"instances_{split}.json"
    if path.exists():
        raise CocoError(f"{path} exists; give another folder or split, or delete it")
    for needed in (home / split, path.parent):
        needed.mkdir(parents=True, exist_ok=True)
    images: dict[str, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    for sample in samples:
        if isinstance(sample, Skip):
            continue
        if sample.id in images or not sample.id or PureWindowsPath(sample.id).name != sample.id:
            raise CocoError(f"sample id {sample.id!r} comes twice or cannot be a file name; give each its own")
        images[sample.id] = _write_image(sample, home / split)
        if sample.answer is not None:
            captions.append({"id": len(captions) + 1, "image_id": sample.id, "caption": sample.answer})
        for target in sample.targets:
            category = categories.setdefault(target.phrase, len(categories) + 1)
            found = {"id": len(annotations) + 1, "image_id": sample.id, "category_id": category, "iscrowd": 0}
            annotations.append(
                found | encode(target.mask, sample.image.shape[:2], f"{target.phrase!r} in {sample.id!r}")
            )
    if not images:
        raise CocoError("there are no samples to write")
    _number(images, [*annotations, *captions])
    named = [{"id": number, "name": name, "supercategory": ""} for name, number in categories.items()]
    about = {"info": {"description": f"{split}, written by interp"}, "licenses": [], "images": list(images.values())}
    _dump(path.with_name(f"captions_{split}.json"), {**about, "annotations": captions})
    _dump(path, {**about, "annotations": annotations, "categories": named})  # last: what has this file is whole
    return path


def _annotation_file(home: Path, split: str) -> Path:
    path = home / "annotations" / f"instances_{split}.json"
    if not path.is_file():
        there = sorted(p.stem.removeprefix("instances_") for p in path.parent.glob("instances_*.json"))
        what = f"the splits there are: {', '.join(there)}" if there else f"{path.parent} has no instances_*.json at all"
        raise CocoError(f"no annotation file {path}; {what}")
    return path


def _captions(home: Path, split: str, images: Mapping[int | str, Any]) -> dict[int | str, str]:
    """The longest caption of each image that has one. Captions of other images do no harm."""
    path = home / "annotations" / f"captions_{split}.json"
    if not path.is_file():
        return {}
    found: dict[int | str, str] = {}
    records = _files.records(_files.read_json(path), "annotations", path, {"image_id": ID, "caption": str})
    for record in records:
        caption, key = record["caption"].strip(), record["image_id"]
        if key in images and len(caption) > len(found.get(key, "")):
            found[key] = caption
    if records and not found:
        raise CocoError(
            f"{path} has no caption for any image of instances_{split}.json (its first image_id is "
            f"{records[0]['image_id']!r}); the two must be of one data set"
        )
    return found


def _write_image(sample: Sample, folder: Path) -> dict[str, Any]:
    name = f"{sample.id}.png"
    Image.fromarray(sample.image).save(folder / name)
    return {"file_name": name, "height": sample.image.shape[0], "width": sample.image.shape[1]}


def _number(images: Mapping[str, dict[str, Any]], annotations: Iterable[dict[str, Any]]) -> None:
    """Gives the images their numbers, and the annotations those of their images."""
    own = all(key.isascii() and key.isdecimal() and str(int(key)) == key for key in images)
    numbers = {key: int(key) if own else i for i, key in enumerate(images, 1)}
    for key, record in images.items():
        record["id"] = numbers[key]
    for annotation in annotations:
        annotation["image_id"] = numbers[annotation["image_id"]]


def _dump(path: Path, document: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document))
    os.replace(partial, path)
