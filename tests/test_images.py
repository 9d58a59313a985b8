from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from interp.images import ImageError, read_image

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_png_bmp_webp_and_tiff_come_back_pixel_for_pixel(tmp_path: Path) -> None:
    for name, options in [("a.png", {}), ("a.bmp", {}), ("a.webp", {"lossless": True}), ("a.tiff", {})]:
        assert np.array_equal(read_image(saved(tmp_path / name, Image.fromarray(RGB), **options)), RGB), name


def test_path_as_text_and_home_folder_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "a.png", Image.fromarray(RGB))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert np.array_equal(read_image("~/a.png"), RGB)
    assert np.array_equal(read_image(str(tmp_path / "a.png")), RGB)


def test_array_pil_image_and_tensor_of_one_image_agree() -> None:
    for source in (RGB, Image.fromarray(RGB), torch.from_numpy(RGB).permute(2, 0, 1), torch.from_numpy(RGB)):
        assert np.array_equal(read_image(source), RGB)


def test_result_is_a_writable_copy_so_that_the_users_array_is_safe() -> None:
    mine = RGB.copy()
    got = read_image(mine)
    got[:] = 0
    assert np.array_equal(mine, RGB)
    assert read_image(RGB[:, ::-1]).flags.c_contiguous


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "HSV", "LAB"])
def test_other_colour_modes_become_the_rgb_that_pil_makes_of_them(mode: str) -> None:
    image = Image.fromarray(RGB).convert("RGB" if mode == "LAB" else mode)
    if mode == "LAB":
        image = Image.merge("LAB", image.split())
    assert np.array_equal(read_image(image), np.asarray(image.convert("RGB")))


def test_grey_has_three_equal_channels(tmp_path: Path) -> None:
    grey = RGB[:, :, 0]
    expected = np.stack([grey] * 3, -1)
    path = saved(tmp_path / "grey.png", Image.fromarray(grey))
    for source in (path, grey, grey[:, :, None], torch.from_numpy(grey)[None], torch.from_numpy(grey)):
        assert np.array_equal(read_image(source), expected)


def test_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    red = Image.new("RGB", (16, 16), (220, 30, 40))
    path = saved(tmp_path / "red.jpg", red.convert("CMYK"), quality=95)
    assert np.abs(read_image(path).astype(int) - (220, 30, 40)).max() < 12


def test_transparent_pixels_are_laid_over_white_by_the_plain_formula(tmp_path: Path) -> None:
    alpha = np.random.default_rng(1).integers(0, 256, (5, 7, 1), dtype=np.uint8)
    rgba = np.concatenate([RGB, alpha], -1)
    plain = RGB * (alpha / 255) + 255 * (1 - alpha / 255)
    path = saved(tmp_path / "a.png", Image.fromarray(rgba))
    for source in (path, rgba, torch.from_numpy(rgba).permute(2, 0, 1)):
        np.testing.assert_allclose(read_image(source), plain, atol=1)


def test_transparency_in_a_palette_grey_alpha_or_colour_key_is_seen(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    got = read_image(saved(tmp_path / "p.png", palette, transparency=1))
    assert got.tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert read_image(Image.new("LA", (1, 1), (10, 0))).tolist() == [[[255, 255, 255]]]
    keyed = saved(tmp_path / "k.png", Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3))
    assert read_image(keyed).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("name", ["deep.png", "deep.tiff"])
def test_16_bit_is_scaled_not_clipped_to_white(tmp_path: Path, name: str) -> None:
    deep = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    assert read_image(saved(tmp_path / name, Image.fromarray(deep)))[0, :, 0].tolist() == [0, 1, 100, 255]
    assert read_image(deep)[0, :, 0].tolist() == [0, 1, 100, 255]
    assert read_image(Image.fromarray(deep.astype(np.int32)))[0, :, 0].tolist() == [0, 1, 100, 255]


def test_floats_from_0_to_1_are_scaled(tmp_path: Path) -> None:
    floats = RGB / 255
    for source in (floats, floats.astype(np.float32), torch.from_numpy(floats).permute(2, 0, 1)):
        assert np.array_equal(read_image(source), RGB)
    path = saved(tmp_path / "f.tiff", Image.fromarray(floats[:, :, 0].astype(np.float32)))
    assert np.array_equal(read_image(path)[:, :, 1], RGB[:, :, 0])
    half = torch.from_numpy(floats).permute(2, 0, 1).bfloat16()
    assert np.abs(read_image(half).astype(int) - RGB).max() <= 1


def test_boolean_arrays_are_black_and_white() -> None:
    assert read_image(np.array([[True, False]]))[0].tolist() == [[255] * 3, [0] * 3]


def test_a_photograph_taken_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    path = saved(tmp_path / "side.png", Image.fromarray(RGB), exif=exif)
    assert np.array_equal(read_image(path), np.rot90(RGB, -1))
    with Image.open(path) as opened:
        assert np.array_equal(read_image(opened), np.rot90(RGB, -1))


def animation(path: Path) -> Path:
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tiff"])
def test_an_animated_file_needs_a_frame_and_gives_that_one(tmp_path: Path, name: str) -> None:
    path = animation(tmp_path / name)
    with pytest.raises(ImageError, match=r"a\.\w+ has 3 frames.*frame=0\.\.2"):
        read_image(path)
    for frame, expected in enumerate(([255, 0, 0], [0, 255, 0], [0, 0, 255])):
        assert np.abs(read_image(path, frame=frame)[1, 2].astype(int) - expected).max() < 40
    with pytest.raises(ImageError, match=r"no frame 3; expected 0\.\.2"):
        read_image(path, frame=3)
    with Image.open(path) as opened:
        opened.seek(1)
        read_image(opened, frame=2)
        assert opened.tell() == 1


def test_a_still_image_has_frame_0_alone(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(RGB))
    assert np.array_equal(read_image(path, frame=0), RGB)
    with pytest.raises(ImageError, match="no frame 1"):
        read_image(path, frame=1)


def test_a_phones_multi_picture_jpeg_is_its_photograph(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    pictures[0].save(tmp_path / "a.mpo", save_all=True, append_images=pictures[1:])
    assert np.abs(read_image(tmp_path / "a.mpo").astype(int) - (255, 0, 0)).max() < 10


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_file_cut_off_anywhere_is_an_error_not_a_grey_image(tmp_path: Path, name: str, share: float) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path / name, Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ImageError, match=rf"{name}.*(cut off|PNG or JPEG)"):
        read_image(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.tiff", "a.webp", "a.bmp"])
def test_damaged_bytes_give_an_image_or_an_image_error_and_nothing_else(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(3)
    whole = np.frombuffer(saved(tmp_path / name, Image.fromarray(RGB)).read_bytes(), np.uint8)
    errors = 0
    for _ in range(100):
        damaged = whole.copy()
        damaged[rng.integers(0, len(whole), 6)] = rng.integers(0, 256, 6)
        (tmp_path / name).write_bytes(damaged.tobytes())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PIL's own about metadata it skips
                assert read_image(tmp_path / name).shape[2] == 3
        except ImageError:
            errors += 1
    assert errors > 0


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"<svg></svg>"])
def test_a_file_that_is_no_image_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "thing.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"thing\.png"):
        read_image(path)


def test_a_missing_file_or_a_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no file .*nothing\.png"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(ImageError, match="is an address; download it"):
        read_image("https://example.org/dog.png")
    with pytest.raises(ImageError, match=tmp_path.name):
        read_image(tmp_path)


@pytest.mark.parametrize("limit", [30, 20, 10])
def test_a_decompression_bomb_is_an_error_also_below_pils_own_hard_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    path = saved(tmp_path / "bomb.png", Image.fromarray(RGB))  # 35 pixels; PIL itself only warns below 2 x limit
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings(), pytest.raises(ImageError, match=r"bomb\.png.*MAX_IMAGE_PIXELS"):
        warnings.simplefilter("ignore")  # as in a user's program, where PIL's warning passes by
        read_image(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.zeros((5, 0), np.uint8), "no pixels"),
        (Image.new("RGB", (0, 4)), "no pixels.*0 x 4"),
        (np.zeros((3, 8, 9), np.uint8), "channels first.*moveaxis"),
        (np.zeros((8, 9, 5), np.uint8), r"\(8, 9, 5\).*RGB"),
        (np.zeros((8, 9, 2), np.uint8), r"\(8, 9, 2\).*RGB"),
        (np.zeros(8, np.uint8), r"\(8,\).*height"),
        (np.zeros((2, 8, 9, 3), np.uint8), "batch"),
        (torch.zeros(2, 3, 8, 9), "batch"),
        (np.full((2, 2, 3), 200.0), r"200\.\.200.*divide them by 255"),
        (np.full((2, 2, 3), -0.5), "-0.5.*normalisation"),
        (np.full((2, 2, 3), np.nan), "nan"),
        (torch.full((3, 2, 2), 7.0), r"tensor \(3, 2, 2\).*7\.\.7"),
        (Image.fromarray(np.full((2, 2), 3.0, np.float32)), "mode F.*3"),
        (Image.fromarray(np.full((2, 2), 70000, np.int32)), "70000.*65535"),
        (np.zeros((2, 2, 3), np.int64), "int64.*astype"),
        (np.zeros((2, 2, 3), complex), "complex128.*uint8"),
        (None, "NoneType.*a path"),
        ([[1, 2]], "list.*a path"),
        (b"\x89PNG", "bytes.*a path"),
    ],
)
def test_what_has_no_single_reading_as_an_image_is_an_error_that_says_how_to_mend_it(
    source: object, message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        read_image(source)


def test_a_pil_image_whose_file_was_closed_is_an_error(tmp_path: Path) -> None:
    with Image.open(saved(tmp_path / "a.png", Image.fromarray(RGB))) as opened:
        pass
    with pytest.raises(ImageError, match="PIL image"):
        read_image(opened)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_place_of_an_image_is_refused_and_not_waited_at(tmp_path):
    os.mkfifo(tmp_path / "photo.png")
    for place in (tmp_path / "photo.png", "/dev/zero"):
        with pytest.raises(ImageError, match="is a pipe, a device or a socket; expected a file"):
            read_image(place)
