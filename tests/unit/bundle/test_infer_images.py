"""infer.py makes of an image file the numbers that Pillow and the data sets make of it, bit by bit."""

from __future__ import annotations

import sys
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.bundle.on_device import infer
from pipeline.bundle.preprocessing import described
from pipeline.data import elpv, fashion_mnist, folder
from pipeline.data.folder_listing import list_folder
from tests.optional import require
from tests.unit.bundle.png_files import START, chunk, header, png
from tests.unit.bundle.small_content import content

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.core.dataset import Dataset

BILINEAR = Image.Resampling.BILINEAR


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return pixels of which neighbours are alike, so that every filter of PNG is used somewhere."""
    steps = np.random.default_rng(seed).integers(-9, 10, shape)
    return (128 + np.cumsum(steps, axis=1) + np.cumsum(steps, axis=0)).astype(np.uint8)


def resized(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return what Pillow makes of [H, W, C]."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return np.asarray(image.resize((width, height), BILINEAR)).reshape(height, width, -1)


sides = st.integers(1, 90)


@settings(max_examples=300, deadline=None)
@given(
    old=st.tuples(sides, sides), new=st.tuples(sides, sides), channels=st.sampled_from([1, 3]), seed=st.integers(0, 99)
)
def test_resizing_equals_pillow(old: tuple[int, int], new: tuple[int, int], channels: int, seed: int) -> None:
    """Any size to any size, grey and colour, sides of one pixel included."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*old, channels)).astype(np.uint8)
    assert np.array_equal(infer.resize(pixels, new, new), resized(pixels, *new))


@pytest.mark.parametrize(
    ("old", "new"),
    [((300, 300), (160, 160)), ((480, 640), (224, 224)), ((1080, 1920), (96, 97)), ((28, 28), (225, 31)),
     ((1, 1), (5, 7)), ((1, 600), (3, 2)), ((700, 2), (1, 1)), ((97, 61), (97, 60)), ((61, 97), (60, 97)),
     ((8, 8), (8, 8))],
)  # fmt: skip
def test_resizing_equals_pillow_at_sizes_of_practice(old: tuple[int, int], new: tuple[int, int]) -> None:
    """Large and odd ratios; one side that stays; nothing to do."""
    pixels = np.random.default_rng(1).integers(0, 256, (*old, 3)).astype(np.uint8)
    assert np.array_equal(infer.resize(pixels, new, new), resized(pixels, *new))


@settings(max_examples=100, deadline=None)
@given(old=st.tuples(sides, sides), size=st.integers(1, 60))
def test_covering_and_cutting_equals_the_image_folder(old: tuple[int, int], size: int) -> None:
    """The shorter side becomes the size, rounded as the data set rounds; only the kept centre is computed."""
    pixels = np.random.default_rng(2).integers(0, 256, (*old, 3)).astype(np.uint8)
    height, width = (max(size, round(side * (size / min(old)))) for side in old)
    top, left = (height - size) // 2, (width - size) // 2
    expected = resized(pixels, height, width)[top : top + size, left : left + size]
    assert np.array_equal(infer.fit(pixels, size, size, "shorter-side-then-centre-crop"), expected)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (40, 1), (31, 17), (64, 48)])
def test_png_equals_pillow(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    """Every kind of 8 bits, decoded and converted to grey and to colour; alpha is dropped, not blended."""
    pixels, file = noise(size[1], size[0], 4), tmp_path / "image.png"
    image = Image.fromarray(pixels[:, :, :3]).quantize(99) if mode == "P" else Image.fromarray(pixels).convert(mode)
    image.save(file, bits=8)
    for colour, wanted in (("grey", "L"), ("rgb", "RGB")):
        expected = np.asarray(image.convert(wanted)).reshape(size[1], size[0], -1)
        assert np.array_equal(infer.convert(infer.decode(file, colour), colour), expected)


@pytest.mark.parametrize("kind", range(5))
def test_every_filter_of_png(tmp_path: Path, kind: int) -> None:
    """Lines of one filter each, written by hand, are what Pillow reads."""
    lines = np.concatenate([np.full((13, 1), kind, np.uint8), noise(13, 7 * 3, seed=kind)], axis=1)
    file = tmp_path / "image.png"
    file.write_bytes(png(lines.tobytes(), 7, 13, 2))
    with Image.open(file) as image:
        assert np.array_equal(infer.decode(file, "rgb"), np.asarray(image))


def test_pixels_of_many_chunks(tmp_path: Path) -> None:
    """Packed pixels may be cut anywhere."""
    packed = zlib.compress(b"".join(b"\0" + bytes(range(9)) for _ in range(3)))
    parts = b"".join(chunk(b"IDAT", packed[at : at + 3]) for at in range(0, len(packed), 3))
    file = tmp_path / "image.png"
    file.write_bytes(START + header(9, 3, 0) + parts + chunk(b"IEND", b""))
    assert infer.decode(file, "grey")[:, :, 0].tolist() == [list(range(9))] * 3


@pytest.mark.parametrize("comment", [b"", b"# made by hand\n# twice\n"])
def test_pnm_and_npy(tmp_path: Path, comment: bytes) -> None:
    """PGM, PPM and arrays hold the pixels as they are; to the other colours they are converted as Pillow does."""
    grey, colour = noise(5, 4, 1), noise(5, 4, 3)
    (tmp_path / "a.pgm").write_bytes(b"P5\n" + comment + b"4 5\n255\n" + grey.tobytes())
    (tmp_path / "a.ppm").write_bytes(b"P6 " + comment + b"4\n5 255\n" + colour.tobytes())
    np.save(tmp_path / "grey.npy", grey[:, :, 0])
    np.save(tmp_path / "colour.npy", np.asfortranarray(colour))
    for name, pixels in (("a.pgm", grey), ("a.ppm", colour), ("grey.npy", grey), ("colour.npy", colour)):
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        for wanted, mode in (("grey", "L"), ("rgb", "RGB")):
            expected = np.asarray(image.convert(mode)).reshape(5, 4, -1)
            assert np.array_equal(infer.convert(infer.decode(tmp_path / name, wanted), wanted), expected)


def test_other_kinds_are_read_by_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JPEG and interlaced PNG are Pillow's; without it they are refused with the line to install it."""
    Image.fromarray(noise(9, 8, 3)).save(tmp_path / "a.jpg")
    (tmp_path / "adam.png").write_bytes(png(bytes(4), 1, 2, interlaced=1))
    for name in ("a.jpg", "adam.png"):
        with Image.open(tmp_path / name) as image:
            assert np.array_equal(infer.decode(tmp_path / name, "grey")[:, :, 0], np.asarray(image.convert("L")))
    monkeypatch.setitem(sys.modules, "PIL", None)
    for name in ("a.jpg", "adam.png"):
        with pytest.raises(infer.Rejected, match=rf"{name} is not among PNG without interl.*pip install pillow"):
            infer.decode(tmp_path / name, "grey")


# -- what the data sets make of the same files -------------------------------------------------------------------------


def network_input(data: Dataset, files: list[Path], tmp_path: Path) -> NDArray[np.float32]:
    """Return what infer.py makes of files by a bundle's preprocess.json."""
    preprocessing = described(content(tmp_path / "run", data, runtimes=("onnxruntime",)))
    return infer.normalise(np.stack([infer.read_image(file, preprocessing) for file in files]), preprocessing)


@pytest.mark.parametrize("channels", [1, 3])
def test_solar_cells(tmp_path: Path, channels: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401
    """PNG files of ELPV, stretched to another size."""
    chosen = elpv.read_labels(elpv.find())[::250]
    monkeypatch.setattr(elpv, "read_labels", lambda _: chosen)
    monkeypatch.setattr(elpv, "stratified", lambda labels, _count, _seed: (np.arange(len(labels)),) * 2)
    data = elpv.load(160, channels, 0.2, 0)
    files = [elpv.find() / path for path, _, _ in chosen]
    assert np.array_equal(network_input(data, files, tmp_path), data.normalisation(data.train.images))


def test_clothes(tmp_path: Path) -> None:
    """Images of Fashion-MNIST, written as PNG."""
    require("fashion-mnist")
    data = fashion_mnist.load(None, 5000, 0)
    few = data.validation.images[:20]
    for index, pixels in enumerate(few):
        Image.fromarray(pixels[0]).save(tmp_path / f"{index:02d}.png")
    assert np.array_equal(network_input(data, sorted(tmp_path.glob("*.png")), tmp_path), data.normalisation(few))


@pytest.mark.parametrize("channels", [1, 3])
def test_image_folders(tmp_path: Path, channels: int) -> None:
    """PNG files of all kinds and sizes in a folder of classes."""
    for index in range(16):
        file = tmp_path / "data" / "ab"[index % 2] / f"{index:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(noise(11 + 5 * index, 90 - 4 * index, 4, seed=index), "RGBA")
        image.convert(("RGB", "L", "LA", "RGBA")[index // 2 % 4]).save(file)
    data = folder.load(tmp_path / "data", 24, channels, (), (), None)
    found = list_folder(tmp_path / "data")
    everything, _, _ = folder.read(found, "all", 24, channels, None)
    files = [path for path, _ in found.listings["all"]]
    assert np.array_equal(network_input(data, files, tmp_path), data.normalisation(everything.images))
