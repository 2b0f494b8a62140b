"""What is not an image, or not a whole one, is one line for a person; it takes no memory and no time."""

from __future__ import annotations

import io
import os
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bundle.on_device import infer
from tests.unit.bundle.png_files import START, chunk, header, png

GOOD = png(bytes(20), 4, 4)
PALETTE = chunk(b"PLTE", bytes(6))


def bomb(width: int, height: int) -> bytes:
    """Return a small file that unpacks to 100 MB."""
    packed = zlib.compress(bytes(100_000_000), 9)
    return START + header(width, height, 0) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def array(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    """Return the content of a .npy file."""
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (GOOD.replace(b"IDAT", b"IDAX"), "damaged: the checksum of its chunk b'IDAX' at byte 33"),
        (GOOD[:-1], "truncated: it has no end mark"),
        (GOOD[:40], "truncated: it has no end mark"),
        (START, "truncated: it has no end mark"),
        (START + chunk(b"IEND", b""), "damaged: its header or its palette has 0 or 0 bytes"),
        (png(bytes(20), 0, 4), "claims 0 x 4 pixels, allowed: 1 to 33,554,432 pixels"),
        (png(bytes(20), 4, 0), "claims 4 x 0 pixels"),
        (png(b"", 2**31, 2**31), "claims 2147483648 x 2147483648 pixels"),
        (png(b"", 2**20, 2), "32,768 on a side"),
        (png(bytes(19), 4, 4), "truncated: pixels are missing"),
        (png(b"\\5" + bytes(19), 4, 4), "damaged: a line has filter 92, allowed: 0 to 4"),
        (START + header(4, 4, 0) + chunk(b"IDAT", b"nothing") + chunk(b"IEND", b""), "its pixels cannot be unpacked"),
        (png(b"\0\2", 1, 1, 3), "damaged: its palette has no colour 2"),
        (png(b"\0\2", 1, 1, 3).replace(b"\0\0\0\x0aIDAT", PALETTE + b"\0\0\0\x0aIDAT"), "has no colour 2"),
        (START + header(1, 1, 3) + chunk(b"PLTE", b"abcd") + chunk(b"IEND", b""), "damaged: its header or its palette"),
        (png(bytes(5), 2, 2, 2, bits=16), "truncated: pixels are missing"),
        (png(bytes(5), 2, 2, 2, bits=4), "cannot be read as an image"),
        (b"P5 1 1 0\n\0", "damaged: it gives 0 as white, allowed: 1 to 65535"),
        (b"P5 1 1 65536\n\0\0", "damaged: it gives 65536 as white"),
        (b"II*\0 no tiff", "cannot be read as an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read as an image"),
        (b"P5 4 4\n", "damaged: its header is incomplete"),
        (b"P5 4 0 255\n", "claims 4 x 0 pixels"),
        (b"P6 99999999 99999999 255\n", "claims 99999999 x 99999999 pixels"),
        (b"P5 4 4 255\n" + bytes(15), "truncated: pixels are missing"),
        (b"\x93NUMPY\1\0", "is not a complete .npy file"),
        (array(np.zeros((4, 4), np.float32)), "holds float32 [4, 4], allowed: uint8 [H, W] or [H, W, 3]"),
        (array(np.zeros((4, 4, 2), np.uint8)), "holds uint8 [4, 4, 2]"),
        (array(np.zeros(4, np.uint8)), "holds uint8 [4]"),
        (array(np.array([{}], dtype=object)), "is not a complete .npy file"),
        (array(np.zeros((4, 4), np.uint8)).replace(b"(4, 4)", b"(9, 9)"), "is not a complete .npy file"),
        (array(np.zeros((4, 4), np.uint8)).replace(b"(4, 4), ", b"(8**9,),"), "is not a complete .npy file"),
        (b"", "cannot be read as an image"),
        (b"\xff\xd8\xff\xe0 no photo", "cannot be read as an image"),
    ],
)  # fmt: skip
def test_one_line_with_the_file_and_the_reason(tmp_path: Path, content: bytes, told: str) -> None:
    """Each is refused with exit code 2 and what is wrong with it."""
    file = tmp_path / "image"
    file.write_bytes(content)
    with pytest.raises(infer.Rejected) as refused:
        infer.decode(file, "grey")
    assert str(refused.value).startswith(str(file))
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 2


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """A folder, a pipe that nobody writes to, a device without an end, a link to nowhere, a name with a zero byte."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("nowhere")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(infer.Rejected, match="is a pipe or a device, allowed: an image file"):
            infer.decode(path, "grey")
    for path in (tmp_path, tmp_path / "link.png", tmp_path / "gone.png", Path("a\0.png")):
        with pytest.raises(infer.Rejected, match="cannot be read: "):
            infer.decode(path, "grey")


def test_a_larger_file_than_any_image_is_not_read(tmp_path: Path) -> None:
    """It takes no memory."""
    with (tmp_path / "a.png").open("wb") as stream:
        stream.truncate(2**29 + 1)
    with pytest.raises(infer.Rejected, match="has 536,870,913 bytes, allowed"):
        infer.decode(tmp_path / "a.png", "grey")


def test_all_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """Each image has its line, not the first alone."""
    (tmp_path / "a.png").write_bytes(GOOD)
    preprocessing = {"height": 4, "width": 4, "colour": "grey", "resize": {"rule": "none"}}
    assert len(infer.read_images([tmp_path / "a.png"], preprocessing)) == 1
    with pytest.raises(infer.Rejected) as refused:
        infer.read_images([tmp_path / "b.png", tmp_path / "a.png", tmp_path], preprocessing)
    assert len(str(refused.value).splitlines()) == 2


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """A file that claims 4 x 4 pixels and holds 100 MB gives its 16 pixels, and memory for no more is taken."""
    file = tmp_path / "image.png"
    file.write_bytes(bomb(4, 4))
    tracemalloc.start()
    pixels = infer.decode(file, "grey")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pixels.shape == (4, 4, 1)
    assert peak < 1_000_000


SEEDS = (GOOD, png(bytes(39), 4, 3, 2), b"P6 #\n2 2 255\n" + bytes(12), array(np.zeros((4, 4), np.uint8)))


def outcome(file: Path, colour: str) -> tuple[int, ...] | str:
    """Return the shape of the image, or what is said in place of it."""
    try:
        return infer.decode(file, colour).shape
    except infer.Rejected as refused:
        return str(refused)


@settings(max_examples=400, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 150), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 40),
)
def test_any_change_gives_pixels_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, seed: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    """Bytes replaced anywhere, and the end cut off: nothing else than a refusal is raised."""
    content = bytearray(seed)
    for at, value in changes:
        content[at % len(content)] = value
    file = tmp_path_factory.getbasetemp() / "changed"
    file.write_bytes(content[: len(content) - cut] if cut < len(content) else content)
    found = outcome(file, "grey")
    assert len(found.splitlines()) == 1 if isinstance(found, str) else len(found) == 3


@settings(max_examples=300, deadline=None)
@given(
    numbers=st.tuples(*(st.integers(0, 9) for _ in range(4))),
    lines=st.binary(max_size=60),
    palette=st.binary(max_size=12),
)
def test_any_png_with_right_checksums(
    tmp_path_factory: pytest.TempPathFactory, numbers: tuple[int, int, int, int], lines: bytes, palette: bytes
) -> None:
    """Sizes, kinds of pixels, depths, palettes and lines that do not fit together are refused, or are an image."""
    width, height, pixel, bits = numbers
    file = tmp_path_factory.getbasetemp() / "made.png"
    body = chunk(b"PLTE", palette) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    file.write_bytes(START + header(width, height, pixel, bits) + body)
    found = outcome(file, "rgb")
    assert len(found.splitlines()) == 1 if isinstance(found, str) else found[:2] == (height, width)
