"""A view as the page has it: plain values for JSON, maps and scores packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from interp.answer.maps import Heads, head_list
from interp.contracts import Metric
from interp.explorer.packing import Packed, bits_of, numbers, packed, picture, text_of
from interp.explorer.scores import Masks, scored
from interp.explorer.shown import Recording, Shown

SIDE = 640
"""Pixels of the shown image's longer side, at most."""
MASK_SIDE = 256
"""The same of masks."""


@dataclass
class Pictures:
    """Images of a page, each kept once, by what it holds."""

    sources: list[str] = field(default_factory=list)
    places: dict[bytes, int] = field(default_factory=dict)

    def place(self, image: UInt8[np.ndarray, "height width 3"]) -> int:
        """Where the image stands in ``sources``."""
        key = image.tobytes()
        if key not in self.places:
            self.places[key] = len(self.sources)
            self.sources.append(picture(image, SIDE))
        return self.places[key]


def panel_of(view: Shown, metrics: Mapping[str, Metric], heads: Heads, pictures: Pictures) -> dict[str, Any]:
    """The panel; ``ways`` holds one entry for each recording and normalisation."""
    height, width = view.image.shape[:2]
    small = _mask_size((height, width))
    layers, per_layer = view.layers, view.heads
    chosen = [(layers.index(head.layer), head.head) for head in head_list(heads, layers, per_layer)]
    masks = Masks(view.units[: view.phrases], view.targets, view.grid)
    return {
        "title": view.title,
        "group": view.group or view.title,
        "step": view.step,
        "image": pictures.place(view.image),
        "size": [height, width],
        "box": [float(x) for x in view.grid.box],
        "grid": [*view.grid.shape],
        "layers": [*layers],
        "heads": per_layer,
        "shown": [layer * per_layer + head for layer, head in chosen],
        "prompt": view.prompt,
        "answer": view.answer,
        "tokens": [_token_text(token) for token in view.tokens],
        "units": [
            {"text": " ".join(_token_text(unit.text).split()), "tokens": list(unit.tokens), "phrase": i < view.phrases}
            for i, unit in enumerate(view.units)
        ],
        "mask_size": [*small],
        "masks": {str(i): text_of(bits_of(mask, small)) for i, mask in masks.masks.items()},
        "peaks": None if view.peaks is None else _peaks(view.peaks, small),
        "peaks_by": view.peaks_by,
        "ways": [way for recording in view.recordings for way in _ways(recording, masks, metrics, chosen)],
    }


def _ways(
    recording: Recording, masks: Masks, metrics: Mapping[str, Metric], chosen: Sequence[tuple[int, int]]
) -> list[dict[str, Any]]:
    """Maps and scores of every unit, for each normalisation."""
    layer, head = (torch.tensor(index) for index in zip(*chosen, strict=True))
    found = []
    for how, maps in recording.maps.items():
        scores = scored(recording, how, masks, metrics)
        found.append(
            {
                "query": recording.query,
                "weighting": recording.weighting,
                "normalise": how,
                "maps": [_pack(m[layer, head]) for m in maps],
                "scores": {name: numbers(values[:, layer, head]) for name, values in scores.items()},
            }
        )
    return found


def _pack(maps: Float[Tensor, "head row col"]) -> Packed:
    return packed(maps.flatten(1).float().cpu().numpy())


def _token_text(token: str) -> str:
    """The token as it stands in the text: its word-start mark is a blank."""
    return token.replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n")


def _mask_size(size: tuple[int, int]) -> tuple[int, int]:
    share = min(1.0, MASK_SIDE / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def _peaks(masks: Bool[np.ndarray, "patch height width"], size: tuple[int, int]) -> str:
    """The masks of all patches, one after the other from a whole byte on, as one text."""
    return text_of(b"".join(bits_of(mask, size) for mask in masks))
