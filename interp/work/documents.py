"""One file of JSON, read with a clear word on what is wrong with it; each room says it again as an error of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KINDS = {dict: "an object", list: "a list", str: "a text", type(None): "null", bool: "true or false"}


class BrokenDocument(ValueError):
    """A file that should hold JSON and does not, or holds something else than it should.

    What to do: fetch or save the file again; the message says what came and what was expected.
    """


def read_document(path: Path, kind: type | None = None) -> Any:
    """What the file holds, as plain Python; ``kind`` is dict or list, None is any.

    Raises:
        BrokenDocument: no regular file (a folder or a pipe too), not UTF-8 or UTF-16 text, not JSON, nested deeper than
            can be read, or of another kind.
    """
    if not path.is_file():
        what = "is not there" if not path.exists() else "is no regular file"
        raise BrokenDocument(f"{path} {what}; expected a file of JSON")
    data = path.read_bytes()
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BrokenDocument(f"{path} is not JSON ({_why(error, data)}): cut off or damaged; fetch it again") from error
    if kind is not None and not isinstance(found, kind):
        raise BrokenDocument(f"{path} holds {named(found)}; expected {KINDS[kind]}")
    return found


def named(found: Any) -> str:
    """What JSON calls a value of that type."""
    return KINDS.get(type(found), "a number")


def _why(error: Exception, data: bytes) -> str:
    if not data:
        return "it is empty"
    if isinstance(error, RecursionError):
        return "it is nested deeper than can be read"
    if "integer string conversion" in str(error):
        return "it holds a number of thousands of digits"
    return str(error)
