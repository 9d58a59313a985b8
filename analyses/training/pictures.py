"""Rendered scenes and close-ups of the training split, on disk and as a model sees them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from interp.datasets import scenes
from interp.datasets.scenes import Thing
from training.parts import Log

PIXELS, PATCH, SCENES, CLOSE_UPS = 96, 8, 24_000, 50_400
GRID = PIXELS // PATCH
PLAIN, SIDES = 0.2, (0.26, 0.6)  # the share of scenes with untinted things; the things' sides
CLOSE = 48  # side of a close-up in pixels: one or two objects at the size that they have in a scene
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's


def _small(image: np.ndarray, pixels: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((pixels, pixels), Image.Resampling.BICUBIC))


def scene(index: int) -> tuple[np.ndarray, tuple[Thing, ...]]:
    """Scene number ``index``, UInt8[PIXELS PIXELS 3], and its things; one in five has the things' own colours."""
    rng = scenes.generator("train", index)
    if rng.random() < PLAIN:
        made = scenes.compose(rng, scenes.choose(rng, "train", (1, 5)), sides=SIDES)
        return _small(made.image, PIXELS), scenes.things_in(made)
    made, things = scenes.tinted_scene(rng, "train", counts=(1, 5), sides=SIDES)
    return _small(made.image, PIXELS), things


def close_up(index: int) -> tuple[np.ndarray, tuple[Thing, ...]]:
    """Noun number ``index`` modulo their number, three times in ten with another one."""
    rng, pool = scenes.generator("train", 1_000_000 + index), scenes.nouns()
    chosen = [pool[index % len(pool)]]
    other = pool[rng.integers(len(pool))]
    if rng.random() < 0.3 and other != chosen[0] and not scenes.held_out(chosen[0], other):
        chosen.append(other)
    colours = scenes.colours_for(rng, "train", chosen, list(scenes.COLOURS)) if rng.random() > PLAIN else ()
    made = scenes.compose(rng, chosen, 2 * CLOSE, (0.52, 1.0), colours)
    return _small(made.image, CLOSE), scenes.things_in(made, colours)


def drawn(one: Callable[[int], Any], amount: int, log: Log, every: int, **about: Any) -> Iterator[tuple[int, Any]]:
    """(0, one(0)), (1, one(1)), ... made by all cores; each ``every`` of them is logged."""
    with Pool(os.cpu_count()) as pool:
        for i, made in enumerate(pool.imap(one, range(amount), chunksize=64)):
            yield i, made
            if i % every == 0:
                log(**about, done=i)


def render(work: Path, log: Log, name: str, one: Callable[[int], Any], pixels: int, amount: int) -> None:
    """WORK/NAME.npy (UInt8[picture pixels pixels 3]) and WORK/NAME.json (their things), of the training split."""
    images = np.lib.format.open_memmap(work / "partial.npy", "w+", np.uint8, (amount, pixels, pixels, 3))
    things = []
    for i, (image, chosen) in drawn(one, amount, log, 4000, part="render", pictures=name):
        images[i] = image
        things.append([{**asdict(t), "hides": sorted(t.hides)} for t in chosen])
    images.flush()
    (work / f"{name}.json").write_text(json.dumps(things))
    os.replace(work / "partial.npy", work / f"{name}.npy")


def render_scenes(work: Path, log: Log) -> None:
    """WORK/scenes.npy and WORK/scenes.json."""
    render(work, log, "scenes", scene, PIXELS, SCENES)


def render_close_ups(work: Path, log: Log) -> None:
    """WORK/close_ups.npy and WORK/close_ups.json."""
    render(work, log, "close_ups", close_up, CLOSE, CLOSE_UPS)


def normalised(images: np.ndarray) -> torch.Tensor:
    """Float[... 3 side side] from UInt8[... side side 3], as CLIP's processor gives it."""
    pixels = torch.from_numpy(images.astype(np.float32) / 255)
    return ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).movedim(-1, -3)


class Rendered:
    """Rendered training pictures with so few to so many things; text differs at each visit, not between runs.

    Pictures of untinted things come ``plain`` times in each round through them, the others once.
    """

    def __init__(self, work: Path, name: str = "scenes", things: tuple[int, int] = (1, 5), plain: int = 1) -> None:
        self.images = np.load(work / f"{name}.npy", mmap_mode="r")
        every = json.loads((work / f"{name}.json").read_text())
        self.numbers = [k for k, some in enumerate(every) if things[0] <= len(some) <= things[1]]
        if plain > 1:
            again = [k for k in self.numbers if not any(t["colour"] for t in every[k])] * (plain - 1)
            self.numbers = np.random.default_rng(plain).permutation(self.numbers + again).tolist()
        self.things = [tuple(Thing(**{**t, "hides": frozenset(t["hides"])}) for t in every[k]) for k in self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def image(self, visit: int) -> np.ndarray:
        """UInt8[side side 3]."""
        return self.images[self.numbers[visit % len(self)]]

    def __getitem__(self, visit: int) -> tuple[torch.Tensor, tuple[Thing, ...], np.random.Generator]:
        """Float[3 side side] normalised as CLIP's processor does, the things, and the visit's random stream."""
        return normalised(self.image(visit)), self.things[visit % len(self)], np.random.default_rng([visit, 7])
