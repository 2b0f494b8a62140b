# SPDX-License-Identifier: Apache-2.0
"""Run a bundle's network on its samples and compare with the expected outputs. verify.py loads this, after its checks.

Outputs of int8 files differ a little between processors; samples/expected.json says by how much they may.
"""

from __future__ import annotations

import math
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

    from pipeline.bundle.on_device.verify import Verification

EXPECTED = "samples/expected.json"
#: A tolerance is at most this share of the largest expected output, or this much where outputs are tiny.
WIDEST, TINY = 0.1, 1e-5
NOT_USABLE, WRONG_OUTPUTS = 2, 6
#: Fields of ONNX's messages that lead to tensors: message -> field -> message.
LEADS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14
DEEPEST = 50


class Failed(Exception):
    """The samples cannot be run, or the network computes something else; the text names the file."""

    def __init__(self, text: str, exit_code: int = NOT_USABLE) -> None:
        """Keep the exit code that stands for the kind of reason."""
        super().__init__(text)
        self.exit_code = exit_code


def run(
    folder: Path,
    manifest: Mapping[str, Any],
    content: Mapping[str, Any],
    runtime: str,
    threads: int,
    found: Verification,
    code: ModuleType,
) -> str:
    """Run the samples of expected.json (`content`) and fill `found`; return what was found in a line.

    `code` is infer.py, loaded. Raises Failed.
    """
    expected, tolerance = read_expected(content, manifest, runtime)
    model = manifest["main"][runtime]
    if ".onnx" in model:
        check_inside(onnx_bytes(folder, model, code), model)
    found.runtime, found.machine = runtime, machine()
    found.outputs, found.version = infer(folder, runtime, threads, list(expected), code)
    found.notes += notes(manifest, found)
    for name, numbers in expected.items():
        found.differences[name] = difference(name, numbers, found.outputs[name])
    found.max_abs = max(found.differences.values())
    for name, far in found.differences.items():
        if not far <= tolerance:
            text = f"its outputs differ by {far:.6g} from those of {EXPECTED}, allowed: {tolerance:.6g}"
            raise Failed(f"{name}: {model} is wrong in {runtime} {found.version}: {text}", WRONG_OUTPUTS)
    within = f"largest difference {found.max_abs:.3g}, allowed {tolerance:.3g}"
    return f"{len(expected)} samples in {runtime} {found.version}: {within}"


def read_expected(
    content: Mapping[str, Any],
    manifest: Mapping[str, Any],
    runtime: str,
) -> tuple[dict[str, list[float]], float]:
    """Return the expected outputs of each sample, and how far others may be from them: 0 where they must be equal."""
    try:
        samples = content["samples"]
        outputs = {str(each["file"]): [number(found) for found in each["outputs"][runtime]] for each in samples}
        tolerance, exact = number(content["tolerance"][runtime]["max_abs"]), content["exact"][runtime]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Failed(f"{EXPECTED}: something for {runtime} is missing or malformed: {error!r}") from error
    for name, numbers in outputs.items():
        if name not in manifest["files"] or not numbers:
            raise Failed(f"{EXPECTED}: {name!a} is not a file of the bundle, or has no outputs")
    if not outputs or not isinstance(exact, bool):
        raise Failed(f"{EXPECTED}: there are no samples, or `exact` is neither true nor false")
    widest = max(TINY, WIDEST * max(abs(each) for numbers in outputs.values() for each in numbers))
    if not 0 <= tolerance <= widest:
        raise Failed(f"{EXPECTED}: the tolerance in {runtime} is {tolerance:.3g}, allowed: 0 to {widest:.3g}")
    return outputs, 0.0 if exact else tolerance


def number(found: object) -> float:
    """Return a number of JSON. Raises ValueError for text such as "nan", true or false, and what is not finite."""
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
        raise ValueError(f"found {str(found)[:40]!a}, expected a finite number")
    return float(found)


def infer(
    folder: Path, runtime: str, threads: int, names: Sequence[str], code: ModuleType
) -> tuple[dict[str, list[float]], str]:
    """Return the network's outputs on the samples, and the version of the runtime."""
    try:
        preprocessing = code.load_preprocessing(folder)
        network = code.Network(folder, runtime, threads)
        images = code.np.stack([code.read_image(folder / name, preprocessing) for name in names])
        logits = network.logits(code.normalise(images, preprocessing))
    except (ImportError, code.Rejected):
        raise
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise Failed(f"the samples cannot be run in {runtime}: {text}", WRONG_OUTPUTS) from error
    return dict(zip(names, logits.tolist())), network.version


def difference(name: str, expected: Sequence[float], computed: Sequence[float]) -> float:
    """Return the largest difference of a sample's outputs. Raises Failed for other lengths, and for NaN or infinity."""
    if len(expected) != len(computed):
        raise Failed(f"{name}: {len(computed)} outputs, {EXPECTED} has {len(expected)}", WRONG_OUTPUTS)
    if not all(isinstance(each, (int, float)) and math.isfinite(each) for each in (*expected, *computed)):
        raise Failed(f"{name}: its outputs are not finite", WRONG_OUTPUTS)
    return max(abs(one - other) for one, other in zip(expected, computed))


# -- this machine ------------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Describe this machine as far as outputs and times depend on it."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        first = ""
    pairs = (line.partition(":") for line in first.splitlines())
    told = {name.strip(): value.strip() for name, _, value in pairs}
    return {
        "cpu_model": told.get("model name", told.get("CPU part", platform.processor() or None)),
        "architecture": platform.machine(),
        "flags": told.get("flags", told.get("Features", "")).split(),
        "python": platform.python_version(),
    }


def notes(manifest: Mapping[str, Any], found: Verification) -> list[str]:
    """Say in what this machine and runtime are others than those that measured. None of it is a failure."""
    measured, here = manifest.get("machine"), found.machine
    versions = manifest.get("versions")
    if not isinstance(measured, dict) or not isinstance(versions, dict):
        return []
    told: list[str] = []
    for name, word in (("architecture", "architecture"), ("cpu_model", "processor")):
        if measured.get(name) != here[name]:
            told.append(f"another {word}: measured on {measured.get(name)!a}, this is {here[name]!a}")
    isa = measured.get("isa")
    lacking = [str(flag) for flag in isa if flag not in here["flags"]] if isinstance(isa, list) else []
    if lacking:
        told.append(f"this processor lacks {' '.join(lacking)!a}: it uses other kernels, with other timings")
    version = versions.get(found.runtime)
    if version != found.version:
        told.append(f"another version of {found.runtime}: made with {version!a}, this is {found.version!a}")
    return told


# -- external data of ONNX ---------------------------------------------------------------------------------------------


def onnx_bytes(folder: Path, model: str, code: ModuleType) -> bytes:
    """Return an ONNX file of a bundle, which may be packed; `code` is infer.py, loaded. Raises Failed."""
    if model.endswith(".onnx"):
        return (folder / model).read_bytes()
    try:
        return bytes(code.model_content(folder / model)[0])
    except code.Rejected as error:
        raise Failed(str(error)) from error


def check_inside(content: bytes, name: str) -> None:
    """Refuse an ONNX file that keeps weights in another file: a runtime would read that, wherever it lies."""
    try:
        outside = _outside(memoryview(content), "model", 0)
    except (IndexError, ValueError) as error:
        raise Failed(f"{name}: it is not an ONNX file: {error}") from error
    if outside:
        raise Failed(f"{name}: its weights are in other files, which is not allowed in a bundle")


def _outside(message: memoryview, kind: str, depth: int) -> bool:
    """Say whether a message of ONNX (protobuf) holds a tensor with external data."""
    if depth > DEEPEST:
        raise ValueError("it is nested too deeply")
    for number, value in _fields(message):
        if kind == "tensor" and (number == EXTERNAL_DATA or (number == DATA_LOCATION and value != 0)):
            return True
        inner = LEADS[kind].get(number)
        if inner and isinstance(value, memoryview) and _outside(value, inner, depth + 1):
            return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield the fields of a protobuf message: its number, and bytes or a number."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if wire not in {1, 2, 5}:
            raise ValueError(f"a field of the unknown kind {wire} at byte {at}")
        length, at = _varint(message, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)  # noqa: PLR2004 - bytes follow
        if at + length > len(message):
            raise ValueError(f"it ends within a field at byte {at}")
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, the last byte without the eighth bit, and where it ends."""
    value = 0
    for place in range(10):
        byte = message[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:  # noqa: PLR2004 - no byte follows
            return value, at + place + 1
    raise ValueError(f"a number without an end at byte {at}")
