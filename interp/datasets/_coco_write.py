"""Samples written as COCO format: images, captions and instances."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from PIL import Image

from interp.datasets._coco_masks import CocoError, encode
from interp.types import Sample, Skip


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
