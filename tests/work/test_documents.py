"""One bad file of JSON is named for what it holds, in every room that reads one."""

from __future__ import annotations

import os

import pytest

from interp.datasets._files import DatasetError, read_json
from interp.evaluation.predictions import ResultsMismatch, read_results
from interp.models._config import BrokenConfig, read_object
from interp.work.documents import BrokenDocument, read_document

READERS = {
    "itself": (lambda path: read_document(path, dict), BrokenDocument),
    "data sets": (read_json, DatasetError),
    "models": (read_object, BrokenConfig),
    "predictions": (lambda path: read_results(path, []), ResultsMismatch),
}
BAD = {
    "empty": (b"", "it is empty"),
    "cut": (b'{"a": [1, ', "is not JSON"),
    "garbage": (b"\xff\x00\x81", "is not JSON"),
    "deep": (b"[" * 100_000, "nested deeper than can be read"),
    "digits": (b'{"a": 1' + b"0" * 6000 + b"}", "a number of thousands of digits"),
    "null": (b"null", "holds null; expected"),
    "number": (b"1e999", "holds a number; expected"),
    "text": (b'"x"', "holds a text; expected"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", BAD)
def test_a_bad_document_is_named_with_what_it_holds(tmp_path, reader, name):
    read, error = READERS[reader]
    content, told = BAD[name]
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(error, match=f"a.json.*{told}"):
        read(tmp_path / "a.json")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("make", "told"),
    [(os.mkdir, "is no regular file"), (os.mkfifo, "is no regular file"), (lambda path: None, "is not there")],
    ids=["folder", "pipe", "nothing"],
)
def test_a_folder_or_a_pipe_is_no_document_and_nobody_waits_for_it(tmp_path, reader, make, told):
    read, error = READERS[reader]
    make(tmp_path / "a.json")
    with pytest.raises(error, match=told):
        read(tmp_path / "a.json")


def test_a_good_document_comes_as_it_is(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, 2.5, "é", null]}')
    assert read_document(tmp_path / "a.json", dict) == {"a": [1, 2.5, "é", None]}
