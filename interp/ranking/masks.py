"""The pool of null masks of a data set: read from its masks, or from what other processes have read of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from tqdm.auto import tqdm

import interp
from interp.statistics.nulls import SIDE, MaskPool, Row, rows_of
from interp.types import Sample, Skip
from interp.work.parts import Group, Work
from interp.work.samples import Batches, Repeatable, noting
from interp.work.sharing import current, together
from interp.work.store import Store, key_of

STRETCHES = 256
"""Parts that the masks are read in, where many processes read them."""
KEPT = "masks"


def pool_of(store: Store, samples: Repeatable, bar: tqdm) -> tuple[MaskPool, list[str]]:
    """The pool and the ids of all samples.

    A process that makes tables by itself goes through all masks, as does every one if the data set cannot be read in
    stretches. Those that compute parts share this: each reads what nobody has read and takes the rest from the store,
    by the notes of the others. If files change meanwhile, that costs work and makes no wrong number: each batch's key
    covers the pool, and whoever makes tables has read the masks.
    """
    share, ids = current(), list[str]()
    if samples.size is None or (share.whole and not share.launch):
        return MaskPool.of(noting(samples(), ids, bar)), ids
    about = {"what": KEPT, "size": samples.size, "version": interp.__version__}
    batches = Batches(samples, max(-(-samples.size // STRETCHES), 1))
    with together(KEPT):
        work = Work(store, about, batches, lambda group: key_of(about, group).replace("scores", KEPT), _packed)
        found = list(work.in_order(lambda part: _unpacked(part.arrays), bar))
    named = (Skip(name, "") for names, _ in found for name in names)
    list(noting(named, ids, tqdm(disable=True)))  # an id that occurs twice is refused
    return MaskPool.joined([row for _, rows in found for row in rows]), ids


def _packed(group: Group) -> dict[str, np.ndarray]:
    rows = [row for sample in group if isinstance(sample, Sample) for row in rows_of(sample)]
    ids = [sample.sample_id if isinstance(sample, Skip) else sample.id for sample in group]
    about = json.dumps({"ids": ids, "rows": [row[:4] for row in rows]})
    bits = np.array([row[4] for row in rows], dtype=np.uint8).reshape(len(rows), SIDE * SIDE // 8)
    return {"about": np.frombuffer(about.encode(), dtype=np.uint8), "bits": bits}


def _unpacked(arrays: Mapping[str, np.ndarray]) -> tuple[list[str], list[Row]]:
    about: Any = json.loads(bytes(arrays["about"]).decode())
    rows = [
        (image, sample, i, area, bits)
        for (image, sample, i, area), bits in zip(about["rows"], arrays["bits"], strict=True)
    ]
    return about["ids"], rows
