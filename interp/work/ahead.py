"""Reading ahead and writing behind: what the disk and the processor do while the model computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from interp.work.store import Store

Item = TypeVar("Item")


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items in the same order; each is made in a thread while the one before it is worked on.

    An error comes where it would have come without the thread.

    >>> list(ahead(range(3)))
    [0, 1, 2]
    """
    rest, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        coming = thread.submit(next, rest, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, rest, end)
            yield item  # type: ignore[misc]


@contextmanager
def behind(store: Store) -> Iterator[Store]:
    """The store, whose ``put`` comes back at once and writes in a thread, if the store says that it can
    (``in_background``); one batch at a time.

    What was put is written before the end, whatever is raised inside. An error of writing (a full disk) is raised by
    the next ``put`` or ``get``, or at the end.
    """
    if not getattr(store, "in_background", False):
        yield store
        return
    with ThreadPoolExecutor(1, thread_name_prefix="behind") as thread:
        writing = _Behind(store, thread)
        try:
            yield writing
        except BaseException as error:
            if (failed := writing.last.exception()) not in (None, error):
                error.add_note(f"and the last batch could not be kept: {type(failed).__name__}: {failed}")
            raise
        writing.last.result()


class _Behind:
    def __init__(self, store: Store, thread: ThreadPoolExecutor):
        self.store, self.thread, self.key = store, thread, ""
        self.last: Future[None] = Future()
        self.last.set_result(None)

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays under the key, or None."""
        if key == self.key or self.last.done():
            self.last.result()
        return self.store.get(key)

    def put(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps the arrays under the key, soon."""
        self.last.result()
        self.key, self.last = key, self.thread.submit(self.store.put, key, dict(arrays))
