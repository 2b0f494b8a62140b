"""Does a file give the same bits elsewhere? The same samples there and here, compared bit by bit and by class.

Three ways to ask, from cheap to sure: `exactness.expected` reads the weights; `exact_sums` runs the file on this x86
processor with and without the kernels that saturate; `on_device` runs it on another one: an emulated ARM
(`qemu://cortex-a72`), an emulated x86 without VNNI (`Avx2Device`), or a board over ssh or adb.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.errors import DeviceError, InputError, OutputsError, first_line
from pipeline.core.feeds import feed_slices, require_inputs, sample_count
from pipeline.core.runtimes import RUNTIMES
from pipeline.measure.devices.local import LocalDevice
from pipeline.measure.installed import missing_packages, missing_text
from pipeline.measure.machine import machine_fingerprint
from pipeline.measure.model_files import model_files
from pipeline.measure.subjects import PATIENCE_S, MeasureTerms, start_worker
from pipeline.precision.targets import target_facts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.core.feeds import Feeds
    from pipeline.core.stage import Progress, Runtime
    from pipeline.measure.devices import Device

#: Session option of onnxruntime that turns s8 weights into u8 ones, whose sums never saturate (x86-64 alone).
_EXACT_OPTION = "session.x64quantprecision"


@dataclass(frozen=True)
class Output:
    """One output for one image: the digest of its bytes, and its numbers (of a large one every n-th)."""

    sha256: str
    shape: tuple[int, ...]
    values: NDArray[np.float32]


@dataclass(frozen=True)
class BitDifference:
    """The first image and output (by its place) that differ, and by how much, relative to that output's largest."""

    image: int
    output: int
    relative: float


@dataclass(frozen=True)
class Agreement:
    """How many of the images have the same outputs here and there.

    `same_bits` counts images all of whose outputs agree bit by bit, `same_argmax` those whose first output has its
    largest entry at the same place (None where it is no vector). `largest` is the largest difference, relative to the
    largest value of that output here. `conclusive` is False where both sides cannot differ by construction; `note`
    says why.
    """

    here: str
    there: str
    images: int
    same_bits: int
    same_argmax: int | None
    largest: float
    first: BitDifference | None
    conclusive: bool = True
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name; a difference that is not finite is None."""
        return {name: _finite(value) for name, value in asdict(self).items()}


def exact_sums(file: Path, feeds: Feeds) -> Agreement:
    """Compare an ONNX file in onnxruntime with itself under `session.x64quantprecision`, on this processor.

    On a processor that saturates, what differs is what saturation does to the outputs. With VNNI, or on ARM, both
    sides are exact: `conclusive` is False, and `on_device` with an `Avx2Device` is the way to ask.

    Raises:
        InputError: onnxruntime cannot read the file, or there is no image.
    """
    answers = [_run_here(file, feeds, precise) for precise in ("0", "1")]
    here = target_facts(machine_fingerprint(), "onnxruntime")
    note = (
        ""
        if here.saturates
        else "sums are exact on this processor: equality here says nothing about processors without VNNI"
    )
    return compared("as by default", f"{_EXACT_OPTION}=1", *answers, conclusive=here.saturates, note=note)


def on_device(
    file: Path,
    feeds: Feeds,
    device: Device,
    *,
    runtime: Runtime = "onnxruntime",
    reference: Device | None = None,
    progress: Progress | None = None,
) -> Agreement:
    """Compare a file's outputs on a device with those on this machine (or on `reference`), on the same images.

    `feeds` are samples as the network takes them. An emulated processor takes about a second to ten for each sample of
    a small network.

    Raises:
        InputError: the file cannot be read, takes other inputs, or there is no sample.
        DeviceError: the device cannot be reached or lacks the runtime.
        StageError: the runtime fails on the images.
    """
    if not sample_count(feeds):
        raise InputError("found no image to compare on; expected at least one")
    sides, count = (reference or LocalDevice(), device), sample_count(feeds)
    with tempfile.TemporaryDirectory() as folder:
        stored = {name: Path(folder) / f"{place}.npy" for place, name in enumerate(feeds)}
        for name, path in stored.items():
            np.save(path, feeds[name])
        here, there = (_run_there(side, file, stored, count, runtime, progress) for side in sides)
    return compared(sides[0].url, sides[1].url, here, there)


def compared(
    here: str,
    there: str,
    expected: Sequence[Sequence[Output]],
    found: Sequence[Sequence[Output]],
    *,
    conclusive: bool = True,
    note: str = "",
) -> Agreement:
    """Compare outputs [images][outputs] of two sides.

    Raises:
        OutputsError: the sides have outputs of different number or shape.
    """
    shapes = [[[output.shape for output in image] for image in side] for side in (expected, found)]
    if shapes[0] != shapes[1]:
        raise OutputsError(f"{there}: outputs have shapes {shapes[1][0]}, expected {shapes[0][0]} as {here}")
    scales = [max(float(np.abs(each.values).max(initial=0.0)) for each in one) for one in zip(*expected, strict=True)]
    first: BitDifference | None = None
    same_bits, same_argmax, largest = 0, 0, 0.0
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        differing = [place for place, (a, b) in enumerate(zip(one, other, strict=True)) if a.sha256 != b.sha256]
        apart = {place: _relative(one[place], other[place], scales[place]) for place in differing}
        same_bits += not differing
        same_argmax += int(np.argmax(one[0].values)) == int(np.argmax(other[0].values)) if one[0].values.size else 0
        largest = max([largest, *apart.values()])  # infinite for NaN, which max() would drop
        if differing and first is None:
            first = BitDifference(number, differing[0], apart[differing[0]])
    vector = len(expected[0][0].shape) == 1 and expected[0][0].values.size > 1
    classes = same_argmax if vector else None
    return Agreement(here, there, len(expected), same_bits, classes, largest, first, conclusive, note)


def _relative(one: Output, other: Output, scale: float) -> float:
    distance = float(np.abs(one.values.astype(np.float64) - other.values).max(initial=0.0))
    if not np.isfinite(distance):
        return float("inf")
    return distance / scale if scale > 0 else distance


def _finite(value: object) -> object:
    """Return a value as JSON has it: without numbers that are not finite, in the first difference too."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _run_here(file: Path, feeds: Feeds, precise: str) -> list[list[Output]]:
    """Infer in this process with the session option on or off."""
    import onnxruntime  # noqa: PLC0415 - only this way of asking loads it

    from pipeline.onnx_graph.execution import onnx_batch, session_options  # noqa: PLC0415
    from pipeline.onnx_graph.file import read_onnx  # noqa: PLC0415

    if not sample_count(feeds):
        raise InputError("found no image to compare on; expected at least one")
    options = session_options(1)
    options.add_session_config_entry(_EXACT_OPTION, precise)
    batch = max(onnx_batch(read_onnx(file)), 1)
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exception classes are private
        raise InputError(f"{file} cannot be opened by onnxruntime: {first_line(error)}") from error
    require_inputs(feeds, [each.name for each in session.get_inputs()], str(file))
    answers: list[list[Output]] = []
    for call in feed_slices(feeds, batch):
        outputs = [np.asarray(each) for each in session.run(None, call)]
        for place in range(batch):
            parts = [each[place] if each.shape[:1] == (batch,) else each for each in outputs]
            digests = [hashlib.sha256(part.tobytes()).hexdigest() for part in parts]
            answers.append(
                [
                    Output(digest, part.shape, part.astype(np.float32).ravel())
                    for digest, part in zip(digests, parts, strict=True)
                ]
            )
    return answers[: sample_count(feeds)]


def _run_there(
    device: Device, file: Path, stored: Mapping[str, Path], count: int, runtime: Runtime, progress: Progress | None
) -> list[list[Output]]:
    brought = model_files(file, runtime)
    batch = _batch(file)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in stored.values())).hexdigest()
    there = {name: f"{digest}/{path.name}" for name, path in stored.items()}
    files = {f"{brought.digest}/{name}": path for name, path in brought.files.items()}
    answers: list[list[Output]] = []
    with ExitStack() as stack:
        connection, hello = start_worker(stack, device, MeasureTerms(threads=1, batch=1, priority=False))
        missing = missing_packages(hello, ("numpy", RUNTIMES[runtime].package))
        if missing:
            raise DeviceError(missing_text(device.url, hello, missing))
        places = device.push({**files, **{there[name]: path for name, path in stored.items()}})
        path = places[f"{brought.digest}/{brought.main}"]
        terms = {"threads": 1, "batch": batch, "shapes": {}}
        request = {"path": path, "sha256": brought.sha256, "runtime": runtime, **terms}
        connection.request("create", patience_s=PATIENCE_S, subject=0, file=request, seed=0)
        for start in range(0, count, batch):
            if progress:
                progress.update(start, count, f"images on {device.url}")
            given = {name: places[path] for name, path in there.items()}
            told = connection.request("infer", patience_s=PATIENCE_S, subject=0, stored=given, start=start)
            answers.extend([_output(each) for each in image] for image in told)
    return answers[:count]


def _output(told: dict[str, Any]) -> Output:
    values = np.frombuffer(base64.b64decode(told["values"]), "<f4")
    return Output(told["sha256"], tuple(told["shape"]), values)


def _batch(file: Path) -> int:
    if file.suffix == ".xml":
        from pipeline.export.openvino import openvino_specs, read_openvino  # noqa: PLC0415 - loads its library

        return max(openvino_specs(read_openvino(file))[0][0].shape[0], 1)
    from pipeline.onnx_graph.file import onnx_specs, read_onnx  # noqa: PLC0415

    return max(onnx_specs(read_onnx(file))[0][0].shape[0], 1)
