"""A function's code as a key: the same in every process, another for whatever changes what it computes."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from interp.work.code import code_of


def made(value):
    def score(maps, masks):
        return maps.sum() * value

    return score


def test_the_code_is_the_same_for_the_same_values_and_another_for_other_ones():
    for one, other in ((1, 2), ("a", "b"), (np.zeros(2000), np.r_[np.zeros(1000), 1, np.zeros(999)]),
                       (torch.zeros(2), torch.ones(2)), ([1, {"a": made(1)}], [1, {"a": made(2)}])):  # fmt: skip
        assert code_of(made(one)) == code_of(made(one)) != code_of(made(other))


def test_a_decorator_brings_no_place_in_memory_into_the_key():
    def plain(maps, masks):
        return maps

    @functools.wraps(plain)
    def wrapped(*given):
        return plain(*given)

    assert code_of(wrapped) == code_of(plain) and " at 0x" not in code_of(wrapped)


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(ValueError, match="cannot be told apart"):
        code_of(made(object()))
