"""Versions of what can change a result."""

from __future__ import annotations

import importlib.metadata
import platform

VERSIONED = ("interp", "torch", "transformers", "diffusers", "peft", "pillow", "spacy", "numpy", "pandas", "pyarrow")


def versions() -> dict[str, str]:
    """Version of Python and of each package whose version can change a result; ``absent`` if not installed."""
    found = {"python": platform.python_version()}
    for package in VERSIONED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found
