"""Reading ahead and writing behind change when things happen, never what is read, kept or said."""

import errno
import threading
import time

import numpy as np
import pytest

from interp.report.run import Run
from interp.work.ahead import ahead, behind


class Slow:
    """A store that takes its time, and may be told to fail."""

    in_background = True

    def __init__(self, error=None):
        self.kept, self.threads, self.error = {}, set(), error

    def get(self, key):
        return self.kept.get(key)

    def put(self, key, arrays):
        self.threads.add(threading.current_thread())
        time.sleep(0.05)
        if self.error is not None:
            raise self.error
        self.kept[key] = arrays


def full():
    return OSError(errno.ENOSPC, "No space left on device")


def test_items_come_in_order_and_the_next_is_made_while_one_is_worked_on():
    made, order = [], []

    def items():
        for number in range(4):
            order.append(f"made {number}")
            made.append(threading.current_thread())
            yield number

    for number in ahead(items()):
        deadline = time.monotonic() + 5
        while number < 3 and len(made) < number + 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        order.append(f"used {number}")
    assert order == ["made 0", "made 1", "used 0", "made 2", "used 1", "made 3", "used 2", "used 3"]
    assert threading.current_thread() not in made


def test_an_error_of_reading_comes_after_the_items_before_it():
    """Else batches that could be read are lost, or the error is."""

    def items():
        yield 1
        raise ValueError("sample 2 is broken")

    seen = []
    with pytest.raises(ValueError, match="sample 2"):
        for item in ahead(items()):
            seen.append(item)
    assert seen == [1]


def test_an_interruption_ends_the_reading_thread():
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        for _ in ahead(iter(range(1000))):
            raise KeyboardInterrupt
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_what_was_put_is_there_at_the_end_and_for_the_one_who_asks_at_once():
    store = Slow()
    with behind(store) as kept:
        kept.put("a", {"x": np.arange(3)})
        assert "a" not in store.kept  # it is being written
        assert kept.get("a") is not None
        kept.put("b", {"x": np.arange(4)})
    assert list(store.kept) == ["a", "b"]
    assert threading.current_thread() not in store.threads


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_an_interrupted_run_keeps_the_batch_that_was_being_written(tmp_path, stop):
    run = Run.open(tmp_path / "run", {"model": "m"})
    with pytest.raises(stop), behind(run) as kept:
        kept.put("scores-1", {"x": np.zeros(2_000_000)})
        raise stop
    assert run.get("scores-1")["x"].shape == (2_000_000,)
    assert not [path for path in (run.folder / "parts").iterdir() if path.suffix == ".tmp"]


def test_a_full_disk_is_an_error_at_the_next_batch_and_at_the_end():
    store = Slow(full())
    with pytest.raises(OSError, match="No space"), behind(store) as kept:
        kept.put("a", {})
        kept.put("b", {})
        pytest.fail("a batch was computed for a disk that is full")
    with pytest.raises(OSError, match="No space"), behind(store) as kept:
        kept.put("a", {})


def test_an_error_of_the_run_says_that_its_last_batch_was_not_kept_either():
    with pytest.raises(ValueError, match="model") as caught, behind(Slow(full())) as kept:
        kept.put("a", {})
        raise ValueError("the model broke")
    assert "No space left" in caught.value.__notes__[0]


def test_a_users_store_is_only_called_from_the_users_thread():
    """SQLite's connections refuse other threads."""
    store = Slow()
    store.in_background = False
    with behind(store) as kept:
        kept.put("a", {})
        assert kept is store
    assert store.threads == {threading.current_thread()}
