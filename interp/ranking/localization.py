"""Which heads localise, without any mask: the ranking of Kang et al. (CVPR 2025, arXiv 2503.06287, section 3).

A head counts as localising on an observation (here: a phrase of one image) if it looks at the image much and in few
blobs. Heads are ranked by how often that happens.

The published code differs from the paper in one step. It sorts the sums and takes their elbow rightly, but then uses
the number of the head that stands at the elbow as a threshold on the heads' numbers: what is kept depends on how heads
are numbered, and little on how much they look at the image. ``published=True`` does the same, for comparison. Its
spatial entropy is that of relu(S - mean), as here.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from interp.types import layer_numbers
from interp.work.room import taken

BLOCK = 1 << 20
"""Scores that are in memory at a time."""


def above_elbow(sums: Float[np.ndarray, "phrase head"]) -> Bool[np.ndarray, "phrase head"]:
    """True for the heads whose sum is at least the elbow of the *sorted* sums; NaN heads are False.

    The elbow of the ascending curve (i, s_i) is the point farthest from the chord between its first and last point
    (Satopaa et al. 2011, "Kneedle"). The distance to a line is proportional to the vertical one, so the axes' scales do
    not matter. If all sums are equal, every head is kept.

    >>> above_elbow(np.array([[0.11, 0.52, 0.1, 0.13, 0.5, 0.12]])).tolist()  # the elbow is 0.13
    [[False, True, False, True, True, False]]
    """
    elbow, _ = _elbow(sums)
    with np.errstate(invalid="ignore"):
        return sums >= elbow[:, None]


def above_elbow_as_published(sums: Float[np.ndarray, "phrase head"]) -> Bool[np.ndarray, "phrase head"]:
    """True for the heads whose *number* is at least that of the head at the elbow, as in the published code; NaN heads
    are False. For comparison alone: heads are numbered layer by layer, so this leaves out early layers."""
    _, number = _elbow(sums)
    return (np.arange(sums.shape[1]) >= number[:, None]) & np.isfinite(sums)


def _elbow(sums: Float[np.ndarray, "phrase head"]) -> tuple[Float[np.ndarray, " phrase"], Int[np.ndarray, " phrase"]]:
    """The sum at the elbow of each row's sorted sums, NaN without sums, and which head's it is."""
    if sums.shape[1] == 0:
        return np.full(len(sums), np.nan), np.zeros(len(sums), dtype=np.int64)
    order = np.argsort(sums, axis=1, kind="stable")  # NaN last
    ordered = np.take_along_axis(sums, order, axis=1)
    n = np.isfinite(ordered).sum(1)
    rows, last = np.arange(len(sums)), np.maximum(n - 1, 0)
    with np.errstate(invalid="ignore"):
        along = np.arange(sums.shape[1]) / np.maximum(last, 1)[:, None]
        chord = ordered[:, :1] + along * (ordered[rows, last] - ordered[:, 0])[:, None]
        distance = np.where(np.isfinite(ordered), np.abs(ordered - chord), -1.0)
        # A distance that is only rounding is no elbow.
        size = np.nan_to_num(ordered[rows, last] - ordered[:, 0])[:, None]
        distance[distance <= 1e-6 * size] = 0.0
    place = distance.argmax(1)
    return ordered[rows, place], order[rows, place]


def mask_free(
    image_mass: Float[np.ndarray, "phrase layer head"],
    entropy: Float[np.ndarray, "phrase layer head"],
    *,
    top: int = 10,
    first_layer: int = 0,
    published: bool = False,
    layers: tuple[int, ...] = (),
) -> pd.DataFrame:
    """One row per head, best first: ``layer, head, frequency, image_mass, entropy, rank``.

    Per phrase, the heads whose share of attention on the image is at least the elbow (`above_elbow`) are put in the
    order of their spatial entropy, least first; heads of equal entropy (one blob is 0) by larger share. ``frequency``
    is the share of the phrases for which a head is among the first ``top`` of them (the paper: 10, on 1,000 samples).
    ``image_mass`` and ``entropy`` are means over phrases; heads of equal frequency rank by entropy.

    The published code also leaves out the first two layers and maps that attend to the last row; here every head takes
    part from ``first_layer`` on. ``published``: its threshold in place of the elbow (`above_elbow_as_published`); with
    ``first_layer=2`` only the maps that attend to the last row remain as a difference. ``layers``: the layers' numbers,
    if they are not 0, 1, ...

    Raises:
        ValueError: ``image_mass`` and ``entropy`` of different shapes, or ``top`` below 1.
    """
    if image_mass.shape != entropy.shape or top < 1:
        raise ValueError(
            f"got image_mass {image_mass.shape}, entropy {entropy.shape}, top={top}; expected one shape and top >= 1"
        )
    phrases, count, heads = image_mass.shape
    layer, head = np.divmod(np.arange(count * heads), heads)
    layer = np.array(layer_numbers(layers, count), dtype=np.int64)[layer]
    selected, observed = np.zeros(count * heads, dtype=np.int64), 0
    step = max(BLOCK // max(count * heads, 1), 1)
    for first in range(0, phrases, step):
        mass, scatter = (
            taken(x[first : first + step]).reshape(-1, count * heads).astype(np.float64) for x in (image_mass, entropy)
        )
        mass = np.where(layer >= first_layer, mass, np.nan)
        kept = (above_elbow_as_published if published else above_elbow)(mass) & np.isfinite(scatter)
        order = np.lexsort((-np.nan_to_num(mass), np.where(kept, scatter, np.inf)), axis=1)
        selected += (kept & (np.argsort(order, axis=1) < top)).sum(0)
        observed += kept.any(1).sum()
    frame = pd.DataFrame(
        {
            "layer": layer,
            "head": head,
            "frequency": selected / observed if observed else np.full(count * heads, np.nan),
            "image_mass": _mean(image_mass),
            "entropy": _mean(entropy),
        }
    )
    frame = frame.sort_values(["frequency", "entropy"], ascending=[False, True], kind="stable", ignore_index=True)
    frame["rank"] = np.arange(1, len(frame) + 1)
    return frame


def _mean(values: Float[np.ndarray, "phrase layer head"]) -> Float[np.ndarray, " any"]:
    flat, found = values.reshape(len(values), values.shape[1] * values.shape[2]), []
    for columns in np.array_split(np.arange(flat.shape[1]), max(-(-values.size // BLOCK), 1)):
        own = taken(flat[:, columns[0] : columns[-1] + 1] if len(columns) else flat[:, :0])
        finite = np.isfinite(own)
        with np.errstate(invalid="ignore"):
            found.append(np.where(finite, own, 0).sum(0, dtype=np.float64) / finite.sum(0))
    return np.concatenate(found)
