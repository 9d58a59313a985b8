"""What of an answer is language: its lines without markup, every character with its place in the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

_ENDS = re.compile(r"[\n\r\v\f\x85\u2028\u2029]+")
_FENCE = re.compile(r"\s*(```|~~~)")
_RULE = re.compile(r"\s*(?:[-*_=~:|+]\s*){3,}$")
_FRONT = re.compile(r"(?:\s*(?:[-*+•‣▪◦·–—]\s+|\d{1,3}[.)]\s+|\#{1,6}\s+|>))+")
_SILENT = re.compile(r"\*+|_{2,}|`+|~~|(?<!\w)_(?=\w)|(?<=\w)_(?!\w)")
_PARTING = re.compile(
    r"<[/!|｜]?[A-Za-z|｜][^<>]*>"  # <b>, </s>, <|im_end|>
    r"|\[/?[A-Z][A-Z0-9_]+\]"  # [SEG], [/INST]
    r"|(?:https?://|www\.)\S+"
    r"|&(?:#\d+|[A-Za-z]+);"
    r"|[\[(]\s*-?[\d.]+(?:\s*,\s*-?[\d.]+)+\s*[\])]"  # a box
)
_LINK = re.compile(r"(!?\[)([^\[\]]*)(\]\([^()\s]*\))")


@dataclass(frozen=True)
class Line:
    """A line of an answer as a reader sees it: ``text`` without markup and double blanks, and the place in the answer
    of each of its characters."""

    text: str
    places: tuple[int, ...]

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Where these characters of the line stand in the answer."""
        return self.places[start], self.places[end - 1] + 1

    def within(self, start: int, end: int) -> tuple[int, int] | None:
        """The characters of the line that stand within these of the answer; None if there are none."""
        there = [i for i, place in enumerate(self.places) if start <= place < end and not self.text[i].isspace()]
        return (there[0], there[-1] + 1) if there else None


def lines_of(answer: str) -> list[Line]:
    """The lines that hold language: without list marks, headings, emphasis, tags, special tokens, boxes, addresses and
    code. The cells of a table are a line each."""
    found, code = [], False
    for start, end in _lines(answer):
        line = answer[start:end]
        if _FENCE.match(line):
            code = not code
        elif not code and not _RULE.match(line):
            found += [_clean(answer, a, b) for a, b in _cells(answer, start, end)]
    return [line for line in found if line.text]


def _lines(answer: str) -> Iterator[tuple[int, int]]:
    start = 0
    for end in _ENDS.finditer(answer):
        yield start, end.start()
        start = end.end()
    yield start, len(answer)


def _cells(answer: str, start: int, end: int) -> list[tuple[int, int]]:
    bars = [i for i in range(start, end) if answer[i] == "|" and not re.match(r"<\||.\|>", answer[i - 1 : i + 2])]
    if len(bars) < 2:
        return [(start, end)]
    return [(a + 1, b) for a, b in pairwise([start - 1, *bars, end])]


def _clean(answer: str, start: int, end: int) -> Line:
    line = answer[start:end]
    kind = [" " if c.isspace() else "x" for c in line]  # x: stays, " ": a blank, "": goes without a trace

    def drop(a: int, b: int, to: str) -> None:
        kind[a:b] = [to] * (b - a)

    if front := _FRONT.match(line):
        drop(*front.span(), " ")
    for link in _LINK.finditer(line):
        drop(*link.span(1), "")
        drop(*link.span(3), "")
    for found in _PARTING.finditer(line):
        drop(*found.span(), " ")
    for found in _SILENT.finditer(line):
        drop(*found.span(), "")
    text: list[str] = []
    places: list[int] = []
    for i, (character, what) in enumerate(zip(line, kind, strict=True)):
        if what == "x" or (what == " " and text and text[-1] != " "):
            text.append(character if what == "x" else " ")
            places.append(start + i)
    size = len("".join(text).rstrip())
    return Line("".join(text)[:size], tuple(places[:size]))
