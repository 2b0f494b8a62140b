#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Classify images with the network in this folder: Python 3.9 or newer, numpy, and onnxruntime or openvino.

    python infer.py cell.png                  # cell.png: defective (0.93)
    python infer.py *.png --top 2 --json

In a program of your own:

    preprocessing = load_preprocessing(folder)
    network = Network(folder)
    images = np.stack([read_image(path, preprocessing) for path in paths])
    probabilities = softmax(network.logits(normalise(images, preprocessing)))

An image becomes the very numbers that the network was judged on: depths, colours and sizes are converted as the data
set and Pillow 13 do, bit by bit. PNG, PGM, PPM and .npy files are read here; others by Pillow, where it is installed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import re
import stat
import struct
import sys
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

try:
    import numpy as np
except ImportError:
    if __name__ != "__main__":
        raise
    print("numpy is not installed; install it: pip install -r requirements.txt", file=sys.stderr)
    sys.exit(5)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from PIL import Image

    Pixels = NDArray[np.uint8]
    Infer = Callable[[NDArray[np.float32]], NDArray[np.float32]]
    #: A path, or the content of a graph and, of an IR, its weights.
    Stored = tuple[Any, ...]

#: Larger images are refused before memory is taken for their pixels.
PIXELS_AT_MOST, SIDE_AT_MOST, BYTES_AT_MOST = 2**25, 2**15, 2**29
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_HEADER = struct.Struct(">IIBBBBB")
#: PNG's kinds of pixels with the channels that are stored and those that are colours; the others are alpha.
PNG_CHANNELS = {0: (1, 1), 2: (3, 3), 3: (1, 1), 4: (2, 1), 6: (4, 3)}
PNG_BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
GREY, PALETTE = 0, 3
#: What Pillow may read: a file reaches no other decoder, whatever it is called.
PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF")
#: Bits of a plain sample; white in 8 and in 16 bits.
PLAIN, EIGHT_BITS, SIXTEEN_BITS = 8, 255, 65535
#: TIFF's tags that are looked at.
BITS, PHOTOMETRIC, ORIENTATION = 258, 262, 274
#: TIFF's types of whole numbers, which EXIF has too.
WHOLE = {1: "B", 3: "H", 4: "I"}
LONGEST_REASON = 300
#: The files that each runtime reads; the first that is there is the one.
MODELS = {"onnxruntime": ("model.onnx",), "openvino": ("model.xml", "model.onnx")}
#: How the name of a packed model file ends, and the program beside this one that unpacks it.
PACKED, UNPACK = ".packed", "unpack.py"


class Rejected(Exception):
    """A file or an argument cannot be used as it is; the text says why in one line."""

    exit_code = 2


class RuntimeMissing(Rejected):
    """The chosen runtime is not installed; the text has the line that installs it."""

    exit_code = 5


def reason(error: Exception) -> str:
    """Return what an error of another library says, on one line: some say on the last of many what it is."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}..."


# -- from a file to the network's input --------------------------------------------------------------------------------


def load_preprocessing(folder: Path) -> dict[str, Any]:
    """Return the content of preprocess.json in a bundle's folder."""
    file = Path(folder) / "preprocess.json"
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise Rejected(f"{file} cannot be read ({error}); expected the one of a whole bundle") from error
    if not isinstance(found, dict) or found.get("schema_version") != 1:
        raise Rejected(f"{file} is not of schema version 1; infer.py and preprocess.json must be of one bundle")
    return found


def read_image(path: Path, preprocessing: Mapping[str, Any]) -> Pixels:
    """Return an image file as uint8 [C, H, W] in the network's colours and size."""
    path = Path(path)
    height, width = preprocessing["height"], preprocessing["width"]
    stored = load_pixels(path, preprocessing["colour"], preprocessing.get("white"))
    if not preprocessing.get("any_depth") and (stored.values_HWC.dtype != np.uint8 or not stored.whole):
        raise Rejected(
            f"{path} has more than 8 bits, allowed: 8, because it is not known how deep the network's images were"
        )
    if not preprocessing.get("turned") and stored.turn > 1:
        raise Rejected(
            f"{path} is rotated by its EXIF, allowed: not rotated, because it is not known whether the training images "
            "were"
        )
    image_HWC = convert(shown(path, stored, preprocessing.get("white")), preprocessing["colour"])
    fitted = fit(image_HWC, height, width, preprocessing["resize"]["rule"])
    if fitted.shape[:2] != (height, width):
        found = f"{fitted.shape[1]} x {fitted.shape[0]}"
        raise Rejected(
            f"{path} has {found} pixels, allowed: {width} x {height}, because this network's images are not resized"
        )
    return np.ascontiguousarray(fitted.transpose(2, 0, 1))


def read_images(paths: Sequence[Path], preprocessing: Mapping[str, Any]) -> list[Pixels]:
    """Return all images, as `read_image` does; of those that cannot be used, each has its line in what is raised."""
    images, wrong = [], []
    for path in paths:
        try:
            images.append(read_image(path, preprocessing))
        except Rejected as error:
            wrong.append(str(error))
    if wrong:
        raise Rejected("\n".join(wrong))
    return images


def normalise(images_NCHW: Pixels, preprocessing: Mapping[str, Any]) -> NDArray[np.float32]:
    """Return the network's input, float32 [N, C, H, W]: (pixel / 255 - mean) / std."""
    scaled = images_NCHW.astype(np.float32) / np.float32(255)
    if preprocessing["repeat_grey"]:
        scaled = np.repeat(scaled, preprocessing["channels"], axis=1)
    mean, std = (np.asarray(preprocessing[name], np.float32)[:, None, None] for name in ("mean", "std"))
    return np.ascontiguousarray((scaled - mean) / std)


def convert(image_HWC: Pixels, colour: str) -> Pixels:
    """Return an image of 1 (grey) or 3 channels (red, green, blue) in the wanted colours."""
    if colour == "rgb":
        return np.broadcast_to(image_HWC, (*image_HWC.shape[:2], 3))
    if image_HWC.shape[2] == 1:
        return image_HWC
    red, green, blue = np.moveaxis(image_HWC.astype(np.uint32), 2, 0)
    grey: Pixels = ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)
    return grey[:, :, None]


def fit(image_HWC: Pixels, height: int, width: int, rule: str) -> Pixels:
    """Bring an image to the network's size: not at all, by stretching, or covering it and cutting out the centre."""
    if rule == "none":
        return image_HWC
    if rule == "stretch":
        return resize(image_HWC, (height, width), (height, width))
    scale = max(height / image_HWC.shape[0], width / image_HWC.shape[1])
    tall, wide = (round(side * scale) for side in image_HWC.shape[:2])
    return resize(image_HWC, (max(height, tall), max(width, wide)), (height, width))


def resize(image_HWC: Pixels, size: tuple[int, int], kept: tuple[int, int]) -> Pixels:
    """Resize to height and width with a triangle filter, widened when shrinking, and keep the centre.

    The height comes first where much more of it is cut than of the width.
    """
    old = image_HWC.shape[:2]
    (rows, row_weights), (columns, column_weights) = map(_filter, old, size, kept)
    image_HWC = image_HWC[rows.min() : rows.max() + 1]
    passes = [(1, columns, column_weights), (0, rows - rows.min(), row_weights)]
    if old[0] - size[0] > max(0, 2 * (old[1] - size[1])):
        passes.reverse()
    for axis, taps, weights in passes:
        total = np.full_like(image_HWC.take(taps[0], axis), 1 << 21, dtype=np.int32)
        for tap, weight in zip(taps, weights):
            total += image_HWC.take(tap, axis) * np.expand_dims(weight, (1 - axis, 2))
        image_HWC = np.clip(total >> 22, 0, 255).astype(np.uint8)
    return image_HWC


def _filter(old: int, new: int, kept: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return which old pixels each of the `kept` middle ones of `new` is made of, and their weights times 2 ** 22."""
    scale = old / new
    reach = max(scale, 1.0)
    centres = (np.arange((new - kept) // 2, (new - kept) // 2 + kept) + 0.5) * scale
    first = np.maximum((centres - reach + 0.5).astype(int), 0)
    end = np.minimum((centres + reach + 0.5).astype(int), old)
    taps = first + np.arange(2 * int(np.ceil(reach)) + 1)[:, None]
    weights = np.maximum(1 - np.abs((taps - centres + 0.5) * (1 / reach)), 0) * (taps < end)
    weights /= np.cumsum(weights, axis=0)[-1]
    return np.minimum(taps, old - 1), (weights * (1 << 22) + 0.5).astype(np.int32)


# -- decoding ----------------------------------------------------------------------------------------------------------


class StoredPixels(NamedTuple):
    """What a file holds: values [H, W, 1] (grey) or [H, W, 3] (red, green, blue) of any depth, without alpha.

    `turn` is EXIF's orientation. Not `whole`: of 16 bits in a channel these are the upper eight.
    """

    values_HWC: NDArray[Any]
    turn: int = 1
    whole: bool = True


def decode(path: Path, colour: str, white: float | None = None) -> Pixels:
    """Return the pixels of a file as they are shown, uint8 [H, W, 1] or [H, W, 3]. Alpha is ignored."""
    return shown(path, load_pixels(path, colour, white), white)


def load_pixels(path: Path, colour: str, white: float | None) -> StoredPixels:
    """Return what a file holds."""
    content = read_file(path)
    if content.startswith(PNG_START):
        stored = _decode_png(path, content)
    elif re.match(rb"P[56]\s", content):
        stored = _decode_pnm(path, content, white)
    elif content.startswith(b"\x93NUMPY"):
        stored = StoredPixels(_decode_npy(path))
    else:
        stored = None
    return _decode_with_pillow(path, colour, content) if stored is None else stored


def read_file(path: Path) -> bytes:
    """Return the bytes of a file; what is none (a pipe, a device) is not waited for."""
    try:
        found = path.stat()
        is_file = stat.S_ISREG(found.st_mode)
        if not (is_file or stat.S_ISDIR(found.st_mode)) or (is_file and found.st_size > BYTES_AT_MOST):
            what = f"has {found.st_size:,} bytes" if is_file else "is a pipe or a device"
            raise Rejected(f"{path} {what}, allowed: an image file of up to {BYTES_AT_MOST:,} bytes")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise Rejected(f"{path} cannot be read: {getattr(error, 'strerror', None) or reason(error)}") from error


def shown(path: Path, stored: StoredPixels, white: float | None) -> Pixels:
    """Return what a file holds in 8 bits and turned as it is to be seen."""
    if not stored.whole and white not in {None, SIXTEEN_BITS}:
        raise Rejected(
            f"{path} has 16 bits in several channels, of which only the upper 8 can be used; white is {white}"
        )
    image_HWC = to_8_bits(path, stored.values_HWC, white)
    if stored.turn in {5, 6, 7, 8}:
        image_HWC = image_HWC.transpose(1, 0, 2)
    rows, columns = (slice(None, None, -1 if stored.turn in turns else 1) for turns in ({3, 4, 7, 8}, {2, 3, 6, 7}))
    return np.ascontiguousarray(image_HWC[rows, columns])


def to_8_bits(path: Path, values: NDArray[Any], white: float | None) -> Pixels:
    """Return values from 0 to `white` as 0 to 255, clipped: of whole numbers the upper bits, floats rounded."""
    if values.dtype == np.uint8:
        return values
    if white is None and values.dtype != np.uint16:
        raise Rejected(
            f"{path} holds {values.dtype}, allowed: 8 or 16 bits, because the network was made without white"
        )
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise Rejected(f"{path} holds values that are NaN or infinite")
        return np.rint(np.clip(values.astype(np.float64) * (255 / (white or 1.0)), 0, 255)).astype(np.uint8)
    steps = int(white or SIXTEEN_BITS) + 1
    return np.clip(values.astype(np.int64) * 256 // steps, 0, 255).astype(np.uint8)


def orientation(exif: bytes) -> int:
    """Return how EXIF says that an image is turned, 1 (not at all) to 8; 1 where it does not say. Source: TIFF 6.0."""
    content = exif[6:] if exif.startswith(b"Exif\0\0") else exif
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None or len(content) < 8:  # noqa: PLR2004 (the header of TIFF)
        return 1
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    count = struct.unpack_from(f"{order}H", content, start)[0] if len(content) >= start + 2 else 0
    for at in range(start + 2, min(start + 2 + 12 * count, len(content) - 11), 12):
        tag, kind = struct.unpack_from(f"{order}HH", content, at)
        if tag == ORIENTATION:
            turn: int = struct.unpack_from(f"{order}{WHOLE[kind]}", content, at + 8)[0] if kind in WHOLE else 1
            return turn if turn in range(1, 9) else 1
    return 1


def _decode_png(path: Path, content: bytes) -> StoredPixels | None:
    """Decode what is not interlaced; other PNG files are left to Pillow. Source: ISO/IEC 15948."""
    chunks = list(_png_chunks(path, content))
    header, palette, exif = (dict(chunks).get(kind, b"") for kind in (b"IHDR", b"PLTE", b"eXIf"))
    if len(header) != PNG_HEADER.size or len(palette) % 3:
        raise Rejected(f"{path} is damaged: its header or its palette has {len(header)} or {len(palette)} bytes")
    width, height, bits, pixel, _, _, interlaced = PNG_HEADER.unpack(header)
    _check_size(path, width, height)
    if bits not in PNG_BITS.get(pixel, ()) or interlaced:
        return None
    stored, shown_channels = PNG_CHANNELS[pixel]
    in_line, step = -(-width * stored * bits // 8), max(1, stored * bits // 8)
    packed = b"".join(body for kind, body in chunks if kind == b"IDAT")
    lines = _inflate(path, packed, height * (1 + in_line)).reshape(height, 1 + in_line)
    if lines[:, 0].max() not in range(5):
        raise Rejected(f"{path} is damaged: a line has filter {lines[:, 0].max()}, allowed: 0 to 4")
    unpacked = _unfilter(lines[:, 0], lines[:, 1:].reshape(height, in_line // step, step)).reshape(height, in_line)
    image_HWC = _samples(unpacked, width, stored, bits)[:, :, :shown_channels]
    turn = orientation(exif)
    if pixel == PALETTE:
        return StoredPixels(_of_palette(path, image_HWC[:, :, 0], palette), turn)
    if bits < PLAIN:
        return StoredPixels(image_HWC * np.uint8(EIGHT_BITS // (2**bits - 1)), turn)
    if bits > PLAIN and pixel != GREY:
        return StoredPixels((image_HWC >> 8).astype(np.uint8), turn, whole=False)
    return StoredPixels(image_HWC, turn)


def _samples(lines: Pixels, width: int, channels: int, bits: int) -> NDArray[Any]:
    """Return the samples [H, W, C] of lines of bytes: several in a byte, the first in its upper bits, or two bytes."""
    if bits < PLAIN:
        spread = np.unpackbits(lines, axis=1).reshape(len(lines), -1, bits)
        samples = spread @ (1 << np.arange(bits)[::-1]).astype(np.uint8)
        return samples[:, : width * channels].reshape(len(lines), width, channels)
    whole = np.ascontiguousarray(lines).view(">u2").astype(np.uint16) if bits > PLAIN else lines
    return whole.reshape(len(lines), width, channels)


def _of_palette(path: Path, numbers: Pixels, palette: bytes) -> Pixels:
    if numbers.max() >= len(palette) // 3:
        raise Rejected(f"{path} is damaged: its palette has no colour {numbers.max()}")
    return np.frombuffer(palette, np.uint8).reshape(-1, 3)[numbers]


def _png_chunks(path: Path, content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and body of each chunk up to the end mark, with their checksums verified."""
    start, kind = len(PNG_START), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content.ljust(start + 8, b"\0"), start)
        end = start + 8 + length
        if len(content) < end + 4:
            raise Rejected(f"{path} is truncated: it has no end mark")
        body = content[start + 8 : end]
        if zlib.crc32(kind + body) != int.from_bytes(content[end : end + 4], "big"):
            raise Rejected(f"{path} is damaged: the checksum of its chunk {kind!r} at byte {start} is wrong")
        yield kind, body
        start = end + 4


def _inflate(path: Path, packed: bytes, size: int) -> Pixels:
    """Unpack the first `size` bytes, and no more, whatever the file would unpack to."""
    try:
        unpacked = zlib.decompressobj().decompress(packed, size)
    except zlib.error as error:
        raise Rejected(f"{path} is damaged: its pixels cannot be unpacked ({error})") from error
    if len(unpacked) < size:
        raise Rejected(f"{path} is truncated: pixels are missing")
    return np.frombuffer(unpacked, np.uint8)


def _unfilter(filters: Pixels, stored_HWC: Pixels) -> Pixels:
    """Add to each pixel what it was predicted from: left (1), upper (2), their mean (3), or Paeth's choice (4).

    A pixel needs its left, upper and corner neighbours, so all of one diagonal are done together. With a column more
    than there is, a diagonal is a slice, and the two before it are kept by row, below a row of zeros.
    """
    if not filters.any():
        return stored_HWC
    height, width, channels = stored_HWC.shape
    image_HWC = np.zeros((height, width + 1, channels), np.uint8)
    image_HWC[:, :width] = stored_HWC
    flat = image_HWC.reshape(-1, channels)
    last, before = np.zeros((2, height + 1, channels), np.int16)
    for diagonal in range(height + width - 1):
        top, end = max(0, diagonal - width + 1), min(height, diagonal + 1)
        pixels = flat[diagonal + top * width : diagonal + end * width : width]
        left, upper, corner = last[top + 1 : end + 1], last[top:end], before[top:end]
        to_left, to_upper, to_corner = abs(upper - corner), abs(left - corner), abs(left + upper - 2 * corner)
        paeth = np.where(to_upper <= to_corner, upper, corner)
        paeth = np.where((to_left <= to_upper) & (to_left <= to_corner), left, paeth)
        predicted = np.choose(filters[top:end, None], (np.int16(0), left, upper, (left + upper) >> 1, paeth))
        pixels += predicted.astype(np.uint8)
        before[top + 1 : end + 1] = pixels
        last, before = before, last
    return image_HWC[:, :width]


def _decode_pnm(path: Path, content: bytes, white: float | None) -> StoredPixels:
    """Decode PGM and PPM. A file says its white; for grey ones of more than 8 bits a stated `white` counts instead."""
    space = rb"(?:\s|#[^\n]*\n)+"
    header = re.match(rb"P([56])" + (space + rb"(\d{1,9})") * 3 + rb"\s", content)
    if header is None:
        raise Rejected(f"{path} is damaged: its header is incomplete")
    width, height, highest = int(header[2]), int(header[3]), int(header[4])
    _check_size(path, width, height)
    if not 0 < highest <= SIXTEEN_BITS:
        raise Rejected(f"{path} is damaged: it gives {highest} as white, allowed: 1 to {SIXTEEN_BITS}")
    channels, dtype = 3 if header[1] == b"6" else 1, np.dtype(">u2" if highest > EIGHT_BITS else "u1")
    count = width * height * channels
    if len(content) < header.end() + count * dtype.itemsize:
        raise Rejected(f"{path} is truncated: pixels are missing")
    values = np.frombuffer(content, dtype, count, header.end()).reshape(height, width, channels)
    grey_and_deep = highest > EIGHT_BITS and channels == 1
    if grey_and_deep and white is not None:
        return StoredPixels(values.astype(np.uint16))
    most = SIXTEEN_BITS if grey_and_deep else EIGHT_BITS
    if highest != most:
        values = np.minimum(np.rint(values / highest * most), most)
    return StoredPixels(
        values.astype(np.uint16 if grey_and_deep else np.uint8), whole=highest <= EIGHT_BITS or channels == 1
    )


def _decode_npy(path: Path) -> Pixels:
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # of many kinds, down to those of Python's tokenizer
        raise Rejected(f"{path} is not a complete .npy file of numbers ({reason(error)})") from error
    if pixels.dtype != np.uint8 or pixels.ndim not in {2, 3} or pixels.shape[2:] not in {(), (3,)}:
        raise Rejected(f"{path} holds {pixels.dtype} {list(pixels.shape)}, allowed: uint8 [H, W] or [H, W, 3]")
    _check_size(path, pixels.shape[1], pixels.shape[0])
    return np.array(pixels).reshape(*pixels.shape[:2], -1)


def _decode_with_pillow(path: Path, colour: str, content: bytes) -> StoredPixels:
    try:
        from PIL import Image
    except ImportError as error:
        kinds = "PNG without interlacing, PGM, PPM, .npy"
        raise Rejected(f"{path} is not among {kinds}; for other kinds install Pillow: pip install pillow") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd tags; sizes are checked here
            with Image.open(path, formats=PILLOW_FORMATS) as image:
                _check_size(path, *image.size)
                return _of_pillow(path, image, colour, content)
    except Rejected:
        raise
    except Exception as error:  # decoders raise many kinds for a file that is damaged
        raise Rejected(f"{path} cannot be read as an image ({reason(error)})") from error


def _of_pillow(path: Path, image: Image.Image, colour: str, content: bytes) -> StoredPixels:
    image.load()
    tags: Any = getattr(image, "tag_v2", {})  # of TIFF alone
    # Pillow turns TIFF files by itself since version 10, and drops the tag then
    turn = tags.get(ORIENTATION, 1) if tags else orientation(image.info.get("exif", b""))
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        if tags.get(PHOTOMETRIC) == 0:
            raise Rejected(f"{path} is an inverted image ({image.mode}, white is zero): save it with black as zero")
        values = np.array(image)
        png = image.format == "PNG" or values.dtype.kind == "u"
        return StoredPixels((values.astype(np.uint16) if png else values)[:, :, None], turn)
    bits = tags.get(BITS, ()) if tags else content[24:25] if image.format == "PNG" else ()
    pixels = np.array(image.convert("L" if colour == "grey" else "RGB"))
    return StoredPixels(pixels.reshape(*pixels.shape[:2], -1), turn, whole=max(bits or (PLAIN,)) <= PLAIN)


def _check_size(path: Path, width: int, height: int) -> None:
    if not 0 < width * height <= PIXELS_AT_MOST or max(width, height) > SIDE_AT_MOST:
        allowed = f"1 to {PIXELS_AT_MOST:,} pixels, {SIDE_AT_MOST:,} on a side"
        raise Rejected(f"{path} claims {width} x {height} pixels, allowed: {allowed}")


# -- the network -------------------------------------------------------------------------------------------------------


class Network:
    """The network of a bundle, loaded in one runtime, by default the one that it was made for."""

    def __init__(self, folder: Path, runtime: str | None = None, threads: int = 1) -> None:
        preprocessing = load_preprocessing(folder)
        self.runtime = runtime or preprocessing["runtime"]
        self._shape = [preprocessing[name] for name in ("batch", "channels", "height", "width")]
        file = model_file(folder, self.runtime)
        stored = model_content(file)
        try:
            if self.runtime == "onnxruntime":
                self._infer, self.version = _load_onnxruntime(stored, threads)
            else:
                self._infer, self.version = _load_openvino(stored, threads, self._shape)
        except ImportError as error:
            own = "" if self.runtime == preprocessing["runtime"] else f"-{self.runtime}"
            line = f"pip install -r requirements{own}.txt"
            raise RuntimeMissing(f"{self.runtime} is not installed ({error}); install it: {line}") from error
        except Exception as error:
            raise Rejected(f"{file}: {self.runtime} cannot read it ({reason(error)})") from error

    def logits(self, inputs_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the network's outputs, float32 [N, classes], for any N: batch by batch, the last one filled up."""
        batch, *shape = self._shape
        if list(inputs_NCHW.shape[1:]) != shape or not len(inputs_NCHW):
            raise Rejected(f"the inputs have the shape {list(inputs_NCHW.shape)}, allowed: {['N', *shape]}, N from 1")
        filled = np.concatenate([inputs_NCHW, np.repeat(inputs_NCHW[-1:], -len(inputs_NCHW) % batch, axis=0)])
        outputs = [self._infer(filled[start : start + batch]) for start in range(0, len(filled), batch)]
        return np.concatenate(outputs)[: len(inputs_NCHW)]


def model_file(folder: Path, runtime: str) -> Path:
    """Return the model file of a bundle for a runtime, which may be packed. Raises Rejected where there is none."""
    names = [f"{name}{suffix}" for name in MODELS.get(runtime, ()) for suffix in ("", PACKED)]
    files = [Path(folder) / "model" / name for name in names]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise Rejected(f"{folder} has no file for the runtime {runtime}")
    return found


def model_content(file: Path) -> Stored:
    """Return what a runtime loads: the path of a file, or of a packed one the bytes of graph and, of an IR, weights.

    It is unpacked in memory: a bundle's folder may be read-only, and holds no file that its manifest does not name.
    Raises Rejected.
    """
    if file.suffix != PACKED:
        return (str(file),)
    unpack = _unpacker()
    try:
        files = unpack.unpack_files(file.read_bytes())
    except (unpack.Damaged, OSError) as error:
        raise Rejected(f"{file}: {error}") from error
    main = file.name[: -len(PACKED)]
    wanted = [main, f"{main[:-4]}.bin"] if main.endswith(".xml") else [main]
    if sorted(files) != sorted(wanted):
        raise Rejected(f"{file}: it holds {', '.join(map(ascii, files))}, expected {' and '.join(wanted)}")
    return tuple(files[name] for name in wanted)


def _unpacker() -> Any:  # noqa: ANN401 - a module
    """Return unpack.py: from beside this file in a bundle, else that of the program which has this file."""
    path = Path(__file__).resolve().with_name(UNPACK)
    if not path.is_file():
        return importlib.import_module("pipeline.compress.coding.unpack")
    spec = importlib.util.spec_from_file_location("bundle_unpack", path)
    if spec is None or spec.loader is None:
        raise Rejected(f"{path} cannot be loaded; expected the one of this bundle")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # verify.py allows no other file here
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = written
    return module


def _load_onnxruntime(stored: Stored, threads: int) -> tuple[Infer, str]:
    """Load an ONNX file as it was timed: its threads sleep while they wait."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(stored[0], options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: session.run(None, {name: inputs})[0], onnxruntime.__version__


def _load_openvino(stored: Stored, threads: int, shape: list[int]) -> tuple[Infer, str]:
    """Load an IR or ONNX file as it was timed: in single precision where it is not quantized, on any core."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # OpenVINO then sends no usage data
    import openvino

    if sys.modules["openvino_telemetry"] is None:
        del sys.modules["openvino_telemetry"]

    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": str(threads),
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": "NO",
    }
    core = openvino.Core()
    model = core.read_model(*stored)
    if model.is_dynamic():
        model.reshape(shape)
    compiled = core.compile_model(model, "CPU", options)
    return lambda inputs: compiled([inputs])[0], openvino.__version__.partition("-")[0]


def softmax(logits_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities, each row adding up to 1. Raises Rejected where a row's largest is NaN or infinite."""
    largest = logits_NK.max(axis=1, keepdims=True)
    if not np.isfinite(largest).all():
        raise Rejected("the network's outputs are not finite: there is no class to name")
    powers = np.exp(logits_NK - largest)
    shares: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def printable(text: str) -> str:
    """Return a line with characters that a terminal would obey, such as those in a file's name, as escapes."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


# -- the command -------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Classify the images that are named. Returns 2 for what cannot be used, 5 for a runtime that is not installed."""
    parser = argparse.ArgumentParser(description="Classify images with the network in this folder.")
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=Path)
    parser.add_argument("--runtime", choices=sorted(MODELS), help="default: the one the network was made for")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument(
        "--top", type=int, default=1, metavar="K", help="number of classes to show, the likeliest first"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(arguments)
    if min(given.threads, given.top) < 1:
        parser.error("--threads and --top must be 1 or more")
    folder = Path(__file__).resolve().parent
    try:
        preprocessing = load_preprocessing(folder)
        images_NCHW = np.stack(read_images(given.images, preprocessing))
        network = Network(folder, given.runtime, given.threads)
        probabilities = softmax(network.logits(normalise(images_NCHW, preprocessing)))
        labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    except (Rejected, OSError) as error:
        print("\n".join(printable(f"infer.py: {line}") for line in str(error).splitlines()), file=sys.stderr)
        return getattr(error, "exit_code", 2)
    results = []
    for path, row in zip(given.images, probabilities):
        likeliest = np.argsort(-row, kind="stable")[: given.top]
        classes = [{"label": labels[index], "probability": float(row[index])} for index in likeliest]
        results.append({"image": str(path), "classes": classes})
        if not given.json:
            named = ", ".join("{label} ({probability:.2f})".format_map(each) for each in classes)
            print(printable(f"{path}: {named}"))
    if given.json:
        print(
            json.dumps(
                {"runtime": network.runtime, "version": network.version, "results": results}, indent=1, allow_nan=False
            )
        )
    return 0


def read_to_the_end(command: Callable[[], int]) -> int:
    """Return the command's exit code, or 141, as of SIGPIPE, where nobody reads what it prints (`| head`)."""
    try:
        code = command()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what the interpreter still writes at its end
        return 141
    return code


if __name__ == "__main__":
    sys.exit(read_to_the_end(main))
