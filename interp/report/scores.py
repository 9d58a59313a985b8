"""``scores.parquet``: every score of a ranking, tidy; written a row group a batch, read a metric at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from interp.statistics.scores import HeadScores
from interp.types import layer_numbers
from interp.work.files import writing

NAME = "scores.parquet"
TEXT, WHOLE, SINGLE = pa.dictionary(pa.int32(), pa.string()), pa.int32(), pa.float32()
SCHEMA = pa.schema(
    [("sample_id", TEXT), ("image_id", TEXT), ("number", WHOLE), ("phrase", TEXT), ("partners", WHOLE)]
    + [("layer", pa.int16()), ("head", pa.int16()), ("metric", TEXT)]
    + [(name, SINGLE) for name in ("value", "null", "specificity", "chance")]
)


def write(folder: Path, scores: Mapping[str, HeadScores], batch: int) -> Path:
    """The path of the file: a row per phrase, head and metric, a row group for each ``batch`` samples; whole or not at
    all, the same bytes from the same scores."""
    path = folder / NAME
    first = next(iter(scores.values()))
    with writing(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for rows in _groups(first.sample_ids, batch):
            tables = [_table(score, name, rows) for name, score in scores.items()]
            whole = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
            writer.write_table(whole, row_group_size=max(len(whole), 1))
    return path


def _groups(samples: Sequence[str], batch: int) -> Iterator[np.ndarray]:
    """Numbers of the phrases of ``batch`` samples at a time."""
    order = {name: i for i, name in enumerate(dict.fromkeys(samples))}
    group = np.array([order[name] // batch for name in samples], dtype=np.int64)
    rows = np.argsort(group, kind="stable")
    yield from np.split(rows, np.flatnonzero(np.diff(group[rows])) + 1)


def _table(score: HeadScores, name: str, rows: np.ndarray) -> pa.Table:
    own = score.of(rows)
    n, layers, heads = own.values.shape
    each = layers * heads
    nothing = np.full(own.values.shape, np.nan)
    numbers = np.array(layer_numbers(own.layers, layers), dtype=np.int16)
    partners = np.zeros(n, np.int64) if own.partners is None else own.partners
    chance = np.full(n, np.nan) if own.chance is None else own.chance
    texts = {"sample_id": own.sample_ids, "image_id": own.images, "phrase": own.phrases}
    columns = {
        **{key: np.repeat(np.array(values, dtype=object), each) for key, values in texts.items()},
        "number": np.repeat(rows, each),
        "partners": np.repeat(partners, each),
        "layer": np.tile(np.repeat(numbers, heads), n),
        "head": np.tile(np.arange(heads), n * layers),
        "metric": np.full(n * each, name, dtype=object),
        "value": own.values.ravel(),
        "null": (nothing if own.null is None else own.null).ravel(),
        "specificity": (nothing if own.specificity is None else own.specificity).ravel(),
        "chance": np.repeat(chance, each),
    }
    return pa.table({field.name: pa.array(columns[field.name]).cast(field.type) for field in SCHEMA}, schema=SCHEMA)


class Scores(Mapping[str, HeadScores]):
    """Metric -> its scores, each read from the file when it is asked for, and then kept.

    ``higher``: metric -> whether a higher score is better.
    """

    def __init__(self, path: Path, higher: Mapping[str, bool]):
        self.path, self.higher = path, higher
        self._read: dict[str, HeadScores] = {}

    def __getitem__(self, metric: str) -> HeadScores:
        if metric not in self.higher:
            raise KeyError(f"no metric {metric!r}; there are: {', '.join(self.higher)}")
        if metric not in self._read:
            self._read[metric] = self._of(metric)
        return self._read[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self.higher)

    def __len__(self) -> int:
        return len(self.higher)

    def __repr__(self) -> str:
        return f"Scores({os.fspath(self.path)!r}: {', '.join(self.higher)})"

    def _of(self, metric: str) -> HeadScores:
        if not self.path.is_file():
            raise FileNotFoundError(f"no file {self.path}; run the same `interp rank` again, which writes it")
        table = pq.read_table(self.path, filters=pc.field("metric") == metric)
        column = {name: table[name].to_numpy(zero_copy_only=False) for name in ("number", "layer", "head", "partners")}
        phrases, layers = len(np.unique(column["number"])), np.unique(column["layer"])
        shape = (phrases, len(layers), len(np.unique(column["head"])))
        first = np.arange(phrases) * (shape[1] * shape[2])
        texts = {
            name: tuple(str(x) for x in table[name].take(first).to_pylist())
            for name in ("sample_id", "image_id", "phrase")
        }
        arrays = {
            name: table[name].to_numpy(zero_copy_only=False) for name in ("value", "null", "specificity", "chance")
        }
        square = {name: arrays[name].reshape(shape) for name in ("value", "null", "specificity")}
        return HeadScores(
            metric=metric,
            higher_is_better=self.higher[metric],
            sample_ids=texts["sample_id"],
            phrases=texts["phrase"],
            values=square["value"],
            null=square["null"],
            specificity=square["specificity"],
            chance=arrays["chance"][first],
            partners=column["partners"][first].astype(np.int64),
            image_ids=texts["image_id"],
            layers=tuple(int(layer) for layer in layers),
        )
