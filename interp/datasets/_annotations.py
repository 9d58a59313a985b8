"""A checked reading of annotation files: one bad entry is left out with the reason, and costs nothing beside itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, StrictStr, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from interp.datasets._files import DatasetError
from interp.work.documents import named

Entry = dict[str, Any]


def check_name(name: str) -> str:
    """The file name, if it lies below its folder. Read as a Windows path, which knows both separators and drives.

    Raises:
        DatasetError: it leads out of the folder.
    """
    parts = PureWindowsPath(name)
    if not name or parts.anchor or ".." in parts.parts or "\0" in name:
        raise DatasetError(f"the file name {name!r} leads out of the folder; expected one relative to it, without '..'")
    return name


def check_text(text: str) -> str:
    """The text, if it is one.

    Raises:
        DatasetError: it holds half a character.
    """
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise DatasetError(f"the text {text!a:.80} holds half a character (a lone surrogate); write it as UTF-8")
    return text


Text = Annotated[str, AfterValidator(check_text)]
Key = StrictInt | StrictStr
FileName = Annotated[str, AfterValidator(check_name)]
Side = Annotated[int, Field(ge=1)] | None
Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Flag = Annotated[bool, BeforeValidator(lambda value: False if value is None else value)]
"""0, 1, "0", "1", true, "false", ...; null is no."""
_Place = Annotated[float, Field(allow_inf_nan=False)]
Box = Annotated[tuple[_Place, _Place, Size, Size] | None, BeforeValidator(lambda box: box or None)]
"""x, y, width, height; none if empty."""


class ImageEntry(TypedDict):
    """An image as COCO's files name it."""

    id: Key
    file_name: FileName
    height: NotRequired[Side]
    width: NotRequired[Side]


class EntryLeftOut(UserWarning):
    """An entry of an annotation file that cannot be used, and why; all others are read.

    What to do: mend the entry that the message names, or leave it: nothing else is lost.
    """


class LeftOut(dict[str, str]):
    """What of a data set's annotations is left out: which entry -> why."""

    def tell(self) -> None:
        """One warning for all that is in it: how many, and the first."""
        if self:
            which, why = next(iter(self.items()))
            warnings.warn(f"left out {len(self)} entries, first {which}: {why}", EntryLeftOut, stacklevel=3)

    def add_told(self, which: str, why: object) -> None:
        """Adds an entry that showed while images were read, and warns of it the first time."""
        if which not in self:
            self[which] = str(why)
            warnings.warn(f"left out {which}: {why}", EntryLeftOut, stacklevel=3)


class AnnotationFile:
    """A document with lists of entries; what cannot be used of them goes into ``left_out``."""

    def __init__(self, path: Path, document: Any, left_out: LeftOut):
        self.path, self.document, self.left_out = path, document, left_out

    def entries(self, name: str, schema: type) -> list[Entry]:
        """The entries of the list of that name as the schema has them, each with its place in the list as ``at``. An
        empty ``name`` is the document itself.

        Raises:
            DatasetError: no such list, or not one entry of it can be used.
        """
        found = self.document.get(name) if name else self.document
        if not isinstance(found, list):
            raise DatasetError(f"{self.path} {_without(name, self.document)}")
        good = self.checked(found, name, schema)
        if found and not good:
            last = next(reversed(self.left_out.values()))
            raise DatasetError(f"{self.path}: no entry of {name or 'the list'} can be used; the last has {last}")
        return good

    def checked(self, found: Iterable[Any], name: str, schema: type) -> list[Entry]:
        """The same for a list that lies deeper, of which none need be of use; ``name`` says where."""
        adapter, good = _adapter(schema), []
        for i, entry in enumerate(found):
            try:
                good.append({**adapter.validate_python(entry), "at": i})
            except ValidationError as error:
                self._leave(name, i, said(error))
        return good

    def keyed(self, found: Iterable[Entry], name: str, field: str = "id") -> dict[Any, Entry]:
        """The entries by their ids; 1 and "1" are one id. Of an id that occurs twice with the same content the first
        stays; where the contents differ nobody knows which is meant, and none stays."""
        groups: dict[str, list[Entry]] = {}
        for entry in found:
            groups.setdefault(str(entry[field]), []).append(entry)
        known = {}
        for first, *others in groups.values():
            if all({**other, "at": 0} == {**first, "at": 0} for other in others):
                known[first[field]] = first
                continue
            for entry in (first, *others):
                self._leave(name, entry["at"], f"the id {entry[field]!r} occurs twice; ids tell entries apart")
        return known

    def pointing(
        self, found: list[Entry], name: str, field: str, known: Mapping[Any, Any], where: str, some: bool = True
    ) -> list[Entry]:
        """The entries whose ``field`` is the id of something known, with that id in its own type.

        Raises:
            DatasetError: none of them does though ``some`` should: the files are of different data sets.
        """
        ids = {str(key): key for key in known}
        good = [{**entry, field: ids[str(entry[field])]} for entry in found if str(entry[field]) in ids]
        lost = [entry for entry in found if str(entry[field]) not in ids]
        if lost and some and not good:
            before = "".join(f" ({which}: {why})" for which, why in list(self.left_out.items())[:1])
            raise DatasetError(
                f"{self.path}: none of {len(lost)} {name or 'entries'} points by {field} to what {where} holds, first "
                f"{lost[0][field]!r}; the files must be of one data set{before}"
            )
        for entry in lost:
            self._leave(name, entry["at"], f"its {field} {entry[field]!r} is not in {where}")
        return good

    def _leave(self, name: str, at: int, why: str) -> None:
        self.left_out.setdefault(f"{self.path.name}: {name}[{at}]", why)


def _without(name: str, document: Any) -> str:
    if not name:
        return f"holds {named(document)}; expected a list"
    what = f": it holds {named(document[name])}" if name in document else ""
    return f"has no list {name!r}{what}; it has {', '.join(map(str, document)) or 'nothing at all'}"


@cache
def _adapter(schema: type) -> Any:
    return TypeAdapter(schema)


def said(error: ValidationError) -> str:
    """What came and what was expected, of the first thing that is wrong."""
    first = error.errors(include_url=False)[0]
    place = next((part for part in first["loc"] if isinstance(part, str)), "entry")
    return f"no usable {place!r}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r:.80}"
