"""The map itself, cut at a share of its range; needs no weights. With an argmax prompt, the part around the point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from interp.answer.pixels import above
from interp.segmenters._maps import maps_of, parts_at
from interp.types import Prompts, Proposals


@dataclass(frozen=True)
class Threshold:
    """Pixels that exceed the map's minimum by more than ``share`` of its range.

    ``connected`` keeps the parts that hold a point of the prompt, where there are points.
    """

    share: float = 0.5
    connected: bool = True
    name: str = "threshold"
    choice: str = "last"

    def embed(self, image: UInt8[np.ndarray, "height width 3"]) -> tuple[int, int]:
        """The image's (height, width): nothing else of it is used."""
        return image.shape[:2]  # type: ignore[return-value]

    def propose(self, embedded: tuple[int, int], prompts: Prompts, several: bool = True) -> Proposals:
        """One mask a phrase, empty where the map is constant or NaN; there is no score."""
        masks = above(maps_of(prompts, embedded, self.name), self.share)
        if self.connected:
            masks = parts_at(masks, prompts.points)
        return Proposals(masks[:, None], np.full((len(masks), 1), np.nan))


def load(checkpoint: str | None = None, device: str | None = None, share: float = 0.5, connected: bool = True):
    """The threshold; it has no weights.

    Raises:
        ValueError: a checkpoint was named, or a share outside 0..1.
    """
    if checkpoint is not None:
        raise ValueError(f"threshold has no weights; leave out the checkpoint {checkpoint!r}")
    if not 0 <= share < 1:
        raise ValueError(f"share is {share}; expected a share of the map's range, from 0 to below 1")
    return Threshold(share, connected)
