"""Folders of images with one that is damaged, hostile or no image: they load, or are refused with its name."""

from __future__ import annotations

import os
import random
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from pipeline.data import load_data
from pipeline.data.config import ImageFolder
from tests.torture import damage
from tests.torture.test_recipes import outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.torture.tally import Tally

pytestmark = pytest.mark.slow
FORMATS = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP", "gif": "GIF", "webp": "WEBP", "tiff": "TIFF", "ppm": "PPM"}
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F")
NAMES = (
    "x\x1b[31m.png",
    "x\n.png",
    "é" * 60 + ".png",
    " .png",
    "-rf.png",
    "%s%n.png",
    "x.PNG",
    "x.png.txt",
    "\u202egnp.png",
)


def chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def claimed(width: int, height: int) -> bytes:
    """Return a PNG of this size whose pixels are a few bytes that unpack to very many."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def write(path: Path, mode: str = "RGB", side: int = 12, seed: int = 0) -> Path:
    """Write an image of noise, in the format of the file's name."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode in {"F", "I", "I;16"}:
        deep = pixels[:, :, 0].astype({"F": np.float32, "I": np.int32, "I;16": np.uint16}[mode])
        image = Image.fromarray(deep * deep.dtype.type(257))
    else:
        image = image.convert(mode)
    image.save(path, FORMATS.get(path.suffix.removeprefix("."), "PNG"))
    return path


def put(content: bytes, name: str = "odd.png") -> Callable[[Path], str]:
    """Return what puts a file with this content into a folder."""

    def act(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return name

    return act


def damaged(suffix: str, way: damage.Way, seed: int) -> Callable[[Path], str]:
    """Return what writes an image and damages it."""

    def act(folder: Path) -> str:
        way(write(folder / f"odd.{suffix}"), random.Random(seed))
        return f"odd.{suffix}"

    return act


def in_mode(suffix: str, mode: str) -> Callable[[Path], str]:
    """Return what writes an image of a mode."""
    return lambda folder: write(folder / f"odd.{suffix}", mode).name


def named(name: str) -> Callable[[Path], str]:
    """Return what writes an image of a name."""
    return lambda folder: write(folder / name).name


def cases() -> dict[str, Callable[[Path], str]]:
    """Return what puts each odd thing into a folder of a class."""
    found: dict[str, Callable[[Path], str]] = {}
    for size in ((0, 0), (1, 60_000), (60_000, 1), (65_535, 65_535), (2**31 - 1, 2**31 - 1)):
        found[f"claims {size}"] = put(claimed(*size))
    for text in (
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "<svg/>",
        "8BPS\0\1",
        "GIF89a",
        "BM",
        "II*\0",
        "P6 9999999 9999999 255\n",
    ):
        found[f"content {text[:6]!r}"] = put(text.encode())
    for suffix in FORMATS:
        for name, way in damage.BYTES.items():
            for seed in range(3 if name in {"cut", "flipped", "flipped again"} else 1):
                found[f"{suffix} {name} {seed}"] = damaged(suffix, way, seed)
    for mode in MODES:
        for suffix in ("png", "tiff"):
            if (mode, suffix) not in {("CMYK", "png"), ("F", "png"), ("I", "png")}:
                found[f"{suffix} of mode {mode}"] = in_mode(suffix, mode)
    return {**found, **{f"name {name!r}": named(name) for name in NAMES}}


def read(root: Path) -> None:
    """Load the folder and look at what came: images of bytes, labels of the classes."""
    data = load_data(ImageFolder(source="folder", root=root, size=8, channels=3))
    for split in (data.train, data.validation, data.test):
        assert split.images.dtype == np.uint8
        assert len(split.images) == len(split.labels)
        assert set(split.labels.tolist()) <= set(range(len(data.classes)))


def test_hostile_images(tally: Tally, tmp_path: Path) -> None:
    """One odd thing among twenty good images."""
    for number, (name, act) in enumerate(cases().items()):
        if not tally.full and number % 8:
            continue
        root = tmp_path / str(number)
        for label in "ab":
            (root / label).mkdir(parents=True)
            for index in range(10):
                write(root / label / f"{index}.png", seed=ord(label) + index)
        odd = act(root / "a")
        shown = odd.encode("unicode_escape").decode()
        tally.add(
            "hostile image",
            name,
            outcome(lambda root=root: read(root), odd, shown, repr(odd)[1:-1], os.fsdecode(odd)[:20]),
        )
