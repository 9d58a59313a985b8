"""A pickle from somebody else is refused where reading it would not end; others come back as they are."""

import pickle

import pytest

from interp.datasets._pickles import UnsafePickle, check_size, read_pickle


def nested(depth, mutable=False):
    """A pickle of t = (t, t) again and again: 2^depth values, of which nothing is stored twice."""
    value = ("a",) if not mutable else ["a"]
    for _ in range(depth):
        value = (value, value) if not mutable else [value, value]
    return value


@pytest.mark.parametrize("protocol", range(6))
def test_a_small_pickle_that_would_take_minutes_is_refused_at_once(protocol):
    data = pickle.dumps(nested(60), protocol)
    assert len(data) < 2000
    with pytest.raises(UnsafePickle, match="unfolds to more than"):
        read_pickle(data, "refs.p")


def test_a_key_that_would_take_for_ever_to_hash_is_not_hashed():
    key = pickle.dumps(nested(60), 2)[2:-1]
    for data in (b"\x80\x02}" + key + b"K\x01s.", b"\x80\x04\x8f(" + key + b"\x90."):  # of a dict, of a set
        with pytest.raises(UnsafePickle, match="unfolds"):
            read_pickle(data, "refs.p")


def test_lists_that_hold_each_other_or_themselves_are_refused():
    with pytest.raises(UnsafePickle, match="unfolds"):
        check_size(pickle.dumps(nested(60, mutable=True)))
    own = [1, 2]
    own.append(own)
    with pytest.raises(UnsafePickle, match="holds itself"):
        read_pickle(pickle.dumps(own), "refs.p")


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_back_as_they_were_whatever_they_share(protocol):
    shared, box = ["a", "b"], (1.5, 2, 3, 4)
    value = [
        {"tokens": shared, "again": shared, "box": box, "boxes": [box] * 50, "empty": [(), [], {}, None, True]},
        {"set": {1, "x"}, "frozen": frozenset([(1, 2)]), "big": 10**30, "bytes": b"z", "é": -1},
        *({"sent_id": i, "sent": f"the dog {i}"} for i in range(3000)),
    ]
    if protocol < 3:
        del value[1]["bytes"]
    assert read_pickle(pickle.dumps(value, protocol), "refs.p") == value
