"""Random walker (Grady, IEEE PAMI 2006) on the image's colours, seeded from the map; needs no weights but scikit-image.

Pixels high on the map are seeds of the thing, pixels low on it seeds of the rest; each other pixel goes to the seeds
that a walker from it reaches first, borders being hard to cross.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from interp.answer.pixels import above
from interp.segmenters._maps import maps_of
from interp.types import Prompts, Proposals


@dataclass(frozen=True)
class RandomWalker:
    """Seeds above ``thing`` and below ``rest`` of the map's range; ``beta`` says how hard borders are to cross.

    Images with a side above ``longest`` pixels are walked at that size.
    """

    thing: float = 0.8
    rest: float = 0.3
    beta: float = 1000.0
    longest: int = 256
    name: str = "random_walker"
    choice: str = "last"

    def embed(self, image: UInt8[np.ndarray, "height width 3"]) -> tuple[tuple[int, int], np.ndarray]:
        """The image's (height, width) and its colours 0..1 at the size that is walked."""
        height, width = image.shape[:2]
        scale = min(1.0, self.longest / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = Image.fromarray(image).resize(size, Image.Resampling.BOX) if scale < 1 else image
        return (height, width), np.asarray(small, dtype=float) / 255

    def propose(
        self, embedded: tuple[tuple[int, int], np.ndarray], prompts: Prompts, several: bool = True
    ) -> Proposals:
        """One mask a phrase, empty where the map is constant or NaN; there is no score."""
        size, colours = embedded
        maps = maps_of(prompts, size, self.name)
        thing, rest = (_at(mask, colours.shape[:2]) for mask in (above(maps, self.thing), ~above(maps, self.rest)))
        defined = above(maps, self.thing).any((1, 2))
        masks = np.zeros((len(maps), *size), bool)
        for i in np.flatnonzero(defined):
            masks[i] = _at(self._walk(colours, thing[i], rest[i] & ~thing[i])[None], size)[0]
        return Proposals(masks[:, None], np.full((len(masks), 1), np.nan))

    def _walk(
        self,
        colours: Float[np.ndarray, "row col 3"],
        thing: Bool[np.ndarray, "row col"],
        rest: Bool[np.ndarray, "row col"],
    ) -> Bool[np.ndarray, "row col"]:
        """What the thing's seeds are reached from first."""
        from skimage.segmentation import random_walker

        if thing.all() or rest.all() or not thing.any() or not rest.any():
            return thing
        seeds = thing.astype(int) + 2 * rest
        if (seeds > 0).all():
            return thing
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it recommends a solver that is not installed
            return random_walker(colours, seeds, beta=self.beta, mode="cg_j", channel_axis=-1) == 1


def _at(masks: Bool[np.ndarray, "phrase height width"], size: tuple[int, ...]) -> Bool[np.ndarray, "phrase row col"]:
    """The masks at another size, nearest pixel."""
    if masks.shape[1:] == tuple(size):
        return masks
    resized = torch.nn.functional.interpolate(torch.from_numpy(masks)[None].float(), tuple(size), mode="nearest-exact")
    return resized[0].numpy() > 0.5


def load(checkpoint: str | None = None, device: str | None = None, **options: float) -> RandomWalker:
    """The random walker; it has no weights.

    Raises:
        ValueError: a checkpoint was named.
        ImportError: scikit-image is not installed.
    """
    if checkpoint is not None:
        raise ValueError(f"random_walker has no weights; leave out the checkpoint {checkpoint!r}")
    try:
        import skimage  # noqa: F401
    except ImportError as error:
        raise ImportError("random_walker needs scikit-image: pip install interp[eval]") from error
    return RandomWalker(**options)  # type: ignore[arg-type]
