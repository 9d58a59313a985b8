"""Pickles of plain values, read without running their authors' code and without hanging on what they unfold to."""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

from interp.datasets._files import DatasetError

LARGEST = 1 << 27
"""Values that a pickle may unfold to. One of 300 bytes can say more than there are atoms, by naming itself again and
again; to hash or to print that would take for ever."""

_ALLOWED = {"set", "frozenset"}
_FILLS = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
_KEEPS, _GIVES = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}


class UnsafePickle(DatasetError):
    """A pickle that names classes or functions, which could run its author's code, or that unfolds without end: it is
    not read.

    What to do: fetch the data set again from its source, or turn the file into JSON where you trust it.
    """


def read_pickle(data: bytes, name: str) -> Any:
    """The plain values (lists, dicts, tuples, sets, texts, numbers) of a pickle.

    Raises:
        UnsafePickle: it asks for anything else, or unfolds to more than ``LARGEST`` values.
        DatasetError: it is damaged.
    """
    try:
        check_size(data)
        return _Plain(io.BytesIO(data), encoding="utf-8", errors="replace").load()
    except UnsafePickle as error:
        raise UnsafePickle(f"{name}: {error}") from error
    except Exception as error:  # damaged pickles raise anything
        raise DatasetError(f"{name} is no pickle that can be read ({error!r}); fetch it again") from error


def check_size(data: bytes) -> None:
    """Nothing, if the pickle's values are not too many to look at. Goes through its instructions, building nothing: on
    the stack stands [how many values, whether it was named again] for each object.

    Raises:
        UnsafePickle: too many, or an object that grows after it was named again, as one that holds itself.
    """
    stack: list[list[Any] | None] = []  # None is a mark
    memo: dict[Any, list[Any] | None] = {}
    for code, given, _ in pickletools.genops(data):
        if code.name in _KEEPS:
            memo[len(memo) if code.name == "MEMOIZE" else given] = stack[-1]
            continue
        if code.name in _GIVES:
            held = memo[given]
            if held is not None:
                held[1] = True
            stack.append(held)
            continue
        taken = _taken(stack, code)
        if code.name == "MARK":
            stack.append(None)
        elif code.name in _FILLS:
            target = taken[0]
            target[0] += sum(size for size, _ in taken[1:])
            if target[1]:
                raise UnsafePickle("an object in the pickle holds itself; save it as JSON instead")
            stack.append(target)
        else:
            stack += [[1 + sum(size for size, _ in taken), False] for _ in code.stack_after]
        if stack and stack[-1] is not None and stack[-1][0] > LARGEST:
            raise UnsafePickle(f"the pickle unfolds to more than {LARGEST} values; save it as JSON instead")


def _taken(stack: list[list[Any] | None], code: pickletools.OpcodeInfo) -> list[list[Any]]:
    """What the instruction takes off the stack, in order."""
    wanted = code.stack_before
    if pickletools.markobject not in wanted:
        taken = stack[len(stack) - len(wanted) :]
        del stack[len(stack) - len(wanted) :]
        return [x for x in taken if x is not None]
    mark = len(stack) - 1 - stack[::-1].index(None)
    below = wanted.index(pickletools.markobject)
    taken = stack[mark - below : mark] + stack[mark + 1 :]
    del stack[mark - below :]
    return [x for x in taken if x is not None]


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
