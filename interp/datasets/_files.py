"""Annotation files and images of a data set on disk: read with a clear word on what is wrong, and never outside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from interp.datasets._coco_masks import CocoError

ID = int | str


class DatasetError(CocoError):
    """The folder does not hold the data set that it should: files are missing, damaged or of another layout.

    What to do: give ``--root`` the folder that the message describes, or fetch the file that it names.
    """


def home(root: Any, samples: int | None, expected: str) -> Path:
    """The data set's folder.

    Raises:
        DatasetError: none given, or fewer than one sample asked for.
    """
    if root is None:
        raise DatasetError(f"no folder given; expected one with {expected} (--root)")
    if samples is not None and samples < 1:
        raise DatasetError(f"samples is {samples}; expected at least 1, or none for all")
    return Path(root).expanduser()


def first_file(candidates: Sequence[Path], what: str) -> Path:
    """The first of the paths that is a file.

    Raises:
        DatasetError: none is; it names all places that were looked at.
    """
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise DatasetError(f"no {what}; looked for {', '.join(map(str, candidates))}")
    return found


def read_json(path: Path, kind: type = dict) -> Any:
    """The document, a list or an object as ``kind`` says.

    Raises:
        DatasetError: not JSON, or of another kind.
    """
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise DatasetError(f"{path} is not JSON ({error}): cut off or damaged; fetch it again") from error
    if not isinstance(document, kind):
        raise DatasetError(f"{path} holds a {type(document).__name__}; expected a {kind.__name__}")
    return document


def records(document: Any, name: str, path: Path, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The list of that name, whose entries have these fields of these types. An empty ``name`` is the document itself.

    Raises:
        DatasetError: no such list, or an entry without such a field.
    """
    found = document.get(name) if name else document
    if not isinstance(found, list):
        raise DatasetError(f"{path} has no list {name!r}; it has {', '.join(map(str, document)) or 'nothing'}")
    for i, record in enumerate(found):
        wrong = [f for f, kind in fields.items() if not isinstance(record, dict) or not isinstance(record.get(f), kind)]
        if wrong:
            raise DatasetError(f"{path}: {name or 'entry'}[{i}] has no usable {wrong[0]!r}; got {record!r:.200}")
    return found


def by_id(found: Iterable[dict[str, Any]], what: str, path: Path, field: str = "id") -> dict[Any, dict[str, Any]]:
    """The records by their ids.

    Raises:
        DatasetError: an id occurs twice.
    """
    known: dict[Any, dict[str, Any]] = {}
    seen: set[str] = set()  # 1 and "1" are one name of a sample
    for record in found:
        if str(record[field]) in seen:
            raise DatasetError(f"{path}: the {what} id {record[field]!r} occurs twice; ids tell them apart")
        seen.add(str(record[field]))
        known[record[field]] = record
    return known


def check_references(
    found: Iterable[Mapping[str, Any]], field: str, known: Mapping[Any, Any], where: str, path: Path
) -> None:
    """Nothing, if every record's ``field`` is the id of something known.

    Raises:
        DatasetError: some point to what is not there; it names how many and the first.
    """
    lost = [record for record in found if record[field] not in known]
    if lost:
        raise DatasetError(
            f"{path}: {len(lost)} entries point by {field} to what {where} does not hold, first {lost[0][field]!r}; "
            f"take the entries out, or put the {where} back"
        )


def check_name(name: str, path: Path) -> str:
    """The file name, if it lies below its folder. Read as a Windows path, which knows both separators and drives.

    Raises:
        DatasetError: it leads out of the folder.
    """
    parts = PureWindowsPath(name)
    if not name or parts.anchor or ".." in parts.parts or "\0" in name:
        raise DatasetError(
            f"{path}: the file name {name!r} leads out of the folder; expected one relative to it, without '..'"
        )
    return name


def find_image(name: str, folders: Sequence[Path]) -> Path:
    """The first of the folders' files of that name.

    Raises:
        DatasetError: none has it.
    """
    found = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if found is None:
        raise DatasetError(f"no file {name} in {', '.join(map(str, folders))}; fetch it, or correct its name")
    return found
