"""What the words of a command may be: numbers in their range, texts that are texts, options that go together; and what
the library says of its arguments, said of the command's options."""

from __future__ import annotations

import argparse
import errno
import math
import re
from collections.abc import Mapping
from typing import Any

MOST = 10**9
"""No count is larger; one that is would be memory that no machine has, or a typing mistake."""
LARGEST_SEED = 2**63 - 1
SAID = ("prompt", "answer", "phrases")
"""Texts that a model reads: they may be of any characters, and the model's own checks tell what is wrong with them."""
FILES = {
    errno.ENAMETOOLONG: "the name is longer than the file system takes; give a shorter one",
    errno.ENOSPC: "the disk is full; make room, the same command goes on from what is finished",
    errno.EACCES: "it may not be read or written by this user; change its permissions, or give another place",
    errno.EROFS: "the disk can only be read; give another place",
    errno.ENOTDIR: "a part of the path is a file; give another place",
    errno.EEXIST: "something else lies there; move it away, or give another place",
    errno.EISDIR: "a folder lies where a file must; move it away, or give another place",
    errno.ENOENT: "it is not there; check the path",
}


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1, MOST)


def natural(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, 0, MOST)


def seed(text: str) -> int:
    """A whole number of at least 0 that fits into 63 bits."""
    return _whole(text, 0, LARGEST_SEED)


def share(text: str) -> float:
    """A number of 0..1."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{_short(text)} is not a number of 0..1")
    return number


def choice(text: str) -> str | int:
    """``last``, ``best`` or the number of a mask, from 0."""
    if re.fullmatch(r"[0-9]{1,3}", text):
        return int(text)
    if text not in ("last", "best"):
        raise argparse.ArgumentTypeError(f"{_short(text)} is neither last nor best nor a number from 0 to 999")
    return text


def _whole(text: str, least: int, most: int) -> int:
    number = int(text) if re.fullmatch(r"[+-]?[0-9]{1,40}", text.strip()) else least - 1
    if number > most:
        raise argparse.ArgumentTypeError(f"{_short(text)} is too large; expected at most {most}")
    if number < least:
        raise argparse.ArgumentTypeError(f"{_short(text)} is not a whole number of at least {least}")
    return number


def check(options: argparse.Namespace) -> None:
    """Nothing, if every text is one and says something, and the device is there.

    Raises:
        ValueError: else, with the option's name.
    """
    for name, given in vars(options).items():
        for text in given if isinstance(given, list) else [given]:
            if isinstance(text, str):
                _check_text(_option(name), text, name in SAID)
    if getattr(options, "device", None):
        from interp.models._load import device_of

        device_of(options.device)


def _check_text(name: str, text: str, said: bool) -> None:
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError(f"{name} is {_short(text)}, which is not UTF-8; give it again in UTF-8, or rename the file")
    if said:
        return
    if not text.strip():
        raise ValueError(f"{name} is empty ({text!r}); give it a value, or leave it out")
    if "\0" in text:
        raise ValueError(f"{name} is {_short(text)}, which holds a NUL character; no name of a file may")


def explained(error: Exception) -> str:
    """The message of an error; one of the operating system with what to do."""
    number = getattr(error, "errno", None)
    if not isinstance(error, OSError) or not str(error).startswith("[Errno"):
        return str(error)
    file = f"{_short(str(error.filename))}: " if error.filename else ""
    return f"{file}{error.strerror}: {FILES.get(number or 0, 'check the path and the disk')}"


def in_options(message: str, options: Mapping[str, Any]) -> str:
    """The message with the command's options in place of the library's arguments.

    >>> in_options("no answer; use answers='generated'", {"answers": "reference"})
    'no answer; use --answers generated'
    """
    message = re.sub(r",? (or |or with |or use |with )(tokens|steps)=('\w+'|\[\.\.\.\])", "", message)  # of no command
    message = re.sub(r"say which one with frame=\S+, or ", "", message)
    message = re.sub(r"(\S{60})\S{200,}(\S{20})", r"\1...\2", message)  # a name that nobody can read

    def option(found: re.Match[str]) -> str:
        if found["name"] not in options:
            return found[0]
        value = found["text"] or found["place"] or ("..." if found["list"] else "")
        return f"{_option(found['name'])} {value}".rstrip()

    return re.sub(
        r"\b(?P<name>[a-z_]+)=(?:'(?P<text>[^']*)'|(?P<list>\[\.\.\.\])|True|(?P<place>[A-Z]{2,}\b))", option, message
    )


def _option(name: str) -> str:
    positional = ("model", "dataset", "image", "prompt", "series", "model_a", "model_b", "source", "task", "command")
    return name if name in positional else "--" + name.replace("_", "-")


def _short(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:50]!r}... ({len(text)} characters)"
