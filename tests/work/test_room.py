"""Arrays that lie in files hold what arrays in memory hold."""

import gc
import os

import numpy as np
import pytest

from interp.work import room as rooms


@pytest.mark.parametrize("small", [0, 1 << 20])
def test_an_array_in_a_file_is_an_array(small, tmp_path, monkeypatch):
    monkeypatch.setattr(rooms, "SMALL", small)
    rng = np.random.default_rng(0)
    wide, tall = rooms.room((30, 7), np.uint8, tmp_path), rooms.by_column(50, (3, 4), np.float32, tmp_path)
    expected = [rng.integers(0, 9, wide.shape).astype(np.uint8), rng.normal(size=tall.shape).astype(np.float32)]
    rooms.put(wide[:10], expected[0][:10])
    rooms.put(wide[10:], expected[0][10:])
    for rows in (slice(0, 20), slice(20, 21), slice(21, 50), slice(50, 50)):
        rooms.put(tall[rows], expected[1][rows])
    flat = tall.reshape(50, 12)
    assert np.shares_memory(flat, tall)
    for part, same in (
        (wide, expected[0]), (wide[3:9], expected[0][3:9]), (wide[:, 2:4], expected[0][:, 2:4]),
        (tall, expected[1]), (tall[5:8], expected[1][5:8]), (flat[:, 3:6], expected[1].reshape(50, 12)[:, 3:6]),
        (flat[7:40, 3:4], expected[1].reshape(50, 12)[7:40, 3:4]), (flat[:, :0], expected[1].reshape(50, 12)[:, :0]),
        (flat[::2, ::3], expected[1].reshape(50, 12)[::2, ::3]),
    ):  # fmt: skip
        found = rooms.taken(part)
        assert found.flags.c_contiguous and found.dtype == same.dtype
        np.testing.assert_array_equal(found, same)
        np.testing.assert_array_equal(part, same)  # whoever does not read it in pieces sees the same


def test_a_file_takes_no_name_and_goes_with_its_array(tmp_path, monkeypatch):
    monkeypatch.setattr(rooms, "SMALL", 0)
    gc.collect()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    made = rooms.by_column(10, (4,), np.float32, tmp_path)
    view = made[3:]
    del made
    gc.collect()
    assert view.sum() == 0 and list(tmp_path.iterdir()) == []
    del view
    gc.collect()
    assert not before or len(os.listdir("/proc/self/fd")) == before
