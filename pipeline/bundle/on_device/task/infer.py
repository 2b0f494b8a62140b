# SPDX-License-Identifier: Apache-2.0
"""What infer.py of such a bundle does: samples of .npz files, or images, through the network and the task's code.

In a program of your own, with a bundle's folder on the import path:

    from on_device.task.network import TaskNetwork
    from on_device.task.task_code import load_facts, load_task_code

    facts = load_facts(folder)
    task, network = load_task_code(folder, facts), TaskNetwork(folder, facts)
    predictions = [task.decode(outputs) for outputs in network.outputs([task.inputs(raw) for raw in samples])]
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..infer import (
    MODELS,
    PNG_HEADER,
    PNG_START,
    Rejected,
    convert,
    load_pixels,
    printable,
    read_to_the_end,
    reason,
    shown,
)
from .answers import load_arrays, prediction_lists, prediction_text
from .network import TaskNetwork
from .task_code import TaskCode, load_facts, load_task_code, raw_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ..infer import Pixels

#: Axes of an image as the task takes it, made from [H, W, C].
LAYOUTS = {"CHW": (2, 0, 1), "HWC": (0, 1, 2)}


def read_sample(path: Path, facts: Mapping[str, Any]) -> Any:  # noqa: ANN401 - as the task's code is given it
    """Return the raw sample in an .npz file, or of an image file where the task takes one image."""
    if path.suffix == ".npz":
        arrays = load_arrays(path)
        try:
            return raw_of(arrays, facts)
        except Rejected as error:
            raise Rejected(f"{path}: {error}") from error
    image = facts["image"]
    if image is None:
        raise Rejected(f"{path}: allowed: an .npz file like those in samples/, because this task takes no single image")
    pixels = image_pixels(path, image["colour"])
    layout = image["layout"]
    value = pixels[:, :, 0] if layout == "HW" else np.ascontiguousarray(pixels.transpose(LAYOUTS[layout]))
    return {image["name"]: value} if facts["raw_is_dict"] else value


def read_ready(path: Path) -> dict[str, NDArray[Any]]:
    """Return the network's inputs in an .npz file, like those in samples/*.inputs.npz."""
    if path.suffix != ".npz":
        raise Rejected(f"{path}: allowed with --ready: an .npz file like samples/*.inputs.npz")
    return load_arrays(path)


def image_pixels(path: Path, colour: str) -> Pixels:
    """Return an image file as uint8 [H, W, C] at its own size; it must have 8 bits and not be turned by its EXIF."""
    stored = load_pixels(path, colour, None)
    if stored.values_HWC.dtype != np.uint8 or not stored.whole:
        raise Rejected(f"{path} has more than 8 bits, allowed: 8")
    if stored.turn > 1:
        raise Rejected(f"{path} is rotated by its EXIF, allowed: not rotated")
    return convert(shown(path, stored, None), colour)


def raw_image(raw: Any, facts: Mapping[str, Any]) -> NDArray[np.uint8]:  # noqa: ANN401 - as the task is given it
    """Return the image of a raw sample as uint8 [H, W, 3]. Raises Rejected where it has none."""
    image = facts["image"]
    if image is None:
        raise Rejected("--draw: allowed for tasks that take one image, and this one does not")
    value = raw[image["name"]] if facts["raw_is_dict"] else raw
    if image["layout"] == "HW":
        value = value[:, :, None]
    elif image["layout"] == "CHW":
        value = value.transpose(1, 2, 0)
    return np.array(np.broadcast_to(value, (*value.shape[:2], 3)))


def png_bytes(image_HWC: NDArray[np.uint8]) -> bytes:
    """Return an image, uint8 [H, W, 1] or [H, W, 3], as a PNG file. Source: ISO/IEC 15948."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, channels = image_HWC.shape
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with its filter: none
    lines[:, 1:] = image_HWC.reshape(height, -1)
    header = PNG_HEADER.pack(width, height, 8, 2 if channels > 1 else 0, 0, 0, 0)
    body = zlib.compress(lines.tobytes(), 9)
    return PNG_START + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def main(arguments: Sequence[str] | None = None) -> int:
    """Tell what the network finds; a reader that goes away is no error. Returns the exit code."""
    return read_to_the_end(lambda: _command(arguments))


def _command(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="infer.py", description="Run the network in this folder on samples.")
    parser.add_argument(
        "samples", nargs="+", metavar="SAMPLE", type=Path, help=".npz, or an image if the task takes one"
    )
    parser.add_argument("--runtime", choices=sorted(MODELS), help="default: the one the network was made for")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument(
        "--ready", action="store_true", help="samples are inputs as the network takes them, as in samples/*.inputs.npz"
    )
    parser.add_argument("--draw", type=Path, metavar="OUT.png", help="write the one image with what was found in it")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(arguments)
    if given.threads < 1:
        parser.error("--threads must be 1 or more")
    if given.draw and (len(given.samples) > 1 or given.draw.suffix != ".png"):
        parser.error("--draw needs one sample, and a name that ends in .png")
    if given.draw and given.ready:
        parser.error("--draw needs the sample as it was given, without --ready")
    try:
        told = _told(Path(__file__).resolve().parents[2], given)
    except (Rejected, OSError) as error:
        print("\n".join(printable(f"infer.py: {line}") for line in str(error).splitlines()), file=sys.stderr)
        return getattr(error, "exit_code", 2)
    print(told)  # where nobody reads it, that is for `read_to_the_end`
    return 0


def _told(folder: Path, given: argparse.Namespace) -> str:
    """Run what the command line says, and return what is to be printed."""
    facts = load_facts(folder)
    task = load_task_code(folder, facts)
    raws = [read_ready(path) if given.ready else read_sample(path, facts) for path in given.samples]
    network = TaskNetwork(folder, facts, given.runtime, given.threads)
    inputs = raws if given.ready else [_inputs(task, raw, path) for path, raw in zip(given.samples, raws)]
    for path, each in zip(given.samples, inputs):
        network.check_inputs(each, str(path))
    predictions = [task.decode(outputs) for outputs in _outputs(network, inputs)]
    if given.draw:
        _draw(task, predictions[0], raw_image(raws[0], facts), given.draw)
    if given.json:
        results = [{"sample": str(path), **prediction_lists(each)} for path, each in zip(given.samples, predictions)]
        told = {"runtime": network.runtime, "version": network.version, "results": results}
        return json.dumps(told, indent=1, allow_nan=False)
    if given.ready and "file" in facts["code"]:  # its show() is for the sample as it was given
        return "\n".join(_lines(path, prediction_text(each)) for path, each in zip(given.samples, predictions))
    return "\n".join(_lines(path, task.show(each, raw)) for path, each, raw in zip(given.samples, predictions, raws))


def _inputs(task: TaskCode, raw: Any, path: Path) -> dict[str, NDArray[Any]]:  # noqa: ANN401 - as the task is given it
    try:
        return task.inputs(raw)
    except Rejected as error:
        raise Rejected(f"{path}: {error}") from error


def _outputs(network: TaskNetwork, inputs: Sequence[Mapping[str, NDArray[Any]]]) -> list[dict[str, NDArray[Any]]]:
    """Run the network, which may refuse what has the right type and shape: a word it does not know, an odd size."""
    try:
        return network.outputs(inputs)
    except Rejected:
        raise
    except Exception as error:  # of the runtime's own kinds
        raise Rejected(f"the network cannot be run on these samples in {network.runtime} ({reason(error)})") from error


def _draw(task: TaskCode, prediction: Any, image_HWC: NDArray[np.uint8], file: Path) -> None:  # noqa: ANN401
    if not task.can_draw:
        raise Rejected("--draw: this task does not draw its predictions")
    file.write_bytes(png_bytes(task.draw(prediction, image_HWC)))


def _lines(path: Path, text: str) -> str:
    """Return what was found in a sample: one line beside its name, several below it."""
    lines = text.splitlines() or ["nothing"]
    if len(lines) == 1:
        return printable(f"{path}: {lines[0]}")
    return "\n".join([printable(f"{path}:"), *(f"  {printable(line)}" for line in lines)])
