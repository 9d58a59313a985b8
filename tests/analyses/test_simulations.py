"""Where there is nothing to find, no metric finds more than it says; a head that looks at things is found."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from interp.datasets import scenes

SCRIPT = Path(__file__).parents[2] / "analyses" / "simulations.py"

ERRORS = 4
"""Standard errors that a rate may lie above 0.05: hundreds are compared."""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("simulations", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rates(script, law, images, sets, heads=6):
    known = list(scenes.load(samples=2 * images)) if law == "scenes" else []
    rows = [row for seed in range(sets) for row in script.one_set(law, images, heads, 10, seed, known)]
    found = script.table(pd.DataFrame(rows))
    assert set(found["kind"]) == set(script.KINDS)
    salient = (found["kind"] == "thing") & (found["test"] == "things")
    return found[~salient], found[salient]


def above(found, sets):
    """The rates that lie above 0.05 by more than chance; heads of one set share their masks."""
    bar = 0.05 + ERRORS * np.maximum(found["error"], np.sqrt(0.05 * 0.95 / sets / 6))
    return found[found["rate"] > bar]


@pytest.mark.parametrize("law", ["scenes", "lognormal"])
def test_nothing_is_found_too_often_in_any_metric(script, law):
    nothing, salient = rates(script, law, 24, 6)
    assert above(nothing, 6).empty
    assert (salient["rate"] > 0.9).all()


@pytest.mark.slow
@pytest.mark.parametrize("images", [16, 40, 200])
@pytest.mark.parametrize("law", ["scenes", "lognormal"])
def test_nothing_is_found_too_often_in_many_trials(script, law, images):
    nothing, _ = rates(script, law, images, 60)
    assert above(nothing, 60).empty
