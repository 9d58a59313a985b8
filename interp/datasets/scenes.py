"""Synthetic scenes with exact masks: 126 shaded objects over photographs and textures, captions and questions."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageEnhance

from interp.plugins import data_folder
from interp.types import Sample, Target

SPLITS = ("train", "validation", "test")
SIZE = 192
HELD_OUT = 10  # one pair of objects in so many never occurs in training
VISIBLE = 0.6  # the share of every object that stays visible
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven")

DESCRIBE = (
    "Describe the image in detail.",
    "Describe the image.",
    "What can you see in this picture?",
    "What is in the image?",
    "Give a short description of the scene.",
    "Tell me what the picture shows.",
)
_CAPTIONS = (
    "There is {list}.",
    "There is {list} in the image.",
    "The image shows {list}.",
    "The picture shows {first} together with {rest}.",
    "I can see {list}.",
    "In this picture there is {first}. There is also {rest}.",
    "{List} can be seen.",
    "{First} and {rest}.",
    "This is a scene with {list}.",
    "A photo of {list}.",
    "You can see {first} here, and also {rest}.",
    "In the scene we find {list}.",
    "{First} appears together with {rest}.",
    "The scene contains {list}.",
)


@dataclass(frozen=True)
class Scene:
    """One scene: its image, the nouns in it, and each one's visible mask. The order says nothing about position."""

    image: UInt8[np.ndarray, "height width 3"]
    nouns: tuple[str, ...]
    masks: Bool[np.ndarray, "noun height width"]


def folder() -> Path:
    """Where sprites and backgrounds lie: ``data/scenes``, or ``$INTERP_DATA/scenes``."""
    return data_folder() / "scenes"


@functools.cache
def _objects() -> dict[str, tuple[str, Image.Image]]:
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
def _backgrounds() -> tuple[Image.Image, ...]:
    return tuple(Image.open(p).convert("RGB") for p in sorted((folder() / "backgrounds").glob("*.jpg")))


def nouns() -> tuple[str, ...]:
    """The names of all objects, sorted."""
    return tuple(_objects())


def kinds() -> dict[str, str]:
    """Noun -> kind of thing (``animal``, ``fruit``, ...)."""
    return {noun: kind for noun, (kind, _) in _objects().items()}


@functools.cache
def _kinds() -> tuple[str, ...]:
    return tuple(sorted(set(kinds().values())))


@functools.cache
def held_out(a: str, b: str) -> bool:
    """Whether this pair of objects never occurs together in training (about one pair in ten)."""
    digest = hashlib.sha256("+".join(sorted((a, b))).encode()).digest()
    return digest[0] * 256 + digest[1] < 65536 // HELD_OUT


def generator(split: str, index: int, seed: int = 0) -> np.random.Generator:
    """The random stream of one scene. Streams of different splits, indices and seeds are disjoint."""
    if split not in SPLITS:
        raise ValueError(f"no split {split!r} of scenes; there are: {', '.join(SPLITS)}")
    return np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index]))


def choose(rng: np.random.Generator, split: str, counts: tuple[int, int] = (2, 5)) -> tuple[str, ...]:
    """``counts[0]`` to ``counts[1]`` different nouns in random order; none of the held-out pairs in training."""
    wanted, chosen = int(rng.integers(counts[0], counts[1] + 1)), []
    pool = nouns()
    while len(chosen) < wanted:
        noun = pool[int(rng.integers(len(pool)))]
        if noun not in chosen and not (split == "train" and any(held_out(noun, other) for other in chosen)):
            chosen.append(noun)
    return tuple(chosen)


def _background(rng: np.random.Generator, size: int) -> Image.Image:
    picture = _backgrounds()[rng.integers(len(_backgrounds()))]
    side = int(rng.uniform(0.4, 1.0) * picture.width)
    x, y = (int(rng.integers(0, picture.width - side + 1)) for _ in range(2))
    image = picture.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tint = Image.new("RGB", (size, size), tuple(int(c) for c in rng.integers(40, 220, 3)))
    return Image.blend(image, tint, float(rng.uniform(0.0, 0.5)))


def _sprite(rng: np.random.Generator, noun: str, side: float) -> Image.Image:
    sprite = _objects()[noun][1]
    scale = side / max(sprite.size)
    sprite = sprite.resize(
        (max(4, round(sprite.width * scale)), max(4, round(sprite.height * scale))), Image.Resampling.BILINEAR
    )
    if rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sprite = sprite.rotate(float(rng.uniform(-15, 15)), Image.Resampling.BILINEAR, expand=True)
    alpha = sprite.getchannel("A")
    sprite = ImageEnhance.Brightness(sprite.convert("RGB")).enhance(float(rng.uniform(0.8, 1.15)))
    sprite.putalpha(alpha)
    return sprite


def compose(
    rng: np.random.Generator, chosen: Sequence[str], size: int = SIZE, sides: tuple[float, float] = (0.32, 0.6)
) -> Scene:
    """A scene of ``size`` x ``size`` pixels; later objects lie in front, at least 60 % of each stays visible.

    Objects are ``sides`` of the image's side long, log-uniformly. A mask holds the pixels where the object's alpha is
    at least one half and no object in front has such an alpha.
    """
    image = _background(rng, size)
    masks: list[np.ndarray] = []
    areas: list[int] = []
    for noun in chosen:
        side = size * float(np.exp(rng.uniform(*np.log(sides))))
        for attempt in range(200):
            sprite = _sprite(rng, noun, side * 0.985**attempt)
            x, y = (int(rng.integers(0, max(1, size - extent + 1))) for extent in sprite.size)
            mask = np.zeros((size, size), bool)
            alpha = np.asarray(sprite.getchannel("A"))[: size - y, : size - x]
            mask[y : y + alpha.shape[0], x : x + alpha.shape[1]] = alpha >= 128
            if all((m & ~mask).sum() >= VISIBLE * a for m, a in zip(masks, areas, strict=True)):
                break
        else:
            raise RuntimeError(f"found no place for {noun!r} beside {list(chosen[: len(masks)])} in {size} pixels")
        image.paste(sprite, (x, y), sprite)
        masks = [m & ~mask for m in masks] + [mask]
        areas.append(int(mask.sum()))
    return Scene(np.asarray(image), tuple(chosen), np.stack(masks))


def article(noun: str) -> str:
    """``a dog``, ``an apple``."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def enumerate_nouns(chosen: Sequence[str]) -> str:
    """``a dog, an apple and a bus``."""
    named = [article(noun) for noun in chosen]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def caption(rng: np.random.Generator, chosen: Sequence[str]) -> str:
    """A caption that names all the nouns, in an order of its own."""
    order = [chosen[int(i)] for i in rng.permutation(len(chosen))]
    templates = [t for t in _CAPTIONS if len(order) > 1 or "{rest}" not in t]
    text = {"list": enumerate_nouns(order), "first": article(order[0]), "rest": enumerate_nouns(order[1:] or order)}
    text |= {key.capitalize(): value[0].upper() + value[1:] for key, value in text.items()}
    return templates[rng.integers(len(templates))].format(**text)


def question(rng: np.random.Generator, chosen: Sequence[str]) -> tuple[str, str]:
    """A question about the scene and its answer: existence, kind, number, the rest."""
    order = [chosen[int(i)] for i in rng.permutation(len(chosen))]
    form = rng.integers(5)
    if form == 0:
        return f"Is there {article(order[0])} in the image?", f"Yes, there is {article(order[0])}."
    if form == 1:
        absent = [noun for noun in nouns() if noun not in chosen]
        noun = absent[rng.integers(len(absent))]
        return f"Is there {article(noun)} in the image?", f"No, there is no {noun}. There is {enumerate_nouns(order)}."
    if form == 2:
        kind = kinds()[order[0]] if rng.random() < 0.8 else _kinds()[rng.integers(len(_kinds()))]
        found = [noun for noun in order if kinds()[noun] == kind]
        asked = f"Is there any {kind} in the picture?" if kind != "other" else "What do you see?"
        if kind == "other":
            return asked, f"I see {enumerate_nouns(order)}."
        return asked, f"Yes, {enumerate_nouns(found)}." if found else f"No, but there is {enumerate_nouns(order)}."
    if form == 3:
        count = f"There {'is' if len(order) == 1 else 'are'} {_NUMBERS[len(order)]}"
        return "How many objects are there?", f"{count}: {enumerate_nouns(order)}."
    if len(order) == 1:
        return "Name the objects.", f"{article(order[0]).capitalize()}."
    return f"What else is there besides the {order[0]}?", f"There is also {enumerate_nouns(order[1:])}."


def sample(split: str, index: int, seed: int = 0, size: int = SIZE) -> Sample:
    """Scene ``index`` of a split: image, "Describe the image in detail.", a reference caption, one target per noun."""
    rng = generator(split, index, seed)
    chosen = choose(rng, split)
    answer = caption(rng.spawn(1)[0], chosen)  # a stream of its own: compose draws as often as rounding has it
    scene = compose(rng, chosen, size)
    targets = tuple(Target(noun, mask) for noun, mask in zip(scene.nouns, scene.masks, strict=True))
    return Sample(f"{split}-{seed}-{index:06d}", scene.image, DESCRIBE[0], answer, targets)


def load(
    root: str | None = None, split: str = "test", samples: int | None = None, seed: int = 0, size: int = SIZE
) -> Iterator[Sample]:
    """The first ``samples`` scenes of a split (500 unless told), made as they are asked for; the same on every machine.

    ``root`` is not used: scenes are made, not read.

    Raises:
        ValueError: no such split.
    """
    generator(split, 0, seed)  # an unknown split fails here, not at the first scene
    return (sample(split, i, seed, size) for i in range(500 if samples is None else samples))
