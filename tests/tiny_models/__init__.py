"""A tiny model of random weights for each family: ``tiny_models/NAME.py`` with ``build() -> (model, processor)``."""

import importlib


def build(family, seed=0, **options):
    """(model, processor) of the family of that name; the same for the same seed."""
    return importlib.import_module(f"tiny_models.{family}").build(seed, **options)
