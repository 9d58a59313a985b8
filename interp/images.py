"""Whatever a user has for an image -> UInt8[height width 3], or an error that says what came and how to mend it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

KINDS = "a path, a PIL image, an array (height, width, 3) or a tensor (3, height, width)"


class ImageError(ValueError):
    """Not an image that can be read: missing, damaged, animated, or of a shape or range with no single reading.

    What to do: the message says what came and how to mend it, such as which axis to move or what to divide by.
    """


def read_image(source: Any, frame: int | None = None, *, upright: bool = True) -> UInt8[np.ndarray, "height width 3"]:
    """The image as 8-bit RGB, 0..255, in a new array, upright (its EXIF orientation is applied).

    ``source`` is a path (with ``~``), a PIL image, an array (height, width, 3) or a tensor (3, height, width). Without
    ``upright`` the pixels come as they are stored, as PIL opens them: the frame in which data sets are annotated.

    - Transparent pixels are laid over white; greyscale, palette, CMYK and other modes become RGB; colour profiles are
      ignored.
    - 16-bit values are divided by 257. Floats are 0..1; boolean is black and white.
    - An animated or many-paged file needs ``frame`` (0 is the first).

    Raises:
        ImageError: unreadable, cut off, animated, without pixels, too large to be honest, or of a shape, type or range
            of values that has no single reading.

    >>> read_image(np.full((1, 1), 0.5)).tolist()  # floats are 0..1, grey becomes RGB
    [[[128, 128, 128]]]
    >>> read_image(np.full((1, 1), 7.0))
    Traceback (most recent call last):
        ...
    interp.images.ImageError: array (1, 1) of float64 has values 7..7: floats must be 0..1; divide them by 255, ...
    """
    if isinstance(source, str | os.PathLike):
        if re.match(r"[a-z]+://", str(source)):
            raise ImageError(f"{source} is an address; download it, and give the file's path")
        path = Path(source).expanduser()
        with _explained(path):
            _check_regular(path)
            with Image.open(path) as opened:
                _check_size(opened)
                pixels = _from_pil(opened, frame, str(path), upright)
    elif isinstance(source, Image.Image):
        pixels = _from_pil(source, frame, f"PIL image of mode {source.mode}", upright)
    elif isinstance(source, np.ndarray):
        pixels = _from_array(source, f"array {source.shape} of {source.dtype}")
    elif hasattr(source, "detach") and hasattr(source, "cpu"):  # a tensor; torch itself is not needed here
        pixels = _from_tensor(source)
    else:
        raise ImageError(f"cannot read an image from {type(source).__name__}; expected {KINDS}")
    return np.array(pixels, dtype=np.uint8, order="C")


def _check_regular(path: Path) -> None:
    """Nothing, unless it is a pipe or a device, at which reading would wait for ever."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ImageError(f"{path} is a pipe, a device or a socket; expected a file: copy what it gives into one")


def _check_size(image: Image.Image) -> None:
    """Nothing, unless it has more pixels than PIL trusts: PIL only warns, and one setting says for all threads what is
    done about warnings."""
    pixels, most = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if most is not None and pixels > most:
        raise Image.DecompressionBombWarning(
            f"Image size ({pixels} pixels) exceeds limit of {most} pixels, could be decompression bomb DOS attack."
        )


def digest(image: np.ndarray) -> str:
    """SHA-256 of the image's shape and pixels: a file of the same name may hold another image tomorrow."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


@contextmanager
def _explained(name: object) -> Iterator[None]:
    """What PIL and the file system raise, said again as an ImageError with the file's name."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"no file {name}; check the path") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not in a format that PIL reads; convert it to PNG or JPEG") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name}: {error} Make it smaller; or, if you trust the file, raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except Exception as error:  # PIL's readers raise anything on damaged bytes, AssertionError and struct.error too
        if isinstance(error, OSError) and error.errno:
            raise ImageError(f"{name} cannot be opened: {error.strerror}; expected {KINDS}") from error
        why = str(error) or type(error).__name__
        raise ImageError(f"{name} cannot be read ({why}): cut off, damaged or closed; fetch it again") from error


def _from_pil(
    image: Image.Image, frame: int | None, name: str, upright: bool = True
) -> UInt8[np.ndarray, "height width 3"]:
    if 0 in image.size:
        raise ImageError(f"{name} has no pixels: width x height is {image.width} x {image.height}")
    with _explained(name):
        image = _chosen(image, frame, name)
        image.load()
        seen = ImageOps.exif_transpose(image) if upright else image
        if seen.mode.startswith("I;16"):
            return _from_array(np.asarray(seen).astype(np.uint16), name)
        if seen.mode == "I":  # 32-bit; in practice a 16-bit file
            return _from_array(_as_16_bit(np.asarray(seen), name), name)
        if seen.mode == "F":
            return _from_array(np.asarray(seen), name)
        if seen.has_transparency_data:
            seen = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen.convert("RGBA"))
        return np.asarray(seen.convert("RGB"))


def _chosen(image: Image.Image, frame: int | None, name: str) -> Image.Image:
    """The frame that is meant; the image stays at the frame it was at."""
    # an MPO is a photograph followed by its previews or its second eye
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frame is None and frames > 1:
        raise ImageError(f"{name} has {frames} frames; say which one with frame=0..{frames - 1}, or save one as PNG")
    if frame is not None and not 0 <= frame < frames:
        raise ImageError(f"{name} has no frame {frame}; expected 0..{frames - 1}")
    if frame is None or frames == 1:
        return image
    before = image.tell()
    image.seek(frame)
    chosen = image.copy()
    image.seek(before)
    return chosen


def _from_tensor(tensor: Any) -> UInt8[np.ndarray, "height width 3"]:
    name = f"tensor {tuple(tensor.shape)} of {tensor.dtype}"
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    array = tensor.numpy()
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    return _from_array(array, name)


def _from_array(array: np.ndarray, name: str) -> UInt8[np.ndarray, "height width 3"]:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (3, 4):
        raise ImageError(f"{name} has its channels first; pass np.moveaxis(array, 0, -1)")
    if array.ndim == 4:
        raise ImageError(f"{name} is a batch; pass its images one by one")
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        raise ImageError(f"{name}: expected (height, width) grey, (height, width, 3) RGB or (height, width, 4) RGBA")
    if array.size == 0:
        raise ImageError(f"{name} has no pixels")
    eight = _to_8_bit(array, name)
    if array.ndim == 2:
        return np.repeat(eight[:, :, None], 3, 2)
    if array.shape[2] == 4:
        return _from_pil(Image.fromarray(np.ascontiguousarray(eight)), None, name)
    return eight


def _to_8_bit(array: np.ndarray, name: str) -> np.ndarray:
    """The values as 0..255, by their type alone: guessing from the values would treat a dark image as another."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array * np.uint8(255)
    if array.dtype == np.uint16:
        return np.round(array / 257).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageError(f"{name}: expected uint8 (0..255), uint16 or floats 0..1; pass array.astype(np.uint8)")
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise ImageError(
            f"{name} has values {low:g}..{high:g}: floats must be 0..1; divide them by 255, or undo the model's "
            "normalisation"
        )
    return np.round(array * 255).astype(np.uint8)


def _as_16_bit(array: np.ndarray, name: str) -> np.ndarray:
    if array.min() < 0 or array.max() > 65535:
        raise ImageError(
            f"{name} has 32-bit values {array.min()}..{array.max()}; expected 0..65535: scale it to 8 bits and save it"
        )
    return array.astype(np.uint16)
