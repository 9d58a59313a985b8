"""What the segmenters share that work on a phrase's map."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from interp.types import Prompts


def maps_of(prompts: Prompts, size: tuple[int, int], name: str) -> Float[Tensor, "phrase height width"]:
    """The prompts' maps.

    Raises:
        ValueError: there are none, or they are of another size than the image.
    """
    if prompts.maps is None:
        raise ValueError(f"{name} works on the phrases' maps and these prompts have none; take sam, or give maps")
    if tuple(prompts.maps.shape[1:]) != tuple(size):
        raise ValueError(
            f"the maps have (height, width) {tuple(prompts.maps.shape[1:])} and the image {tuple(size)}; expected maps "
            "over the image's own pixels"
        )
    return prompts.maps


def parts_at(
    masks: Bool[np.ndarray, "phrase height width"], points: Float[np.ndarray, "phrase point 2"]
) -> Bool[np.ndarray, "phrase height width"]:
    """Of each mask the connected parts (8 neighbours) that hold a point; the whole mask where there is no point."""
    from scipy.ndimage import label

    kept = masks.copy()
    for i in np.flatnonzero(np.isfinite(points).all(-1).any(-1)):
        x, y = points[i][np.isfinite(points[i]).all(1)].astype(int).T
        named = label(masks[i], np.ones((3, 3)))[0]  # pyright: ignore[reportIndexIssue]
        kept[i] = np.isin(named, named[y, x][named[y, x] > 0])
    return kept
