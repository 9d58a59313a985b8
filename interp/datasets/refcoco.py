"""RefCOCO, RefCOCO+ and RefCOCOg on disk: one sample per expression, from refs(BY).p or .json and instances.json."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interp.datasets import _files
from interp.datasets._coco_masks import decode
from interp.datasets._files import ID, DatasetError
from interp.images import read_image
from interp.types import Sample, Skip, Target

PROMPT = "Describe the image in detail."
_ALLOWED = {"set", "frozenset"}


class UnsafePickle(DatasetError):
    """A pickle that names classes or functions: reading it could run its author's code, so it is not read.

    What to do: fetch the data set again from its source, or turn the file into JSON where you trust it.
    """


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

    def __len__(self) -> int:
        return len(self.refs)

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
        image = read_image(_files.find_image(record["file_name"], _folders(self.root)))
        said = record.get("height", image.shape[0]), record.get("width", image.shape[1])
        if said != image.shape[:2]:
            raise DatasetError(
                f"{record['file_name']} has {image.shape[0]} x {image.shape[1]} (height x width) pixels, its "
                f"annotations are for {said[0]} x {said[1]}; take the original image"
            )
        return image

    def _sample(self, ref: Mapping[str, Any], sentence: Mapping[str, Any], image: np.ndarray) -> ReferringSample:
        annotation = self.annotations[ref["ann_id"]]
        mask = decode(annotation["segmentation"], image.shape[0], image.shape[1], f"annotation {ref['ann_id']!r}")
        if not mask.any():
            raise DatasetError(f"the mask of annotation {ref['ann_id']!r} is empty; an expression refers to something")
        box = None
        if annotation.get("bbox"):
            x, y, width, height = map(float, annotation["bbox"])
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
    document = _files.read_json(instances)
    images = _files.by_id(
        _files.records(document, "images", instances, {"id": ID, "file_name": str}), "image", instances
    )
    wanted = {"id": ID, "image_id": ID, "segmentation": list | dict}
    annotations = _files.by_id(_files.records(document, "annotations", instances, wanted), "annotation", instances)
    for record in images.values():
        _files.check_name(record["file_name"], instances)
    _files.check_references(annotations.values(), "image_id", images, "images", instances)
    fields = {"ref_id": ID, "ann_id": ID, "image_id": ID, "split": str, "sentences": list}
    refs = _files.records(_read_refs(path), "", path, fields)
    _files.check_references(refs, "ann_id", annotations, "annotations", path)
    _files.check_references(refs, "image_id", images, "images", path)
    for ref in refs:
        _files.records(ref["sentences"], "", path, {"sent": str})
        if annotations[ref["ann_id"]]["image_id"] != ref["image_id"]:
            raise DatasetError(
                f"{path}: ref {ref['ref_id']!r} is about image {ref['image_id']!r}, its annotation is not"
            )
    chosen = [(ref, sentence) for ref in refs if _in(ref["split"], split) for sentence in ref["sentences"]]
    if not chosen:
        there = ", ".join(sorted({ref["split"] for ref in refs}))
        raise DatasetError(f"{path} has no expressions of split {split!r}; the splits there are: {there or 'none'}")
    return Expressions(at, tuple(chosen[:samples]), annotations, images)


def read_pickle(data: bytes, name: str) -> Any:
    """The plain values (lists, dicts, tuples, sets, texts, numbers) of a pickle.

    Raises:
        UnsafePickle: it asks for anything else.
        DatasetError: it is damaged.
    """
    try:
        return _Plain(io.BytesIO(data), encoding="utf-8", errors="replace").load()
    except UnsafePickle as error:
        raise UnsafePickle(f"{name}: {error}") from error
    except Exception as error:  # damaged pickles raise anything
        raise DatasetError(f"{name} is no pickle that can be read ({error!r}); fetch it again") from error


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in _ALLOWED:
            return {"set": set, "frozenset": frozenset}[name]
        raise UnsafePickle(
            f"the pickle asks for {module}.{name}; only plain lists, dicts, texts and numbers are read, since a class "
            "could run code: save it as JSON instead"
        )

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickle("the pickle refers to objects outside it; save it as JSON instead")


def _read_refs(path: Path) -> Any:
    return _files.read_json(path, list) if path.suffix == ".json" else read_pickle(path.read_bytes(), str(path))


def _refs_file(root: Path, split: str) -> tuple[Path, str]:
    """The refs file, and the split without the name of its author."""
    by, _, name = split.rpartition(":")
    found = sorted(p for p in root.glob("refs(*).*") if p.suffix in (".p", ".json"))
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
    place = sentence.get("sent_id", ref["sentences"].index(sentence))
    return f"{ref['ref_id']}-{place}"


def _folders(root: Path) -> list[Path]:
    beside = root.parent
    return [
        root / "images",
        root / "train2014",
        beside / "images" / "mscoco" / "images" / "train2014",
        beside / "train2014",
        root,
    ]
