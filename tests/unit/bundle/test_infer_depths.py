"""On the device an image of any depth, kind and orientation becomes what the image folder makes of it, bit by bit."""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.bundle.on_device import infer
from pipeline.bundle.preprocessing import described
from pipeline.data import folder
from pipeline.data.image_file import UnreadableError, read_pixels
from tests.unit.bundle.png_files import START, chunk, header, png
from tests.unit.bundle.small_content import content

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

#: PNG's kinds of pixels, samples in each, and bits that a sample may have.
KINDS = {0: (1, (1, 2, 4, 8, 16)), 2: (3, (8, 16)), 3: (1, (1, 2, 4, 8)), 4: (2, (8, 16)), 6: (4, (8, 16))}
Colours = tuple[tuple[str, int], ...]
RGB: Colours = (("grey", 1), ("rgb", 3))


def exif(turn: int, order: str = "<") -> bytes:
    """Return EXIF with an orientation and a tag before it."""
    entries = struct.pack(f"{order}HHIHH", 271, 3, 1, 7, 0) + struct.pack(f"{order}HHIHH", 274, 3, 1, turn, 0)
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 2) + entries + bytes(4)


def on_device(file: Path, colour: str, white: float | None = None) -> NDArray[np.uint8] | None:
    """Return what infer.py makes of a file; None where it refuses it."""
    try:
        return infer.convert(infer.decode(file, colour, white), colour)
    except infer.Rejected:
        return None


def in_folder(file: Path, channels: int, white: float | None = None) -> NDArray[np.uint8] | None:
    """Return what an image folder makes of it; None where it refuses it."""
    try:
        image = read_pixels(file, channels, white)[0]
    except UnreadableError:
        return None
    return np.asarray(image).reshape(image.height, image.width, channels)


def assert_alike(file: Path, white: float | None = None, *, read: bool = True, colours: Colours = RGB) -> None:
    """Compare both, in grey and in colour."""
    for colour, channels in colours:
        here, there = in_folder(file, channels, white), on_device(file, colour, white)
        assert (here is not None, there is not None) == (read, read)
        assert here is None or np.array_equal(here, there)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    depth=st.integers(0, 4),
    size=st.tuples(st.integers(1, 19), st.integers(1, 9)),
    turn=st.integers(0, 9),
    order=st.sampled_from("<>"),
    behind=st.sampled_from([0, 1]),
    seed=st.integers(0, 999),
)
def test_every_kind_of_png(
    tmp_path_factory: pytest.TempPathFactory, kind: int, depth: int, size: tuple[int, int], turn: int, order: str,
    behind: int, seed: int,
) -> None:  # fmt: skip
    """All kinds, depths, filters and orientations, EXIF before or behind the pixels; without Pillow on the device."""
    samples, depths = KINDS[kind]
    bits, (width, height), generator = depths[depth % len(depths)], size, np.random.default_rng(seed)
    lines = generator.integers(0, 256, (height, 1 + -(-width * samples * bits // 8))).astype(np.uint8)
    lines[:, 0] = generator.integers(0, 5, height)
    palette = (
        chunk(b"PLTE", generator.integers(0, 256, 768).astype(np.uint8).tobytes()[: 3 * 2**bits]) if kind == 3 else b""
    )
    parts = png(lines.tobytes(), width, height, kind, bits=bits)[len(START) + 25 :]
    turned = chunk(b"eXIf", exif(turn, order)) if turn else b""
    end = chunk(b"IEND", b"")
    pixels = parts.removesuffix(end)
    file = tmp_path_factory.getbasetemp() / "depths.png"
    body = pixels + turned if behind else turned + pixels
    file.write_bytes(START + header(width, height, kind, bits=bits) + palette + body + end)
    with pytest.MonkeyPatch.context() as patch:
        expected = [in_folder(file, channels) for _, channels in RGB]
        patch.setitem(sys.modules, "PIL", None)
        found = [on_device(file, colour) for colour, _ in RGB]
    assert expected[0] is not None
    assert all(np.array_equal(here, there) for here, there in zip(expected, found, strict=True))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from([np.uint8, np.uint16, np.int32, np.float32]),
    white=st.sampled_from([None, 1.0, 255.0, 1023.0, 4095.0, 65535.0, 2.0**31 - 1]),
    kind=st.sampled_from(["png", "tif"]),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 999),
)
def test_every_depth_with_any_white(
    tmp_path_factory: pytest.TempPathFactory, dtype: type[np.generic], white: float | None, kind: str,
    size: tuple[int, int], seed: int,
) -> None:  # fmt: skip
    """Whole numbers and floats, below and above white; what has no known white is refused by both."""
    generator = np.random.default_rng(seed)
    if kind == "png" and dtype not in {np.uint8, np.uint16}:
        kind = "tif"
    most = np.iinfo(dtype).max if issubclass(dtype, np.integer) else 2.0
    values: Any = generator.uniform(0, min(float(most), 2 * (white or most)), size).astype(dtype)
    file = tmp_path_factory.getbasetemp() / f"white.{kind}"
    Image.fromarray(values).save(file)
    assert_alike(file, white, read=white is not None or dtype in {np.uint8, np.uint16})


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I;16B", "F", "I"])
@pytest.mark.parametrize("turn", [1, 6])
def test_modes_that_pillow_reads(tmp_path: Path, mode: str, turn: int) -> None:
    """TIFF of every mode, turned or not."""
    levels = np.random.default_rng(turn).integers(0, 256, (9, 14, 3)).astype(np.uint8)
    image = Image.fromarray(levels)
    if mode == "LAB":
        image = Image.merge("LAB", image.split())
    elif mode in {"F", "I"} or mode.startswith("I;16"):
        kinds = {"F": np.float32, "I": np.int32, "I;16": "<u2", "I;16B": ">u2"}
        image = Image.fromarray((levels[:, :, 0].astype(np.float64) * 16).astype(kinds[mode]))
    else:
        image = image.convert(mode)
    image.save(tmp_path / "a.tif", tiffinfo={274: turn})
    colours = RGB[1:] if mode == "LAB" else RGB  # Pillow makes no grey of it
    assert_alike(tmp_path / "a.tif", 4095.0, colours=colours)
    assert_alike(tmp_path / "a.tif", read=mode not in {"F", "I"}, colours=colours)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_photos_are_turned(tmp_path: Path, turn: int, kind: str) -> None:
    """As a telephone writes them."""
    image = Image.fromarray(np.random.default_rng(turn).integers(0, 256, (16, 24, 3)).astype(np.uint8))
    image.save(tmp_path / "a", kind, exif=b"Exif\0\0" + exif(turn))
    assert_alike(tmp_path / "a")
    assert infer.decode(tmp_path / "a", "rgb").shape == ((24, 16, 3) if turn > 4 else (16, 24, 3))


@pytest.mark.parametrize("highest", [1, 7, 200, 255, 256, 1000, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_pnm_of_any_white(tmp_path: Path, highest: int, channels: int) -> None:
    """A file says its own white, so that its values are scaled as Pillow scales them; then 16 bits become 8."""
    values = np.random.default_rng(highest).integers(0, highest + 1, (5, 4, channels))
    pixels = values.astype(">u2" if highest > 255 else "u1").tobytes()
    (tmp_path / "a").write_bytes(b"P%d 4 5 %d\n" % (6 if channels == 3 else 5, highest) + pixels)
    with Image.open(tmp_path / "a") as image:
        expected = np.asarray(image).reshape(5, 4, channels)
    expected = expected >> 8 if highest > 255 and channels == 1 else expected
    assert np.array_equal(infer.decode(tmp_path / "a", "grey"), expected)
    if channels == 1 and highest > 255:
        found = infer.decode(tmp_path / "a", "grey", 1023)
        assert np.array_equal(found, np.minimum(values * 256 // 1024, 255))


def test_sixteen_bit_colours_with_another_white_are_refused(tmp_path: Path) -> None:
    """Of several channels the upper eight bits are all that the data set could see, on both sides."""
    for kind, samples in ((2, 3), (4, 2), (6, 4)):
        (tmp_path / "a.png").write_bytes(png(bytes(1 + 2 * samples), 1, 1, kind, bits=16))
        assert_alike(tmp_path / "a.png", 65535)
        assert_alike(tmp_path / "a.png", 4095, read=False)


def test_what_the_network_does_not_know_is_refused(tmp_path: Path) -> None:
    """Where code of its own made the images, nothing but 8 bits as they lie in the file can be meant."""
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "turned.png", exif=exif(6))
    known = {"height": 4, "width": 4, "colour": "grey", "resize": {"rule": "none"}, "any_depth": True, "turned": True}
    for name, told in (
        ("deep.png", "has more than 8 bits, allowed: 8"),
        ("turned.png", "is rotated by its EXIF, allowed"),
    ):
        assert infer.read_image(tmp_path / name, known).shape == (1, 4, 4)
        with pytest.raises(infer.Rejected, match=told):
            infer.read_image(tmp_path / name, {**known, "any_depth": False, "turned": False})


@pytest.mark.parametrize("white", [None, 4095.0])
def test_folders_of_deep_and_turned_images(tmp_path: Path, white: float | None) -> None:
    """What a bundle's preprocess.json says gives the device the numbers that the network was judged on."""
    for index in range(16):
        file = tmp_path / "data" / "ab"[index % 2] / f"{index:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(index).integers(0, 4096 if white else 65536, (30 + index, 41 - index))
        Image.fromarray(values.astype(np.uint16)).save(file, exif=exif(1 + index // 2))
    data = folder.load(tmp_path / "data", 24, 1, (), (), white)
    preprocessing = described(content(tmp_path / "run", data, runtimes=("onnxruntime",)))
    files = sorted((tmp_path / "data").rglob("*.png"))
    found = {infer.read_image(file, preprocessing).tobytes() for file in files}
    assert found == {image.tobytes() for split in (data.train, data.validation, data.test) for image in split.images}
    assert preprocessing["white"] == white
