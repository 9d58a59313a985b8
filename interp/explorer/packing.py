"""Maps, scores and masks as a page carries them: bytes, compressed (zlib), as base64 text."""

from __future__ import annotations

import base64
import io
import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

STEPS = 255
"""A map's values are whole numbers 0..255 between its own least and greatest value."""


class Packed(NamedTuple):
    """Maps of one unit: ``maps`` UInt8[map patch], and ``scale`` Float32[map 2], each map's least and greatest value.

    What is read back differs from the map by at most its range / 510. A map with NaN has the scale NaN.
    """

    maps: str
    scale: str

    @property
    def size(self) -> int:
        """Bytes on the page."""
        return len(self.maps) + len(self.scale)


def packed(maps: Float[np.ndarray, "map patch"]) -> Packed:
    """The maps as the page carries them.

    >>> few = packed(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    >>> unpacked(few, 3).round(2).tolist()
    [[0.0, 0.5, 1.0]]
    """
    values, scale = quantised(maps)
    return Packed(text_of(values.tobytes()), text_of(scale.tobytes()))


def unpacked(packed: Packed, patches: int) -> Float[np.ndarray, "map patch"]:
    """The maps again, as the page reads them."""
    values = np.frombuffer(bytes_of(packed.maps), np.uint8).reshape(-1, patches)
    low, high = np.frombuffer(bytes_of(packed.scale), np.float32).reshape(-1, 2).T[:, :, None]
    return low + values / STEPS * (high - low)


def quantised(
    maps: Float[np.ndarray, "map patch"],
) -> tuple[UInt8[np.ndarray, "map patch"], Float[np.ndarray, "map 2"]]:
    """Whole numbers 0..255, and each map's least and greatest value."""
    maps = np.asarray(maps, np.float32)
    low, high = maps.min(1, keepdims=True), maps.max(1, keepdims=True)
    spread = np.where(high > low, high - low, 1)
    values = np.nan_to_num((maps - low) / spread * STEPS)
    return np.round(values).astype(np.uint8), np.concatenate([low, high], 1)


def numbers(values: Float[np.ndarray, "*axes"]) -> str:
    """Numbers in single precision."""
    return text_of(np.ascontiguousarray(values, np.float32).tobytes())


def bits_of(mask: Bool[np.ndarray, "height width"], size: tuple[int, int]) -> bytes:
    """A mask at ``size`` (height, width), nearest pixel, eight pixels a byte, the first in the highest bit."""
    height, width = size
    rows = (np.arange(height) + 0.5) * mask.shape[0] / height
    cols = (np.arange(width) + 0.5) * mask.shape[1] / width
    return np.packbits(mask[rows.astype(int)][:, cols.astype(int)]).tobytes()


def picture(image: UInt8[np.ndarray, "height width 3"], side: int) -> str:
    """The image as a data URI with no side longer than ``side`` pixels."""
    shown = Image.fromarray(image)
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    shown.save(stream, "WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def text_of(data: bytes) -> str:
    """Bytes as compressed text."""
    return base64.b64encode(zlib.compress(data, 6)).decode()


def bytes_of(text: str) -> bytes:
    """The bytes that `text_of` made text of."""
    return zlib.decompress(base64.b64decode(text))
