"""`secateur inspect --bit-exact-arm`: the same outputs with and without the kernels that clip sums, and on ARM?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.analysis.feeds import fixed_inputs
from pipeline.core.errors import DeviceError, InputError
from pipeline.measure.devices import open_device
from pipeline.onnx_graph.file import onnx_specs, read_onnx
from pipeline.precision.same_bits import Agreement, exact_sums, on_device

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.core.feeds import Feeds
    from pipeline.inspect.file import InspectOptions

PROCESSORS = ("qemu://cortex-a72", "qemu://cortex-a76")


def compare_bits(file: Path, ways: InspectOptions) -> list[Agreement]:
    """Compare a file's outputs on its images, or on random inputs where there are none.

    A processor that cannot be emulated here is told by an agreement over no image, whose note says why.

    Raises:
        InputError: the file is no ONNX file.
    """
    if file.suffix != ".onnx":
        raise InputError(f"{file}: found --bit-exact-arm with an OpenVINO file, allowed: an ONNX file")
    samples = ways.images.feeds if ways.images else _random(file, ways)
    found = [exact_sums(file, samples)]
    for processor in PROCESSORS:
        try:
            found.append(on_device(file, samples, open_device(processor)))
        except DeviceError as error:
            found.append(Agreement("local", processor, 0, 0, None, 0.0, None, conclusive=False, note=str(error)))
    return found


def text_of(agreements: Sequence[Agreement]) -> str:
    """Return a line for each comparison."""
    return "\n".join(_line(each) for each in agreements)


def worst_exit_code(agreements: Sequence[Agreement]) -> int:
    """Return the exit code: 1 when a class differs, 3 when no processor could be asked, else 0."""
    if any(each.same_argmax is not None and each.same_argmax < each.images for each in agreements):
        return 1
    return 0 if any(each.images for each in agreements[1:]) else 3


def _line(each: Agreement) -> str:
    if not each.images:
        return f"{each.here} and {each.there}: not compared: {each.note}"
    classes = "" if each.same_argmax is None else f", the same class for {each.same_argmax}"
    note = f" ({each.note})" if each.note else ""
    return (
        f"{each.here} and {each.there}: the same bits for {each.same_bits} of {each.images} images{classes}; largest "
        f"difference {each.largest:.1e} of the largest output{note}"
    )


def _random(file: Path, ways: InspectOptions) -> Feeds:
    drawn = np.random.default_rng(ways.seed)
    found: dict[str, NDArray[Any]] = {}
    for spec in fixed_inputs(onnx_specs(read_onnx(file))[0], ways.shapes, str(file)):
        sizes, whole = (ways.count, *spec.shape[1:]), not np.issubdtype(np.dtype(spec.dtype), np.floating)
        numbers = np.zeros(sizes) if whole else drawn.standard_normal(sizes, dtype=np.float32)
        found[spec.name] = numbers.astype(spec.dtype)
    return found
