"""Predictions in files, of this program or another -> records: they are scored without the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, Field, StrictInt, StrictStr, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from interp.evaluation.overlap import checked
from interp.evaluation.result import Found, Record, record
from interp.types import Phrase, Sample, Skip
from interp.work.documents import BrokenDocument, named, read_document

_Number = Annotated[float, Field(allow_inf_nan=False)]


def _text(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("it holds half a character (a lone surrogate); write it as UTF-8")
    return text


_Text = Annotated[StrictStr, AfterValidator(_text)]


class _Answer(TypedDict):
    caption: _Text
    phrases: list[_Text]
    pred_masks: list


class _Result(TypedDict):
    segmentation: list | dict
    score: NotRequired[_Number | None]
    point: NotRequired[tuple[_Number, _Number] | None]
    noun_phrase: NotRequired[_Text | None]


class _OfImage(_Result):
    image_id: StrictInt | StrictStr
    category_id: StrictInt | StrictStr


class _OfSample(_Result):
    sample_id: NotRequired[StrictInt | StrictStr]
    ref_id: NotRequired[StrictInt | StrictStr]
    sent_id: NotRequired[StrictInt | StrictStr]


class ResultsMismatch(ValueError):
    """Results of another data set or run, or not results at all; the message says what came and what was expected.

    What to do: give the file that belongs to this data set and split, or score the model itself (no --predictions).
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
    by_image: dict[str, list[dict[str, Any]]] = {}
    for i, result in enumerate(_results(path, _OfImage)):
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
    _all_known(path, by_image, "images")
    return records, skipped


def read_results(path: Path, samples: Iterable[Sample | Skip]) -> tuple[list[Record], list[Skip]]:
    """Records of a file like the ``predictions.json`` that `interp evaluate` writes: a list with sample_id (RefCOCO's:
    ref_id and sent_id will do), segmentation, and, if there are, score, point, noun_phrase. The n-th result of a sample
    belongs to its n-th phrase; a sample without any counts as a miss.

    Raises:
        ResultsMismatch: not such a list, a sample that the data set does not hold, other numbers of results and
            phrases, or masks of another size or length.
    """
    by_sample: dict[str, list[dict[str, Any]]] = {}
    for i, result in enumerate(_results(path, _OfSample)):
        name = result.get("sample_id", f"{result.get('ref_id')}-{result.get('sent_id')}")
        if not ("sample_id" in result or {"ref_id", "sent_id"} <= set(result)):
            raise ResultsMismatch(f"{path}: result {i} says neither sample_id nor ref_id and sent_id")
        by_sample.setdefault(str(name), []).append(result)
    records, skipped = [], []
    for sample in samples:
        own = by_sample.pop(sample.sample_id if isinstance(sample, Skip) else sample.id, [])
        if isinstance(sample, Skip):
            skipped.append(sample)
            continue
        if own and len(own) != len(sample.targets):
            raise ResultsMismatch(
                f"{path} has {len(own)} results for {sample.id!r}, which has {len(sample.targets)} phrases; expected "
                "one for each, in order"
            )
        found = [
            _found(path, sample, result, target.phrase) for result, target in zip(own, sample.targets, strict=False)
        ]
        made = _with(sample, sample.answer or "", found)
        records.append(made if own else dataclasses.replace(made, failed="the results hold nothing for it"))
    _all_known(path, by_sample, "samples")
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
    _valid(document, _Answer, str(path))
    phrases, masks = document["phrases"], document["pred_masks"]
    if len(phrases) != len(masks):
        raise ResultsMismatch(f"{path} has {len(phrases)} phrases and {len(masks)} masks; expected one for each")
    found = [
        Found(_phrase(text), _mask(mask, sample, f"mask {i} of {path}"))
        for i, (text, mask) in enumerate(zip(phrases, masks, strict=True))
    ]
    return _with(sample, document["caption"], found)


def _instances(
    path: Path, sample: Sample, results: Sequence[dict[str, Any]], categories: dict[Any, str]
) -> Iterator[Found]:
    for result in results:
        name = categories[result["category_id"]]
        yield dataclasses.replace(_found(path, sample, result, name), category=name)


def _found(path: Path, sample: Sample, result: dict[str, Any], name: str) -> Found:
    which = f"result {result['at']} of image {sample.id!r} in {path}"
    mask = _mask(result["segmentation"], sample, which)
    return Found(_phrase(result.get("noun_phrase") or name), mask, result.get("point"), result.get("score"))


def _results(path: Path, schema: type) -> list[dict[str, Any]]:
    """The file's results as the schema has them. Predictions must be whole: a bad one is refused, not left out."""
    results = _json(path)
    if not isinstance(results, list):
        raise ResultsMismatch(f"{path} holds {named(results)}; expected COCO's list of results")
    return [{**_valid(result, schema, f"{path}: result {i}"), "at": i} for i, result in enumerate(results)]


def _valid(found: Any, schema: type, which: str) -> dict[str, Any]:
    try:
        checked: TypeAdapter[Any] = TypeAdapter(schema)
        return checked.validate_python(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "entry"
        raise ResultsMismatch(
            f"{which} has no usable {place}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!a:.80}"
        ) from error


def _all_known(path: Path, left: dict[str, Any], what: str) -> None:
    if left:
        raise ResultsMismatch(
            f"{path} has results for {len(left)} {what} that are not among the samples, first {next(iter(left))!r}: "
            "results of another data set or split, or of more samples (--samples)"
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
        return read_document(path)
    except BrokenDocument as error:
        raise ResultsMismatch(str(error)) from error
