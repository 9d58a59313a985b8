"""GranD-f GCG on disk: captions whose phrases have masks, as GLaMM's evaluation reads them (val_test's JSON files)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from interp.datasets import _files
from interp.datasets._annotations import AnnotationFile, FileName, Key, LeftOut, Side, Text, check_name, check_text
from interp.datasets._coco_masks import decode
from interp.datasets._files import DatasetError
from interp.types import Sample, Skip, Target

PROMPT = "Describe the image in detail."


class _Image(TypedDict):
    id: Key
    file_name: NotRequired[FileName | None]
    height: NotRequired[Side]
    width: NotRequired[Side]


class _Caption(TypedDict):
    image_id: Key
    caption: Text
    labels: list[Any]


class _Mask(TypedDict):
    """Its segmentation is looked at with its phrase: the two lists are read side by side, so that none may be lost."""

    image_id: Key
    segmentation: NotRequired[Any]


@dataclass(frozen=True)
class GroundedSample(Sample):
    """A sample with all its reference captions; ``answer`` is the first, whose phrases the targets are."""

    captions: tuple[str, ...] = ()
    image_id: int | str = ""
    """In the file's own type, which says how the released evaluation orders the images."""


@dataclass(frozen=True)
class GroundedCaptions:
    """The samples of a split in the order of its captions' file; lazily, and more than once. An image that cannot be
    used (missing, unreadable, with other numbers of phrases and masks) comes as a ``Skip``. A phrase or a mask that
    is of no use costs the pair alone, and is in ``left_out`` with the reason."""

    root: Path
    images: tuple[Any, ...]
    names: Mapping[Any, str]
    masks: Mapping[Any, list[dict[str, Any]]]
    captions: Mapping[Any, list[dict[str, Any]]]
    sizes: Mapping[Any, list[dict[str, Any]]]
    left_out: LeftOut = field(default_factory=LeftOut)

    def __len__(self) -> int:
        return len(self.images)

    def stretch(self, start: int, stop: int) -> GroundedCaptions:
        """Those from ``start`` to before ``stop``; the others are not read."""
        return replace(self, images=self.images[start:stop])

    def __iter__(self) -> Iterator[Sample | Skip]:
        for key in self.images:
            try:
                yield self._sample(key)
            except (ValueError, OSError) as error:
                yield Skip(str(key), f"{type(error).__name__}: {error}")

    def _sample(self, key: Any) -> GroundedSample:
        captions, masks = self.captions.get(key, []), self.masks.get(key, [])
        if not captions:
            raise DatasetError(f"image {key!r} has no caption; expected one with its phrases as 'labels'")
        labels = captions[0]["labels"]
        if len(labels) != len(masks):
            raise DatasetError(
                f"image {key!r} has {len(labels)} phrases but {len(masks)} masks; expected one for each, in one order"
            )
        said = _files.said_size(self.sizes.get(key, ()), [m.get("segmentation") for m in masks])
        image = _files.read_as_annotated(_files.find_image(self.names[key], _folders(self.root)), said)
        targets = []
        for i, (label, mask) in enumerate(zip(labels, masks, strict=True)):
            which = f"mask {i} of image {key!r}"
            try:
                targets.append(_target(label, mask.get("segmentation"), image.shape[:2], which))
            except ValueError as error:
                self.left_out.add_told(which, error)
        if labels and not targets:
            raise DatasetError(
                f"none of its {len(labels)} phrases has a mask: {next(reversed(self.left_out.values()))}"
            )
        texts = tuple(c["caption"].strip() for c in captions)
        return GroundedSample(str(key), image, PROMPT, texts[0], tuple(targets), captions=texts, image_id=key)


def load(root: str | os.PathLike | None = None, split: str = "val", samples: int | None = None) -> GroundedCaptions:
    """The first ``samples`` images of ``SPLIT_gcg_coco_caption_gt.json`` and ``SPLIT_gcg_coco_mask_gt.json`` (splits as
    published: val, test), each with a target per phrase of its caption.

    The two files lie in ``annotations/val_test/``, ``annotations/`` or ``root`` itself; images, named by their id and
    ``.jpg`` unless the file says a name, in ``GranDf_HA_images/val_test/``, ``images/`` or ``root``.

    Raises:
        DatasetError: no such files, or annotations that contradict themselves.
    """
    at = _files.home(root, samples, "SPLIT_gcg_coco_caption_gt.json, SPLIT_gcg_coco_mask_gt.json and images")
    folders = [at / "annotations" / "val_test", at / "annotations", at]
    paths = [
        _files.first_file([f / f"{split}_gcg_coco_{kind}_gt.json" for f in folders], f"{kind} file of split {split!r}")
        for kind in ("caption", "mask")
    ]
    left_out = LeftOut()
    told, shown = (AnnotationFile(path, _files.read_json(path), left_out) for path in paths)
    images = told.keyed(told.entries("images", _Image), "images")
    own = shown.keyed(shown.entries("images", _Image), "images")
    captions = told.entries("annotations", _Caption)
    captions = told.pointing(captions, "annotations", "image_id", images, "images")
    masks = shown.pointing(shown.entries("annotations", _Mask), "annotations", "image_id", own, "images")
    masks = shown.pointing(masks, "annotations", "image_id", images, f"images of {paths[0].name}")
    chosen = tuple(images)[:samples]
    names = {
        key: images[key].get("file_name") or own.get(key, {}).get("file_name") or check_name(f"{key}.jpg")
        for key in chosen
    }
    sizes = {key: [known[key] for known in (own, images) if key in known] for key in chosen}
    left_out.tell()
    return GroundedCaptions(at, chosen, names, _grouped(masks), _grouped(captions), sizes, left_out)


def _target(label: Any, segmentation: Any, size: tuple[int, int], which: str) -> Target:
    if not isinstance(label, str) or not label.strip():
        raise DatasetError(f"its phrase is {label!r:.80}; expected a text")
    check_text(label)
    if not isinstance(segmentation, list | dict):
        raise DatasetError(f"its segmentation is {segmentation!r:.80}; expected polygons or run lengths")
    return Target(label, decode(segmentation, *size, which))


def _grouped(annotations: list[dict[str, Any]]) -> dict[Any, list[dict[str, Any]]]:
    found: dict[Any, list[dict[str, Any]]] = {}
    for annotation in annotations:
        found.setdefault(annotation["image_id"], []).append(annotation)
    return found


def _folders(root: Path) -> list[Path]:
    places = ["GranDf_HA_images/val_test", "images/val_test", "images", "val_test"]
    return [*(root / place for place in places), root]
