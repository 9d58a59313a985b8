"""A tiny model of random weights for each family: ``tiny_models/NAME.py`` with ``build() -> (model, processor)``."""

import importlib

from interp import plugins


def build(family, seed=0, **options):
    """(model, processor) of the family of that name; the same for the same seed."""
    return importlib.import_module(f"tiny_models.{family}").build(seed, **options)


def cases():
    """Name of the case -> (family, processor options), of every family as it is and in its ``VARIANTS``."""
    found = {}
    for name in plugins.names("models"):
        for options in ({}, *getattr(importlib.import_module(f"tiny_models.{name}"), "VARIANTS", ())):
            told = [k if v is True else f"{k}={v}" for k, v in list(options.items())[:1]]
            found[" ".join([name, *told])] = (name, options)
    return found
