"""RefCOCO, RefCOCO+ and RefCOCOg on disk: one sample per expression, from refs(BY).p or .json and instances.json."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from typing_extensions import TypedDict

from interp.datasets import _files
from interp.datasets._annotations import AnnotationFile, Box, Entry, ImageEntry, Key, LeftOut, Text
from interp.datasets._coco_masks import decode
from interp.datasets._files import DatasetError
from interp.datasets._pickles import UnsafePickle, read_pickle
from interp.types import Sample, Skip, Target

__all__ = ["Expressions", "Referent", "ReferringSample", "UnsafePickle", "load", "read_pickle"]
PROMPT = "Describe the image in detail."


class _Annotation(TypedDict):
    id: Key
    image_id: Key
    segmentation: list | dict
    bbox: NotRequired[Box]


class _Ref(TypedDict):
    ref_id: Key
    ann_id: Key
    image_id: Key
    split: str
    sentences: list


class _Sentence(TypedDict):
    sent: Text
    sent_id: NotRequired[Key]


@dataclass(frozen=True)
class Referent(Target):
    """What an expression refers to, with the data set's own box (x0, y0, x1, y1) in pixels."""

    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class ReferringSample(Sample):
    """One expression: the only target, and as ``answer`` what the model is made to read. Several share an image."""

    image_id: str = ""


@dataclass(frozen=True)
class Expressions:
    """The expressions of a split in the order of its file; lazily, and more than once. One that cannot be used (image
    missing or of another size, mask that cannot be decoded) comes as a ``Skip`` with the reason."""

    root: Path
    refs: tuple[tuple[dict[str, Any], dict[str, Any]], ...]
    """(ref, sentence)."""
    annotations: Mapping[Any, dict[str, Any]]
    images: Mapping[Any, dict[str, Any]]
    left_out: LeftOut = field(default_factory=LeftOut)

    def __len__(self) -> int:
        return len(self.refs)

    def stretch(self, start: int, stop: int) -> Expressions:
        """Those from ``start`` to before ``stop``; the others are not read."""
        return replace(self, refs=self.refs[start:stop])

    def __iter__(self) -> Iterator[Sample | Skip]:
        last: tuple[Any, np.ndarray] | None = None  # expressions of one image follow one another
        for ref, sentence in self.refs:
            try:
                if last is None or last[0] != ref["image_id"]:
                    last = ref["image_id"], self._image(ref)
                yield self._sample(ref, sentence, last[1])
            except (ValueError, OSError) as error:
                yield Skip(_name(ref, sentence), f"{type(error).__name__}: {error}")

    def _image(self, ref: Mapping[str, Any]) -> np.ndarray:
        record = self.images[ref["image_id"]]
        said = _files.said_size([record], [self.annotations[ref["ann_id"]]["segmentation"]])
        return _files.read_as_annotated(_files.find_image(record["file_name"], _folders(self.root)), said)

    def _sample(self, ref: Mapping[str, Any], sentence: Mapping[str, Any], image: np.ndarray) -> ReferringSample:
        annotation = self.annotations[ref["ann_id"]]
        mask = decode(annotation["segmentation"], image.shape[0], image.shape[1], f"annotation {ref['ann_id']!r}")
        if not mask.any():
            raise DatasetError(f"the mask of annotation {ref['ann_id']!r} is empty; an expression refers to something")
        box = None
        if annotation.get("bbox"):
            x, y, width, height = annotation["bbox"]
            box = (x, y, x + width, y + height)
        text = sentence["sent"].strip()
        return ReferringSample(
            _name(ref, sentence), image, PROMPT, text, (Referent(text, mask, box),), str(ref["image_id"])
        )


def load(root: str | os.PathLike | None = None, split: str = "val", samples: int | None = None) -> Expressions:
    """The first ``samples`` expressions of a split (as published: val, testA, testB, test, train), one sample each.

    ``root`` is a data set's own folder, such as ``refer/refcoco+``, with ``instances.json`` and ``refs(unc).p`` (or
    ``.json``). Where there are several such files (RefCOCOg's umd and google), ``split`` names one: ``umd:val``. Images
    lie in ``root/images``, ``root/train2014`` or, as published, ``root/../images/mscoco/images/train2014``.

    Raises:
        DatasetError: no such files or split, or annotations that contradict themselves.
        UnsafePickle: a pickle that holds more than plain values.
    """
    at = _files.home(root, samples, "refs(BY).p or refs(BY).json and instances.json")
    path, split = _refs_file(at, split)
    instances = _files.first_file([at / "instances.json"], "instances.json")
    left_out = LeftOut()
    file = AnnotationFile(instances, _files.read_json(instances), left_out)
    images = file.keyed(file.entries("images", ImageEntry), "images")
    shapes = list(file.keyed(file.entries("annotations", _Annotation), "annotations").values())
    annotations = {a["id"]: a for a in file.pointing(shapes, "annotations", "image_id", images, "images")}
    told = AnnotationFile(path, _read_refs(path), left_out)
    refs = told.pointing(told.entries("", _Ref), "", "ann_id", annotations, "annotations")
    refs = told.pointing(refs, "", "image_id", images, "images")
    chosen = [
        (ref, sentence) for ref in refs if _in(ref["split"], split) for sentence in _sentences(told, ref, annotations)
    ]
    if not chosen:
        splits = sorted({ref["split"] for ref in refs})
        if left_out and any(_in(own, split) for own in splits):
            which, why = next(iter(left_out.items()))
            raise DatasetError(f"{path}: no expression of split {split!r} can be used; {which}: {why}")
        there = ", ".join(splits) or "none"
        raise DatasetError(f"{path} has no expressions of split {split!r}; the splits there are: {there}")
    left_out.tell()
    return Expressions(at, tuple(chosen[:samples]), annotations, images, left_out)


def _sentences(told: AnnotationFile, ref: Entry, annotations: Mapping[Any, Entry]) -> list[Entry]:
    """The ref's expressions that can be used; none if its annotation is about another image."""
    which = f"[{ref['at']}]"
    if annotations[ref["ann_id"]]["image_id"] == ref["image_id"]:
        return told.checked(ref["sentences"], f"{which}.sentences", _Sentence)
    why = f"ref {ref['ref_id']!r} is about image {ref['image_id']!r}, its annotation is not"
    told.left_out.setdefault(f"{told.path.name}: {which}", why)
    return []


def _read_refs(path: Path) -> Any:
    return _files.read_json(path, list) if path.suffix == ".json" else read_pickle(path.read_bytes(), str(path))


def _refs_file(root: Path, split: str) -> tuple[Path, str]:
    """The refs file, and the split without the name of its author."""
    by, _, name = split.rpartition(":")
    found = sorted(p for p in root.glob("refs(*).*") if p.suffix in (".p", ".json") and p.is_file())
    named = {p.stem.removeprefix("refs(").removesuffix(")"): p for p in found}  # of a .p and a .json, the .p
    if by in named:
        return named[by], name
    if by or not named:
        raise DatasetError(f"{root} has no refs({by or '...'}).p or .json; there are: {', '.join(named) or 'none'}")
    if len(named) > 1:
        first = next(iter(named))
        raise DatasetError(f"{root} has refs by {', '.join(named)}; say whose with the split, such as {first}:{name}")
    return next(iter(named.values())), name


def _in(own: str, wanted: str) -> bool:
    """testA is in "testAB" too, and test in all of them, as in the published interface."""
    if wanted in ("testA", "testB", "testC"):
        return own.startswith("test") and wanted[-1] in own.removeprefix("test")
    return own.startswith("test") if wanted == "test" else own == wanted


def _name(ref: Mapping[str, Any], sentence: Mapping[str, Any]) -> str:
    return f"{ref['ref_id']}-{sentence.get('sent_id', sentence['at'])}"


def _folders(root: Path) -> list[Path]:
    beside = root.parent
    return [
        root / "images",
        root / "train2014",
        beside / "images" / "mscoco" / "images" / "train2014",
        beside / "train2014",
        root,
    ]
