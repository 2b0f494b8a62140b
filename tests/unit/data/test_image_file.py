"""Sixteen bits, floats and turned images become the pixels that they show; plain ones are read as ever."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipeline.core.errors import InputError
from pipeline.data import folder
from pipeline.data.image_file import UnreadableError, orientation, read_pixels, rule, to_8_bits
from tests.unit.bundle.png_files import png

if TYPE_CHECKING:
    from pathlib import Path

LEVELS = np.random.default_rng(0).integers(0, 256, (6, 9)).astype(np.uint8)


def pixels(file: Path, channels: int = 1, white: float | None = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return what is read."""
    return np.asarray(read_pixels(file, channels, white)[0])


@pytest.mark.parametrize(
    ("name", "values", "white"),
    [
        ("16.png", LEVELS.astype(np.uint16) * 257, None),
        ("16.tif", LEVELS.astype(np.uint16) * 257, None),
        ("12.png", LEVELS.astype(np.uint16) * 16, 4095),
        ("12.tif", LEVELS.astype(np.uint16) * 16 + 15, 4095),
        ("10.png", LEVELS.astype(np.uint16) * 4, 1023),
        ("32.tif", LEVELS.astype(np.int32) * 2**23, 2**31 - 1),
        ("0-1.tif", (LEVELS / 255).astype(np.float32), 1.0),
        ("0-255.tif", LEVELS.astype(np.float32), 255),
        ("8.png", LEVELS, None),
        ("8.png", LEVELS, 4095),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_values_of_any_depth(tmp_path: Path, name: str, values: Any, white: float | None, channels: int) -> None:  # noqa: ANN401
    """Each file holds the same picture, and gives its 8 bits exactly, in grey and in colour."""
    Image.fromarray(values).save(tmp_path / name)
    expected = LEVELS if channels == 1 else np.repeat(LEVELS[:, :, None], 3, axis=2)
    assert np.array_equal(pixels(tmp_path / name, channels, white), expected)


def test_numbers_worked_out_by_hand() -> None:
    """Whole numbers keep their upper bits, floats are rounded; what is outside is clipped."""
    assert to_8_bits(np.array([0, 255, 256, 65535], np.uint16), None).tolist() == [0, 0, 1, 255]
    assert to_8_bits(np.array([-5, 15, 16, 4095, 9999], np.int32), 4095).tolist() == [0, 0, 1, 255, 255]
    assert to_8_bits(np.array([-1, 0.5, 0.998, 2], np.float32), 1.0).tolist() == [0, 128, 254, 255]
    with pytest.raises(UnreadableError, match="NaN or infinite"):
        to_8_bits(np.array([np.nan]), 1.0)


@pytest.mark.parametrize(
    ("values", "white", "told"),
    [
        (np.zeros((4, 4), np.int32), None, "holds 32-bit numbers, whose white is not known: say white"),
        (np.zeros((4, 4), np.float32), None, "holds floats, whose white is not known"),
        (np.full((4, 4), np.inf, np.float32), 1.0, "NaN or infinite"),
    ],
)
def test_values_without_a_meaning_are_refused(tmp_path: Path, values: Any, white: float | None, told: str) -> None:  # noqa: ANN401
    """Nothing is guessed from one file's values."""
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableError, match=told):
        pixels(tmp_path / "a.tif", white=white)


def test_twelve_bits_in_sixteen_are_asked_about(tmp_path: Path) -> None:
    """Images that use the lower 12 of 16 bits would be nearly black: the white has to be said, and may be 65535."""
    for index in range(8):
        file = tmp_path / "ab"[index % 2] / f"{index}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(np.roll(LEVELS, index).astype(np.uint16) * 16).save(file)
    with pytest.raises(
        InputError, match=r"no image of 16 bits has a value above \d{4}, as if they had 12 bits: say white"
    ):
        folder.load(tmp_path, 8, 1, (), (), None)
    assert folder.load(tmp_path, 8, 1, (), (), 65535).train.images.max() < 16
    found = folder.load(tmp_path, 8, 1, (), (), 1023)
    assert any("which is above white, 1023: they become 255" in note for note in found.notes)
    assert folder.load(tmp_path, 8, 1, (), (), 4095).notes == ()


@pytest.mark.parametrize("turn", range(9))
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
def test_images_are_turned_as_their_exif_says(tmp_path: Path, turn: int, kind: str) -> None:
    """All eight orientations, and one that there is none of, in every format that has EXIF."""
    exif = Image.Exif()
    exif[274] = turn
    image = Image.fromarray(np.random.default_rng(turn).integers(0, 256, (16, 24, 3)).astype(np.uint8))
    file = tmp_path / f"image.{kind}"
    image.save(file, kind, exif=exif)
    with Image.open(file) as written:
        expected = np.asarray(ImageOps.exif_transpose(written).convert("RGB"))
    assert np.array_equal(pixels(file, 3), expected)
    assert rule(file.read_bytes()) == (f"orientation {turn}" if turn in range(2, 9) and kind != "tiff" else "")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=60), st.sampled_from([b"", b"Exif\0\0"]), st.sampled_from([b"II*\0", b"MM\0*"]))
def test_any_exif_gives_an_orientation(content: bytes, start: bytes, order: bytes) -> None:
    """Damaged EXIF means that nothing is turned."""
    assert orientation(start + order + content) in range(1, 9)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_plain_files_are_read_as_pillow_converts(tmp_path: Path, mode: str) -> None:
    """Palettes, alpha, one bit and CMYK stay what they were, and say nothing in the digest."""
    file = tmp_path / ("a.jpg" if mode in {"CMYK", "YCbCr"} else "a.png")
    Image.fromarray(LEVELS).convert("RGB").convert(mode).save(file)
    with Image.open(file) as image:
        assert rule(file.read_bytes()) == ""
        for channels, wanted in ((1, "L"), (3, "RGB")):
            assert np.array_equal(pixels(file, channels), np.asarray(image.convert(wanted)))


def test_white_of_sixteen_bit_colours_is_refused(tmp_path: Path) -> None:
    """Pillow gives the upper 8 bits of such channels alone, so that another white cannot be honoured."""
    (tmp_path / "a.png").write_bytes(png(b"\0" + bytes(range(12)), 2, 1, 2, bits=16))
    assert pixels(tmp_path / "a.png", 3).tolist() == [[[0, 2, 4], [6, 8, 10]]]
    with pytest.raises(UnreadableError, match="remove white"):
        pixels(tmp_path / "a.png", 3, 4095)


def outcome(file: Path) -> int:
    """Return the number of channels of an image, or of lines of what is said in place of it."""
    try:
        return pixels(file, 3).shape[2]
    except UnreadableError as error:
        return len(str(error).splitlines())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_damaged_files_give_pixels_or_one_reason(tmp_path: Path, kind: str) -> None:
    """Bytes replaced in the first 200 and cut ends: nothing but a refusal is raised."""
    stream, generator = io.BytesIO(), np.random.default_rng(3)
    Image.fromarray(generator.integers(0, 256, (24, 24, 3)).astype(np.uint8)).save(stream, kind)
    for trial in range(60):
        content = bytearray(stream.getvalue())
        for place in generator.integers(0, min(len(content), 200), generator.integers(1, 6)):
            content[place] = generator.integers(0, 256)
        (tmp_path / "a").write_bytes(content[: len(content) - (trial % 3) * 50])
        assert outcome(tmp_path / "a") in {1, 3}


@pytest.mark.parametrize("kept", [10, 50, 100])
def test_pillow_says_nothing_of_a_file_that_is_refused(tmp_path: Path, kept: int) -> None:
    """The error says what is wrong; a warning of a decoder beside it would be a second answer."""
    file = tmp_path / "cut.tiff"
    Image.new("L", (32, 32)).save(file, compression="tiff_lzw")
    file.write_bytes(file.read_bytes()[:kept])
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with pytest.raises(UnreadableError):
            read_pixels(file, 1, None)
    assert heard == []
