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

An image becomes the very numbers that the network was judged on: colours and sizes are converted as Pillow 13 does, bit
by bit. PNG, PGM, PPM and .npy files are read here; other kinds by Pillow, where it is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    Pixels = NDArray[np.uint8]
    Infer = Callable[[NDArray[np.float32]], NDArray[np.float32]]

#: Larger images are refused before memory is taken for their pixels.
PIXELS_AT_MOST, SIDE_AT_MOST = 2**25, 2**15
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_HEADER = struct.Struct(">IIBBBBB")
#: PNG's kinds of pixels with the channels that are stored and those that are colours; the others are alpha.
PNG_CHANNELS = {0: (1, 1), 2: (3, 3), 3: (1, 1), 4: (2, 1), 6: (4, 3)}
PALETTE = 3
LONGEST_REASON = 300
#: The files that each runtime reads; the first that is there is the one.
MODELS = {"onnxruntime": ("model.onnx",), "openvino": ("model.xml", "model.onnx")}


class Refused(Exception):
    """A file or an argument cannot be used as it is; the text says why in one line."""

    exit_code = 2


class RuntimeMissing(Refused):
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
        raise Refused(f"{file} cannot be read ({error}); expected the one of a whole bundle") from error
    if not isinstance(found, dict) or found.get("schema_version") != 1:
        raise Refused(f"{file} is not of schema version 1; infer.py and preprocess.json must be of one bundle")
    return found


def read_image(path: Path, preprocessing: Mapping[str, Any]) -> Pixels:
    """Return an image file as uint8 [C, H, W] in the network's colours and size."""
    path = Path(path)
    height, width = preprocessing["height"], preprocessing["width"]
    image_HWC = convert(decode(path, preprocessing["colour"]), preprocessing["colour"])
    fitted = fit(image_HWC, height, width, preprocessing["resize"]["rule"])
    if fitted.shape[:2] != (height, width):
        found = f"{fitted.shape[1]} x {fitted.shape[0]}"
        raise Refused(f"{path} has {found} pixels, allowed: {width} x {height}, for this network resizes nothing")
    return np.ascontiguousarray(fitted.transpose(2, 0, 1))


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


def decode(path: Path, colour: str) -> Pixels:
    """Return the pixels of a file, uint8 [H, W, 1] (grey) or [H, W, 3] (red, green, blue). Alpha is ignored."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error
    if content.startswith(PNG_START):
        image_HWC = _decode_png(path, content)
    elif re.match(rb"P[56]\s", content):
        image_HWC = _decode_pnm(path, content)
    elif content.startswith(b"\x93NUMPY"):
        image_HWC = _decode_npy(path)
    else:
        image_HWC = None
    return _decode_with_pillow(path, colour) if image_HWC is None else image_HWC


def _decode_png(path: Path, content: bytes) -> Pixels | None:
    """Decode 8 bits that are not interlaced; other PNG files are left to Pillow. Source: ISO/IEC 15948."""
    chunks = list(_png_chunks(path, content))
    header, palette = (dict(chunks).get(kind, b"") for kind in (b"IHDR", b"PLTE"))
    if len(header) != PNG_HEADER.size or len(palette) % 3:
        raise Refused(f"{path} is damaged: its header or its palette has {len(header)} or {len(palette)} bytes")
    width, height, bits, pixel, _, _, interlaced = PNG_HEADER.unpack(header)
    _check_size(path, width, height)
    if (bits, interlaced) != (8, 0) or pixel not in PNG_CHANNELS:
        return None
    stored, shown = PNG_CHANNELS[pixel]
    packed = b"".join(body for kind, body in chunks if kind == b"IDAT")
    lines = _inflate(path, packed, height * (1 + width * stored)).reshape(height, 1 + width * stored)
    if lines[:, 0].max() not in range(5):
        raise Refused(f"{path} is damaged: a line has filter {lines[:, 0].max()}, allowed: 0 to 4")
    image_HWC = _unfilter(lines[:, 0], lines[:, 1:].reshape(height, width, stored))[:, :, :shown]
    if pixel != PALETTE:
        return image_HWC
    if image_HWC.max() >= len(palette) // 3:
        raise Refused(f"{path} is damaged: its palette has no colour {image_HWC.max()}")
    return np.frombuffer(palette, np.uint8).reshape(-1, 3)[image_HWC[:, :, 0]]


def _png_chunks(path: Path, content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and body of each chunk up to the end mark, with their checksums verified."""
    start, kind = len(PNG_START), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content.ljust(start + 8, b"\0"), start)
        end = start + 8 + length
        if len(content) < end + 4:
            raise Refused(f"{path} is cut short: it has no end mark")
        body = content[start + 8 : end]
        if zlib.crc32(kind + body) != int.from_bytes(content[end : end + 4], "big"):
            raise Refused(f"{path} is damaged: the checksum of its chunk {kind!r} at byte {start} is wrong")
        yield kind, body
        start = end + 4


def _inflate(path: Path, packed: bytes, size: int) -> Pixels:
    """Unpack the first `size` bytes, and no more, whatever the file would unpack to."""
    try:
        unpacked = zlib.decompressobj().decompress(packed, size)
    except zlib.error as error:
        raise Refused(f"{path} is damaged: its pixels cannot be unpacked ({error})") from error
    if len(unpacked) < size:
        raise Refused(f"{path} is cut short: pixels are missing")
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


def _decode_pnm(path: Path, content: bytes) -> Pixels | None:
    """Decode PGM and PPM of 8 bits; others are left to Pillow."""
    space = rb"(?:\s|#[^\n]*\n)+"
    header = re.match(rb"P([56])" + (space + rb"(\d{1,9})") * 3 + rb"\s", content)
    if header is None:
        raise Refused(f"{path} is damaged: it has no whole header")
    width, height = int(header[2]), int(header[3])
    _check_size(path, width, height)
    if int(header[4]) != np.iinfo(np.uint8).max:
        return None
    channels = 3 if header[1] == b"6" else 1
    pixels = content[header.end() : header.end() + width * height * channels]
    if len(pixels) < width * height * channels:
        raise Refused(f"{path} is cut short: pixels are missing")
    return np.frombuffer(pixels, np.uint8).reshape(height, width, channels)


def _decode_npy(path: Path) -> Pixels:
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # of many kinds, down to those of Python's tokenizer
        raise Refused(f"{path} is no whole .npy file of numbers ({reason(error)})") from error
    if pixels.dtype != np.uint8 or pixels.ndim not in {2, 3} or pixels.shape[2:] not in {(), (3,)}:
        raise Refused(f"{path} holds {pixels.dtype} {list(pixels.shape)}, allowed: uint8 [H, W] or [H, W, 3]")
    _check_size(path, pixels.shape[1], pixels.shape[0])
    return np.array(pixels).reshape(*pixels.shape[:2], -1)


def _decode_with_pillow(path: Path, colour: str) -> Pixels:
    try:
        from PIL import Image
    except ImportError as error:
        kinds = "PNG of 8 bits without interlacing, PGM, PPM, .npy"
        raise Refused(f"{path} is not among {kinds}; for other kinds install Pillow: pip install pillow") from error
    try:
        with Image.open(path) as image:
            _check_size(path, *image.size)
            pixels = np.array(image.convert("L" if colour == "grey" else "RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Refused(f"{path} cannot be read as an image ({reason(error)})") from error
    return pixels.reshape(*pixels.shape[:2], -1)


def _check_size(path: Path, width: int, height: int) -> None:
    if not 0 < width * height <= PIXELS_AT_MOST or max(width, height) > SIDE_AT_MOST:
        allowed = f"1 to {PIXELS_AT_MOST:,} pixels, {SIDE_AT_MOST:,} on a side"
        raise Refused(f"{path} says that it has {width} x {height} pixels, allowed: {allowed}")


# -- the network -------------------------------------------------------------------------------------------------------


class Network:
    """The network of a bundle, loaded in one runtime, by default the one that it was made for."""

    def __init__(self, folder: Path, runtime: str | None = None, threads: int = 1) -> None:
        """Load the file; `threads` are the runtime's own."""
        preprocessing = load_preprocessing(folder)
        self.runtime = runtime or preprocessing["runtime"]
        self._shape = [preprocessing[name] for name in ("batch", "channels", "height", "width")]
        files = [Path(folder) / "model" / name for name in MODELS.get(self.runtime, ())]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise Refused(f"{folder} has no file for the runtime {self.runtime}")
        try:
            if self.runtime == "onnxruntime":
                self._infer, self.version = _load_onnxruntime(file, threads)
            else:
                self._infer, self.version = _load_openvino(file, threads, self._shape)
        except ImportError as error:
            own = "" if self.runtime == preprocessing["runtime"] else f"-{self.runtime}"
            line = f"pip install -r requirements{own}.txt"
            raise RuntimeMissing(f"{self.runtime} is not installed ({error}); install it: {line}") from error
        except Exception as error:
            raise Refused(f"{file}: {self.runtime} cannot read it ({reason(error)})") from error

    def logits(self, inputs_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the network's outputs, float32 [N, classes], for any N: batch by batch, the last one filled up."""
        batch, *shape = self._shape
        if list(inputs_NCHW.shape[1:]) != shape or not len(inputs_NCHW):
            raise Refused(f"the inputs have the shape {list(inputs_NCHW.shape)}, allowed: {['N', *shape]}, N from 1")
        filled = np.concatenate([inputs_NCHW, np.repeat(inputs_NCHW[-1:], -len(inputs_NCHW) % batch, axis=0)])
        outputs = [self._infer(filled[start : start + batch]) for start in range(0, len(filled), batch)]
        return np.concatenate(outputs)[: len(inputs_NCHW)]


def _load_onnxruntime(file: Path, threads: int) -> tuple[Infer, str]:
    """Load an ONNX file as it was timed: its threads sleep while they wait."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: session.run(None, {name: inputs})[0], onnxruntime.__version__


def _load_openvino(file: Path, threads: int, shape: list[int]) -> tuple[Infer, str]:
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
    model = core.read_model(file)
    if model.is_dynamic():
        model.reshape(shape)
    compiled = core.compile_model(model, "CPU", options)
    return lambda inputs: compiled([inputs])[0], openvino.__version__.partition("-")[0]


def softmax(logits_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities, each row adding up to 1. Raises Refused where a row's largest is NaN or infinite."""
    largest = logits_NK.max(axis=1, keepdims=True)
    if not np.isfinite(largest).all():
        raise Refused("the network's outputs are not finite: no class can be told")
    powers = np.exp(logits_NK - largest)
    shares: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return shares


# -- the command -------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Classify the images that are named. Returns 2 for what cannot be used, 5 for a runtime that is not installed."""
    parser = argparse.ArgumentParser(description="Classify images with the network in this folder.")
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=Path)
    parser.add_argument("--runtime", choices=sorted(MODELS), help="default: the one that the network was made for")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="classes to show, the likeliest first")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(arguments)
    if min(given.threads, given.top) < 1:
        parser.error("--threads and --top are 1 or more")
    folder = Path(__file__).resolve().parent
    try:
        preprocessing = load_preprocessing(folder)
        images_NCHW = np.stack([read_image(path, preprocessing) for path in given.images])
        network = Network(folder, given.runtime, given.threads)
        probabilities = softmax(network.logits(normalise(images_NCHW, preprocessing)))
        labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    except (Refused, OSError) as error:
        print(f"infer.py: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    results = []
    for path, row in zip(given.images, probabilities):
        likeliest = np.argsort(-row, kind="stable")[: given.top]
        classes = [{"label": labels[index], "probability": float(row[index])} for index in likeliest]
        results.append({"image": str(path), "classes": classes})
        if not given.json:
            print(f"{path}:", ", ".join("{label} ({probability:.2f})".format_map(each) for each in classes))
    if given.json:
        print(
            json.dumps(
                {"runtime": network.runtime, "version": network.version, "results": results}, indent=1, allow_nan=False
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
