"""What `import interp` and the first name of it load: a notebook waits for torch and transformers, for nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = {
    "diffusers",
    "inflect",
    "matplotlib",
    "peft",
    "scipy.stats",
    "seaborn",
    "sklearn",
    "spacy",
    "typeguard",
}
"""Modules of which each takes a noticeable part of a second, and which ranking heads does not need to begin."""


def loaded_by(code: str) -> set[str]:
    said = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_interp_alone_waits_for_nothing():
    assert not loaded_by("import interp") & {*SLOW, "torch", "transformers", "numpy", "pandas"}


@pytest.mark.parametrize("name", ["rank", "capture", "load", "explore", "segment"])
def test_a_first_call_waits_for_torch_and_transformers_and_nothing_else_that_is_slow(name):
    found = loaded_by(f"import interp; interp.{name}")
    drawn = {"matplotlib"} if name in ("explore", "segment") else set()
    assert "torch" in found
    assert found & SLOW <= drawn
