"""GranD-f GCG on disk: captions whose phrases have masks, as GLaMM's evaluation reads them (val_test's JSON files)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.datasets import _files
from interp.datasets._coco_masks import decode
from interp.datasets._files import ID, DatasetError
from interp.images import read_image
from interp.types import Sample, Skip, Target

PROMPT = "Describe the image in detail."


@dataclass(frozen=True)
class GroundedSample(Sample):
    """A sample with all its reference captions; ``answer`` is the first, whose phrases the targets are."""

    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class GroundedCaptions:
    """The samples of a split in the order of its captions' file; lazily, and more than once. An image that cannot be
    used (missing, unreadable, with masks of another size or other numbers of phrases and masks) comes as a ``Skip``."""

    root: Path
    images: tuple[Any, ...]
    names: Mapping[Any, str]
    masks: Mapping[Any, list[dict[str, Any]]]
    captions: Mapping[Any, list[dict[str, Any]]]

    def __len__(self) -> int:
        return len(self.images)

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
        image = read_image(_files.find_image(self.names[key], _folders(self.root)))
        height, width = image.shape[:2]
        targets = tuple(
            Target(str(label), decode(m["segmentation"], height, width, f"mask {i} of image {key!r}"))
            for i, (label, m) in enumerate(zip(labels, masks, strict=True))
        )
        texts = tuple(c["caption"].strip() for c in captions)
        return GroundedSample(str(key), image, PROMPT, texts[0], targets, captions=texts)


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
    told, shown = (_files.read_json(path) for path in paths)
    images = _files.by_id(_files.records(told, "images", paths[0], {"id": ID}), "image", paths[0])
    captions = _files.records(told, "annotations", paths[0], {"image_id": ID, "caption": str, "labels": list})
    masks = _files.records(shown, "annotations", paths[1], {"image_id": ID, "segmentation": list | dict})
    own = _files.by_id(_files.records(shown, "images", paths[1], {"id": ID}), "image", paths[1])
    _files.check_references(captions, "image_id", images, "images", paths[0])
    _files.check_references(masks, "image_id", own, "images", paths[1])
    _files.check_references(masks, "image_id", images, f"images of {paths[0].name}", paths[1])
    chosen = tuple(images)[:samples]
    names = {
        key: _files.check_name(
            str(images[key].get("file_name") or own.get(key, {}).get("file_name") or f"{key}.jpg"), p
        )
        for p in paths[:1]
        for key in chosen
    }
    return GroundedCaptions(at, chosen, names, _grouped(masks), _grouped(captions))


def _grouped(annotations: list[dict[str, Any]]) -> dict[Any, list[dict[str, Any]]]:
    found: dict[Any, list[dict[str, Any]]] = {}
    for annotation in annotations:
        found.setdefault(annotation["image_id"], []).append(annotation)
    return found


def _folders(root: Path) -> list[Path]:
    places = ["GranDf_HA_images/val_test", "images/val_test", "images", "val_test"]
    return [*(root / place for place in places), root]
