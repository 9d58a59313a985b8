"""Which samples a study sees: phrases of some kinds alone, and stored work that knows of which kind they were."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from interp.types import Sample, Skip, Target
from interp.work import samples
from interp.work.samples import of_kinds
from interp.work.store import key_of


def sample(name, *kinds):
    """A sample with a target of each kind."""
    mask = np.ones((2, 2), bool)
    targets = tuple(Target(f"thing {i}", mask, kind=kind) for i, kind in enumerate(kinds))
    return Sample(name, np.zeros((2, 2, 3), np.uint8), "What?", "An answer.", targets)


def test_phrases_of_other_kinds_are_left_out_and_what_could_not_be_read_is_not():
    some = [sample("a", "free", "place"), Skip("b", "broken"), sample("c", "order"), sample("d", "place", "place")]
    found = list(of_kinds(some, ["place"]))
    assert [getattr(s, "id", None) for s in found] == ["a", None, "d"] and found[1] == Skip("b", "broken")
    assert [[t.phrase for t in s.targets] for s in (found[0], found[2])] == [["thing 1"], ["thing 0", "thing 1"]]
    assert len(list(of_kinds(some, ["place", "order"]))) == 4


def test_a_kind_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match="no target is of kind 'plaace'; the kinds there are: free, place"):
        list(of_kinds([sample("a", "free", "place")], ["plaace"]))
    with pytest.raises(ValueError, match="this data set does not tell them"):
        list(of_kinds([sample("a", "", "")], ["free"]))


def test_stored_work_is_not_taken_for_that_of_another_kind():
    own = sample("a", "free")
    other = replace(own, targets=(replace(own.targets[0], kind="place"),))
    assert key_of({}, [own]) != key_of({}, [other])


def test_a_data_set_that_fits_into_memory_is_read_once(monkeypatch):
    """Each walk decodes every image."""
    walks = []

    def start():
        walks.append(0)
        for name in "abc":
            yield Sample(name, np.zeros((2, 2, 3), np.uint8), "")

    again = samples.held(start)
    assert [s.id for s in islice(again(), 2)] == ["a", "b"]  # not finished: counts as none
    assert [[s.id for s in again()] for _ in range(3)] == [["a", "b", "c"]] * 3
    assert len(walks) == 2
    monkeypatch.setattr(samples, "HELD", 20)
    again = samples.held(start)
    assert [[s.id for s in again()] for _ in range(2)] == [["a", "b", "c"]] * 2
    assert len(walks) == 4
