"""Pictures of scenes: sprites put upon backgrounds, with the mask of each thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageEnhance, ImageOps

from interp.datasets.scenes.sprites import backgrounds, objects
from interp.datasets.scenes.things import COLOURS, Thing

SIZE = 192
VISIBLE = 0.6  # the share of every object that stays visible
TINT = 0.75  # how much of a tinted object has the tint's colour
HIDDEN = 0.05  # the share of an object that one in front must cover to be said to stand before it


@dataclass(frozen=True)
class Scene:
    """One scene: its image, the nouns in it, and each one's visible mask. The order says nothing about position.

    ``wholes``: the masks as they would be with nothing in front. A noun that stands there twice has one mask.
    """

    image: UInt8[np.ndarray, "height width 3"]
    nouns: tuple[str, ...]
    masks: Bool[np.ndarray, "noun height width"]
    wholes: Bool[np.ndarray, "noun height width"]


def _background(rng: np.random.Generator, size: int) -> Image.Image:
    picture = backgrounds()[rng.integers(len(backgrounds()))]
    side = int(rng.uniform(0.4, 1.0) * picture.width)
    x, y = (int(rng.integers(0, picture.width - side + 1)) for _ in range(2))
    image = picture.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tint = Image.new("RGB", (size, size), tuple(int(c) for c in rng.integers(40, 220, 3)))
    return Image.blend(image, tint, float(rng.uniform(0.0, 0.5)))


def _sprite(rng: np.random.Generator, noun: str, side: float, colour: str = "") -> Image.Image:
    sprite = objects()[noun][1]
    scale = side / max(sprite.size)
    sprite = sprite.resize(
        (max(4, round(sprite.width * scale)), max(4, round(sprite.height * scale))), Image.Resampling.BILINEAR
    )
    if rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sprite = sprite.rotate(float(rng.uniform(-15, 15)), Image.Resampling.BILINEAR, expand=True)
    alpha, brightness = sprite.getchannel("A"), float(rng.uniform(0.8, 1.15))
    sprite = tinted(sprite.convert("RGB"), colour) if colour else sprite.convert("RGB")
    sprite = ImageEnhance.Brightness(sprite).enhance(brightness)
    sprite.putalpha(alpha)
    return sprite


def tinted(picture: Image.Image, colour: str) -> Image.Image:
    """The picture in shades of a colour of ``COLOURS``, with a quarter of its own colours left."""
    middle = np.array(COLOURS[colour])
    dark, light = (middle * 0.3).astype(int), (middle + (255 - middle) * 0.6).astype(int)
    shades = ImageOps.colorize(picture.convert("L"), tuple(dark), tuple(light), tuple(middle))
    return Image.blend(picture, shades, TINT)


def compose(
    rng: np.random.Generator,
    chosen: Sequence[str],
    size: int = SIZE,
    sides: tuple[float, float] = (0.32, 0.6),
    colours: Sequence[str] = (),
    twice: int | None = None,
) -> Scene:
    """A scene of ``size`` x ``size`` pixels; later objects lie in front, at least 60 % of each stays visible.

    Objects are ``sides`` of the image's side long, log-uniformly. A mask holds the pixels where the object's alpha is
    at least one half and no object in front has such an alpha. ``colours``: each object's tint (``COLOURS``), or none.
    ``twice``: the number of the object that stands there twice.
    """
    image = _background(rng, size)
    order = [k for k in range(len(chosen)) for _ in range(1 + (k == twice))]
    masks: list[np.ndarray] = []
    wholes: list[np.ndarray] = []
    for k in order:
        side = size * float(np.exp(rng.uniform(*np.log(sides))))
        for attempt in range(200):
            sprite = _sprite(rng, chosen[k], side * 0.985**attempt, colours[k] if colours else "")
            x, y = (int(rng.integers(0, max(1, size - extent + 1))) for extent in sprite.size)
            mask = np.zeros((size, size), bool)
            alpha = np.asarray(sprite.getchannel("A"))[: size - y, : size - x]
            mask[y : y + alpha.shape[0], x : x + alpha.shape[1]] = alpha >= 128
            if all((m & ~mask).sum() >= VISIBLE * w.sum() for m, w in zip(masks, wholes, strict=True)):
                break
        else:
            raise RuntimeError(f"found no place for {chosen[k]!r} beside {list(chosen[:k])} in {size} pixels")
        image.paste(sprite, (x, y), sprite)
        masks = [m & ~mask for m in masks] + [mask]
        wholes.append(mask)
    return Scene(np.asarray(image), tuple(chosen), _by_object(masks, order), _by_object(wholes, order))


def _by_object(masks: Sequence[np.ndarray], order: Sequence[int]) -> Bool[np.ndarray, "noun height width"]:
    """The masks, with those of one object joined."""
    return np.stack(
        [np.any([m for m, k in zip(masks, order, strict=True) if k == one], 0) for one in dict.fromkeys(order)]
    )


def things_in(scene: Scene, colours: Sequence[str] = (), twice: int | None = None) -> tuple[Thing, ...]:
    """What words can tell of the scene's objects, from their masks; ``colours`` and ``twice`` as in `compose`."""
    height, width = scene.image.shape[:2]
    found = []
    for k, (noun, mask, whole) in enumerate(zip(scene.nouns, scene.masks, scene.wholes, strict=True)):
        y, x = (float(at.mean() + 0.5) for at in np.nonzero(mask))
        hides = [j for j in range(k) if (whole & scene.wholes[j]).sum() >= HIDDEN * scene.wholes[j].sum()]
        count = 1 + (k == twice)
        share = float(np.sqrt(whole.mean() / count))
        found.append(Thing(noun, x / width, y / height, share, colours[k] if colours else "", count, frozenset(hides)))
    return tuple(found)
