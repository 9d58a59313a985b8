"""Maps as a table."""

from __future__ import annotations

import numpy as np
import pandas as pd

from interp.answer.maps import phrase_maps
from interp.types import Capture, PhraseMaps, layer_numbers


def frame(found: Capture | PhraseMaps) -> pd.DataFrame:
    """Tidy, a row per phrase, layer and head: ``sample_id phrase root layer head``; ``sum`` over the map's patches (of
    a capture, whose maps are attention as it is, its share that goes to them), the ``highest`` patch's value, and its
    middle ``x, y`` in the image's pixels."""
    maps = phrase_maps(found, "none") if isinstance(found, Capture) else found
    count, layers, heads, _, cols = maps.maps.shape
    flat = maps.maps.float().cpu().flatten(3)
    row, col = np.divmod(flat.argmax(-1).numpy().reshape(-1), cols)
    x0, y0, x1, y1 = maps.grid.box
    here = {name: [getattr(phrase, name) for phrase in maps.phrases] for name in ("text", "root")}
    numbers = np.array(layer_numbers(maps.layers, layers), dtype=np.int64)
    return pd.DataFrame(
        {
            "sample_id": maps.sample_id,
            "phrase": np.repeat(np.array(here["text"], dtype=object), layers * heads),
            "root": np.repeat(np.array(here["root"], dtype=object), layers * heads),
            "layer": np.tile(np.repeat(numbers, heads), count),
            "head": np.tile(np.arange(heads), count * layers),
            "sum": flat.sum(-1).numpy().reshape(-1),
            "highest": flat.amax(-1).numpy().reshape(-1),
            "x": x0 + (col + 0.5) * (x1 - x0) / cols,
            "y": y0 + (row + 0.5) * (y1 - y0) / maps.maps.shape[3],
        }
    )
