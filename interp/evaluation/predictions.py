"""Predictions in files, of this program or another -> records: they are scored without the model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from interp.evaluation.overlap import checked
from interp.evaluation.result import Found, Record, record
from interp.types import Phrase, Sample, Skip


class ResultsMismatch(ValueError):
    """Predictions in files are those of another data set or run, or none at all.

    What to do: give ``--predictions`` the folder (gcg) or results file (coco) that was made from this data set and
    split; the message names the file and what it lacks.
    """


def read_gcg(folder: Path, samples: Iterable[Sample | Skip]) -> tuple[list[Record], list[Skip]]:
    """Records of a folder of ``IMAGE.json`` as the released GCG evaluation reads it: caption, phrases and pred_masks,
    alone or under one key. Each sample's size and masks are checked.

    Raises:
        ResultsMismatch: no folder, a sample without its file, a file about another image, masks of another size or
            length, or other numbers of phrases and masks.
    """
    if not folder.is_dir():
        raise ResultsMismatch(f"{folder} is no folder; expected one with a JSON file per image")
    records, skipped = [], []
    for sample in samples:
        if isinstance(sample, Skip):
            skipped.append(sample)
            continue
        path = folder / f"{_plain(sample.id)}.json"
        if not path.is_file():
            raise ResultsMismatch(f"{folder} has no {path.name}: results of another data set or split, or unfinished")
        records.append(_gcg(path, sample))
    return records, skipped


def read_coco(
    path: Path, samples: Iterable[Sample | Skip], categories: dict[Any, str]
) -> tuple[list[Record], list[Skip]]:
    """Records of COCO's results file: a list with image_id, category_id, segmentation, score and, if PAcc is wanted,
    point. ``categories``: id -> name.

    Raises:
        ResultsMismatch: not such a list, an image or a category that the data set does not hold, or masks of another
            size or length.
    """
    results = _json(path)
    if not isinstance(results, list):
        raise ResultsMismatch(f"{path} holds a {type(results).__name__}; expected COCO's list of results")
    by_image: dict[str, list[dict[str, Any]]] = {}
    for i, result in enumerate(results):
        missing = {"image_id", "category_id", "segmentation"} - set(result if isinstance(result, dict) else ())
        if missing:
            raise ResultsMismatch(f"{path}: result {i} has no {', '.join(sorted(missing))}")
        if result["category_id"] not in categories:
            raise ResultsMismatch(f"{path}: result {i} is of category {result['category_id']!r}, which is not there")
        by_image.setdefault(str(result["image_id"]), []).append(result)
    records, skipped = [], []
    for sample in samples:
        own = by_image.pop(sample.sample_id if isinstance(sample, Skip) else sample.id, [])
        if isinstance(sample, Skip):
            skipped.append(sample)
        else:
            records.append(_with(sample, "", _instances(path, sample, own, categories)))
    if by_image:
        raise ResultsMismatch(
            f"{path} has results for {len(by_image)} images that are not among the samples, first "
            f"{next(iter(by_image))!r}: results of another data set or split, or of more samples (--samples)"
        )
    return records, skipped


def _gcg(path: Path, sample: Sample) -> Record:
    document = _json(path)
    keys = {"caption", "phrases", "pred_masks"}
    if isinstance(document, dict) and not keys <= set(document) and len(document) == 1:
        document = next(iter(document.values()))
    if not isinstance(document, dict) or not keys <= set(document):
        raise ResultsMismatch(f"{path} has not {', '.join(sorted(keys))}; expected the released evaluation's format")
    if str(document.get("image_id", sample.id)) != sample.id:
        raise ResultsMismatch(f"{path} is about image {document['image_id']!r}; results of another run?")
    phrases, masks = document["phrases"], document["pred_masks"]
    if len(phrases) != len(masks):
        raise ResultsMismatch(f"{path} has {len(phrases)} phrases and {len(masks)} masks; expected one for each")
    found = [
        Found(_phrase(str(text)), _mask(mask, sample, f"mask {i} of {path}"))
        for i, (text, mask) in enumerate(zip(phrases, masks, strict=True))
    ]
    return _with(sample, str(document["caption"]), found)


def _instances(
    path: Path, sample: Sample, results: Sequence[dict[str, Any]], categories: dict[Any, str]
) -> Iterator[Found]:
    for i, result in enumerate(results):
        name = categories[result["category_id"]]
        point = result.get("point")
        yield Found(
            _phrase(str(result.get("noun_phrase") or name)),
            _mask(result["segmentation"], sample, f"result {i} of image {sample.id!r} in {path}"),
            None if point is None else (float(point[0]), float(point[1])),
            float(result["score"]) if result.get("score") is not None else None,
            name,
        )


def _mask(rle: Any, sample: Sample, which: str) -> dict[str, Any]:
    try:
        return checked(rle, (sample.image.shape[0], sample.image.shape[1]), which)
    except ValueError as error:
        raise ResultsMismatch(str(error)) from error


def _with(sample: Sample, answer: str, found: Iterable[Found]) -> Record:
    return dataclasses.replace(record(sample, ""), answer=answer, found=tuple(found), failed=None)


def _phrase(text: str) -> Phrase:
    """The text as a phrase whose root is its last word; its place is not known."""
    root = text.split()[-1] if text.split() else text
    return Phrase(text=text, root=root, lemma=root.lower(), start=0, end=len(root), tokens=())


def _plain(name: str) -> str:
    if PureWindowsPath(name).name != name or name in ("", ".", ".."):
        raise ResultsMismatch(f"the sample id {name!r} is no plain file name, so it cannot name a results file")
    return name


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ResultsMismatch(f"{path} cannot be read as JSON ({error}); cut off, damaged or not there") from error
