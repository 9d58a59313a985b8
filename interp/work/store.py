"""Where long work keeps its finished batches, and under which keys; on disk it is `interp.report.run.Run`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from interp.types import Sample, Skip


@runtime_checkable
class Store(Protocol):
    """Where finished batches are kept: a run folder, or anything with these two."""

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays under the key, or None."""

    def put(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Keeps the arrays under the key."""


class Memory:
    """A store that ends with the process."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, np.ndarray]] = {}

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays under the key, or None."""
        return self.entries.get(key)

    def put(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Keeps the arrays under the key."""
        self.entries[key] = arrays

    def drop(self, key: str) -> None:
        """Lets go of what is kept under the key."""
        self.entries.pop(key, None)


NOTHING_SCORED = "nothing_scored"


def marked(arrays: Mapping[str, np.ndarray], scored: bool) -> dict[str, np.ndarray]:
    """The arrays of a batch; with a mark if every sample of it was skipped, so that a failed run which holds nothing
    else can be told from one whose work must be kept."""
    return dict(arrays) if scored else {**arrays, NOTHING_SCORED: np.array(True)}


def key_of(settings: Mapping[str, Any], group: Sequence[Sample | Skip]) -> str:
    """The batch's key in the store: changes with whatever can change its scores."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for s in group:
        if isinstance(s, Skip):
            digest.update(repr(s).encode())
            continue
        digest.update(repr((s.id, s.image_id, s.prompt, s.answer, s.image.shape)).encode())
        digest.update(np.ascontiguousarray(s.image).tobytes())
        for target in s.targets:
            digest.update(
                repr((target.phrase, target.kind, target.mask.shape)).encode() + np.packbits(target.mask).tobytes()
            )
    return f"scores-{digest.hexdigest()[:40]}"
