"""Plug-ins that another package adds by entry points, without a change in this repository."""

from __future__ import annotations

import sys

import pytest

from interp import plugins


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A package of a lab, installed beside this one: a metric and a data set, and a name that is taken already."""
    about = tmp_path / "lab-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[interp.metrics]\nlab_mass = lab_mass\npointing_game = lab_mass\n[interp.datasets]\nlab_data = lab_broken\n"
    )
    (tmp_path / "lab_mass.py").write_text('"""Mass, as the lab has it."""\nfrom interp.metrics.mass_in_mask import *\n')
    (tmp_path / "lab_broken.py").write_text('"""Broken."""\nimport nothing_of_the_kind\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("lab_mass", None)


def test_a_packages_metric_is_found_by_its_name_listed_and_described(lab):
    assert "lab_mass" in plugins.names("metrics")
    assert plugins.about("metrics", "lab_mass") == "Mass, as the lab has it."
    assert plugins.get("metrics", "lab_mass").higher_is_better


def test_a_package_cannot_change_what_a_name_of_the_toolkit_means(lab):
    assert plugins.get("metrics", "pointing_game").__name__ == "interp.metrics.pointing_game"


def test_listing_imports_no_plug_in(lab):
    assert plugins.about("datasets", "lab_data") == "Broken."
    with pytest.raises(ImportError, match="nothing_of_the_kind"):
        plugins.get("datasets", "lab_data")
