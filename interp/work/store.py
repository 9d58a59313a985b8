"""Where long work keeps its finished batches, and under which keys; on disk it is `interp.report.run.Run`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
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


class Nowhere:
    """A store that keeps nothing, for work that needs no second look."""

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """None."""

    def put(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Nothing."""


class Joined:
    """A store in which entries that belong together are one, under their keys with a comma between them. What makes
    them stores each as it comes (`once`), so that what was done of them is never lost; ``put`` has nothing left to do.
    """

    def __init__(self, store: Store):
        self.store = store
        self.claims = getattr(store, "claims", None)

    @staticmethod
    def key(keys: Iterable[str]) -> str:
        """The keys as one."""
        return ",".join(keys)

    @staticmethod
    def joined(entries: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The entries as one, the number of each before its arrays' names."""
        return {f"{i}.{name}": x for i, arrays in enumerate(entries) for name, x in arrays.items()}

    @staticmethod
    def split(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """The entries again."""
        found: dict[int, dict[str, np.ndarray]] = {}
        for name, x in arrays.items():
            number, own = name.split(".", 1)
            found.setdefault(int(number), {})[own] = x
        return list(found.values())

    def once(self, key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The entry under one key, made and stored if it is not there."""
        arrays = self.store.get(key)
        if arrays is None:
            arrays = make()
            self.store.put(key, arrays)
        return arrays

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """All entries as one, or None if one is missing."""
        found = []
        for own in key.split(","):
            if (arrays := self.store.get(own)) is None:
                return None
            found.append(arrays)
        return self.joined(found)

    def put(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Nothing: each entry is there."""


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
