"""`secateur verify --device`: a bundle is checked here, brought to a device, and its network runs there on the samples.

What runs there is this program's own verify.py with the device's Python, never code of the bundle. It checks the files
again, against the digest that was found here, and tells the outputs; they are compared here with those expected. Files
are kept on the device under the bundle's digest, so that only the first time sends them. No time is taken: a device's
latency is a matter of `secateur compare --device`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.bundle.check import check_content, opened
from pipeline.bundle.check_task import is_task, own_programs, task_limits
from pipeline.bundle.on_device import self_test
from pipeline.bundle.on_device.verify import (
    EXPECTED,
    MANIFEST,
    MISSING_RUNTIME,
    SUMS,
    TEXT_BYTES,
    Rejected,
    Verification,
    VerifyOptions,
    printable_value,
    read_file,
    strict_json,
)
from pipeline.core.errors import DeviceError
from pipeline.measure.connection import run_program
from pipeline.measure.devices import open_device
from pipeline.measure.devices.registry import device_record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.core.stage import Progress
    from pipeline.measure.devices import Device

#: Longest time for the samples on a device: 64 of them, in a large network, on an emulated processor.
LIMIT_S = 3600.0
LAST_LINES = 3


@dataclass(frozen=True)
class BundleComparison:
    """One sample's outputs on the device beside those expected."""

    outputs: int
    same_bits: int
    max_abs: float
    found_class: str
    expected_class: str

    def __str__(self) -> str:
        """Say it in words."""
        other = "" if self.found_class == self.expected_class else f", expected {self.expected_class}"
        bits = f"{self.same_bits} of {self.outputs} outputs have the same bits"
        far = f", largest difference {self.max_abs:.3g}" if self.same_bits < self.outputs else ""
        return f"{bits}{far}; class {self.found_class}{other}"


@dataclass
class FoundThere(Verification):
    """What a verification on a device found. `allowed` is the tolerance, 0 where outputs have to be `exact`."""

    device: str = ""
    emulated: bool = False
    exact: bool = False
    allowed: float | None = None
    samples: dict[str, BundleComparison] = field(default_factory=dict)


@dataclass(frozen=True)
class _Expected:
    """What the samples must give in one runtime."""

    outputs: Mapping[str, Sequence[float]]
    allowed: float
    exact: bool
    labels: Sequence[str]


def check_on(name: str, bundle: Path, wanted: VerifyOptions, found: FoundThere, progress: Progress) -> None:
    """Verify a bundle, a folder or an archive, on the device of that name; `found` is filled while it goes on.

    Raises:
        Rejected: the bundle is not what it says, or the device computes something else.
        InputError: there is no such device.
        DeviceError: it cannot be reached, or lacks Python, numpy or the runtime.
    """
    record = device_record(name)
    with opened(bundle) as folder:
        manifest = check_content(folder, wanted, found)
        runtime = wanted.runtime or manifest["runtime"]
        expected = None if is_task(manifest) else _expected(folder, manifest, runtime)
        device = open_device(record.with_runtimes([runtime]), note=progress.note)
        found.device, found.emulated = device.url, device.emulated
        if expected:
            found.exact, found.allowed = expected.exact, expected.allowed
        else:
            found.exact, found.allowed = task_limits(folder, manifest, runtime)
        progress.update(0, 1, f"samples on {device.url}")
        told = _told(device, folder, manifest, runtime, wanted.threads, found.digest)
        if expected:
            _take(told, manifest, expected, found)
        else:
            _take_task(told, manifest, found)


def _expected(folder: Path, manifest: Mapping[str, Any], runtime: str) -> _Expected:
    """Read samples/expected.json and labels.txt. Raises Rejected."""
    if runtime not in manifest["main"]:
        raise Rejected(f"{MANIFEST}: it has no file for {runtime}, allowed: {', '.join(manifest['main'])}")
    content = strict_json(read_file(folder, EXPECTED, TEXT_BYTES), EXPECTED)
    try:
        outputs, allowed = self_test.read_expected(content, manifest, runtime)
    except self_test.Failed as error:
        raise Rejected(str(error), error.exit_code) from error
    labels = (folder / "labels.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    return _Expected(outputs, allowed, content["exact"][runtime], labels)


def _told(
    device: Device, folder: Path, manifest: Mapping[str, Any], runtime: str, threads: int, digest: str
) -> dict[str, Any]:
    """Run the trusted code on the device and return what it found, as `verify.py --json` tells it."""
    names = (MANIFEST, SUMS, *manifest["files"])
    bundle = {f"{digest.removeprefix('sha256:')}/{name}": folder / name for name in names}
    with own_programs(folder, manifest) as programs:
        code = hashlib.sha256(b"".join(file.read_bytes() for file in programs.values())).hexdigest()
        places = device.push({**bundle, **{f"{code}/{name}": file for name, file in programs.items()}})
        there = places[f"{digest.removeprefix('sha256:')}/{MANIFEST}"].rpartition("/")[0]
        options = ("--bundle", there, "--runtime", runtime, "--threads", str(threads), "--digest", digest, "--json")
        ended = run_program(device, places[f"{code}/verify.py"], *options, limit_s=LIMIT_S)
    told = _parsed(ended.out)
    if told is None or (ended.code == 0) != told["verified"]:
        lines = ended.words.strip().splitlines()[-LAST_LINES:] or ["it printed nothing"]
        raise DeviceError(
            f"{device.url}: verify.py failed there (exit code {ended.code}); it needs Python 3.9 or newer:\n  "
            + "\n  ".join(lines)
        )
    if ended.code == MISSING_RUNTIME:
        raise DeviceError(f"{device.url}: {told['error']}; the file is there in {there}")
    if "digest" not in {check["name"] for check in told["checks"]}:
        raise DeviceError(
            f"{device.url}: its copy of the bundle differs from what was sent: {told['error']}; remove {there} there, "
            "and verify again"
        )
    return {**told, "code": ended.code, "error": told["error"].replace(f"{there}/", "")}


def _parsed(out: str) -> dict[str, Any] | None:
    """Return the JSON that ends the output; what a login shell prints before it is not looked at."""
    start = f"\n{out}".rfind("\n{\n")
    try:
        told = json.loads(out[start:]) if start >= 0 else None
    except ValueError:
        return None
    return told if isinstance(told, dict) and set(told) == {each.name for each in fields(Verification)} else None


def _take(told: Mapping[str, Any], manifest: Mapping[str, Any], expected: _Expected, found: FoundThere) -> None:
    """Compare the outputs there with those expected. Raises Rejected where one is too far."""
    found.runtime, found.version, found.machine = told["runtime"], told["version"], told["machine"]
    where = f"{found.device}: {_processor(found)}"
    if not told["outputs"]:
        raise Rejected(f"{where}: {told['error']}", told["code"])
    found.passed("device", f"{where}, {found.runtime} {found.version}{', emulated' if found.emulated else ''}")
    found.notes += self_test.notes(manifest, found)
    found.outputs = told["outputs"]
    wrong: list[str] = []
    for name, numbers in expected.outputs.items():
        try:
            found.differences[name] = self_test.difference(name, numbers, found.outputs[name])
        except self_test.Failed as error:
            raise Rejected(f"{where}: {error}", error.exit_code) from error
        row = found.samples[name] = _compared(numbers, found.outputs[name], found.differences[name], expected.labels)
        if not row.max_abs <= expected.allowed or (expected.exact and row.same_bits < row.outputs):
            wrong.append(f"{name}: {row}")
        else:
            found.passed("outputs", f"{name}: {row}")
    found.max_abs = max(found.differences.values())
    if wrong or told["code"]:
        rest = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        text = wrong[0] if wrong else told["error"]
        raise Rejected(f"{where}: {text}, allowed: {expected.allowed:.3g}{rest}", self_test.WRONG_OUTPUTS)
    found.passed("self-test", _summary(found))
    found.verified = True


def _take_task(told: Mapping[str, Any], manifest: Mapping[str, Any], found: FoundThere) -> None:
    """Take over what was compared there: large outputs stay on the device. Raises Rejected where one is too far."""
    found.runtime, found.version, found.machine = told["runtime"], told["version"], told["machine"]
    where = f"{found.device}: {_processor(found)}" if found.machine else found.device
    if found.machine:
        found.passed("device", f"{where}, {found.runtime} {found.version}{', emulated' if found.emulated else ''}")
        found.notes += self_test.notes(manifest, found)
    for each in told["checks"]:
        if each["name"] in {"outputs", "task", "self-test"}:
            found.passed(each["name"], each["text"])
    found.notes += [note for note in told["notes"] if note not in found.notes]
    found.differences, found.max_abs = told["differences"], told["max_abs"]
    if told["code"]:
        raise Rejected(f"{where}: {told['error']}", told["code"])
    found.verified = True


def _compared(
    expected: Sequence[float], computed: Sequence[float], max_abs: float, labels: Sequence[str]
) -> BundleComparison:
    """Compare numbers of single precision, which double precision holds without loss."""
    one, other = (np.asarray(numbers, np.float64) for numbers in (expected, computed))
    same = int((one.view(np.uint64) == other.view(np.uint64)).sum())
    classes = [int(numbers.argmax()) for numbers in (other, one)]
    names = [printable_value(labels[index]) if index < len(labels) else str(index) for index in classes]
    return BundleComparison(len(one), same, max_abs, names[0], names[1])


def _processor(found: FoundThere) -> str:
    machine = found.machine
    return f"{machine['architecture']}, processor {machine['cpu_model'] or 'unknown'}, Python {machine['python']}"


def _summary(found: FoundThere) -> str:
    rows = found.samples.values()
    outputs, same = sum(row.outputs for row in rows), sum(row.same_bits for row in rows)
    if found.exact:
        return f"{len(rows)} samples: all {outputs} outputs have the same bits, as required"
    return (
        f"{len(rows)} samples: {same} of {outputs} outputs have the same bits as expected; largest difference "
        f"{found.max_abs:.3g}, allowed {found.allowed:.3g}"
    )
