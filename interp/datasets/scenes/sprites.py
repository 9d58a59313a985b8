"""The sprites and backgrounds that scenes are made of, and the nouns that name the sprites."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from PIL import Image

from interp.plugins import data_folder


def folder() -> Path:
    """Where sprites and backgrounds lie: ``data/scenes``, or ``$INTERP_DATA/scenes``."""
    return data_folder() / "scenes"


@functools.cache
def objects() -> dict[str, tuple[str, Image.Image]]:
    """Noun -> (kind, RGBA sprite cut to its outline)."""
    home = folder()
    if not (home / "sprites.webp").is_file():
        raise FileNotFoundError(f"no sprites in {home}; run from a clone, or set INTERP_DATA to its data/ folder")
    index = json.loads((home / "sprites.json").read_text())
    sheet, cell, columns = Image.open(home / "sprites.webp").convert("RGBA"), index["cell"], index["columns"]
    objects, visible = {}, [255 * (a > 20) for a in range(256)]
    for k, (noun, about) in enumerate(index["objects"].items()):
        x, y = k % columns * cell, k // columns * cell
        sprite = sheet.crop((x, y, x + cell, y + cell))
        objects[noun] = about["kind"], sprite.crop(sprite.getchannel("A").point(visible).getbbox())
    return objects


@functools.cache
def backgrounds() -> tuple[Image.Image, ...]:
    return tuple(Image.open(p).convert("RGB") for p in sorted((folder() / "backgrounds").glob("*.jpg")))


def nouns() -> tuple[str, ...]:
    """The names of all objects, sorted."""
    return tuple(objects())


def kinds() -> dict[str, str]:
    """Noun -> kind of thing (``animal``, ``fruit``, ...)."""
    return {noun: kind for noun, (kind, _) in objects().items()}


@functools.cache
def all_kinds() -> tuple[str, ...]:
    return tuple(sorted(set(kinds().values())))
