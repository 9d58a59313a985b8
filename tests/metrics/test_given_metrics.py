"""A metric of one's own: as a function, a module or a file; and what tells its stored scores from another's."""

from __future__ import annotations

import types

import pytest
import torch

from interp.metrics import mass_in_mask
from interp.metrics._given import metric_of, source_of

MAPS = torch.rand(2, 1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
MASKS = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])


def share(maps, masks):
    """The share of the map in the mask."""
    return (maps * masks[:, None, None]).sum((-2, -1)) / maps.sum((-2, -1))


def test_a_function_of_maps_and_masks_is_a_metric():
    name, metric = metric_of(share)
    assert name == "share" and metric.higher_is_better and metric.uses_mask and not metric.raw
    scores = metric.score(MAPS, MASKS, MASKS)
    torch.testing.assert_close(scores[0], mass_in_mask.score(MAPS, MASKS, MASKS)[0])
    assert scores[1].isnan().all()  # an empty mask is undefined
    assert metric.chance(MASKS).isnan().all()


def test_a_function_says_by_attributes_what_it_is():
    def far(maps, masks, others):
        return maps.flatten(-2).std(-1)

    far.higher_is_better, far.uses_mask, far.raw = False, False, True
    _, metric = metric_of(far)
    assert (metric.higher_is_better, metric.uses_mask, metric.raw) == (False, False, True)
    assert metric.score(MAPS, MASKS, MASKS).isfinite().all()


def test_a_file_and_a_module_are_taken_as_those_of_the_toolkit(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from interp.metrics.mass_in_mask import *\nfrom interp.metrics.mass_in_mask import score, chance\n"
    )
    for given in (path, str(path), mass_in_mask):
        name, metric = metric_of(given)
        assert name == ("mass_in_mask" if given is mass_in_mask else "mine")
        torch.testing.assert_close(
            metric.score(MAPS, MASKS, MASKS), mass_in_mask.score(MAPS, MASKS, MASKS), equal_nan=True
        )


def test_stored_scores_of_a_metric_are_not_taken_for_those_of_a_changed_one(tmp_path):
    def times(factor):
        def score(maps, masks):
            return share(maps, masks) * factor

        return score

    path = tmp_path / "mine.py"
    seen = {source_of(metric_of(given)[1]) for given in (share, times(1), times(2), mass_in_mask, "pointing_game")}
    body = "from interp.metrics.mass_in_mask import *\nfrom interp.metrics.mass_in_mask import score, chance\n"
    for text in (body, body + "def score(maps, masks, others): return maps.amax((-2, -1))\n"):
        path.write_text(text)
        seen.add(source_of(metric_of(path)[1]))
    assert len(seen) == 7
    assert source_of(metric_of(times(2))[1]) == source_of(metric_of(times(2))[1])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (7, "cannot take int for a metric; expected a name"),
        (lambda maps: maps, "takes 1 arguments; expected"),
        (
            types.ModuleType("empty"),
            "module empty is no metric: it lacks higher_is_better, raw, uses_mask, limits, score",
        ),
        ("pointing_gane", "did you mean 'pointing_game'"),
        ("/nowhere/mine.py", "no file /nowhere/mine.py"),
    ],
)
def test_what_is_no_metric_is_told_what_one_is(given, says):
    with pytest.raises((ValueError, LookupError, OSError), match=says):
        metric_of(given)


def test_a_function_of_another_shape_is_named_with_the_shape_that_was_expected():
    def flat(maps, masks):
        return maps.mean()

    with pytest.raises(ValueError, match=r"flat gave \(\) for maps \(2, 1, 3, 2, 2\); expected .*\(2, 1, 3\)"):
        metric_of(flat)[1].score(MAPS, MASKS, MASKS)


def test_a_file_that_cannot_be_run_is_named_with_the_reason(tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(ValueError, match=r"broken.py cannot be run: ZeroDivisionError"):
        metric_of(tmp_path / "broken.py")
