"""Whole comparisons on devices that are really another processor: measured there, refused across, counted exactly."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import IncomparableError
from pipeline.core.runtimes import RUNTIMES
from pipeline.core.stage import SilentProgress
from pipeline.latency.compare import ComparisonRequest, compare_files
from pipeline.latency.instructions import compare_instructions
from pipeline.measure.devices.local import LocalDevice
from pipeline.measure.devices.ssh import SshDevice
from pipeline.measure.subjects import MeasureTerms

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sshd import Sshd

pytestmark = pytest.mark.slow

LENIENT = ComparisonRequest(
    margin=20.0, budget_s=60, roofline=False, terms=MeasureTerms(threads=1, batch=1, measure_peak_memory=False)
)


@pytest.fixture
def arm(sshd: Sshd, arm64_programs: Path) -> SshDevice:
    """Return a device over ssh whose python3 is an aarch64 one."""
    sshd.login(f'#!/bin/sh\nPATH={arm64_programs}:$PATH\nexport PATH\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    return SshDevice(sshd.record())


def test_a_comparison_on_an_arm_device(arm: SshDevice, write_onnx: Callable[..., Path]) -> None:
    """Files are brought there, checked, timed in turns and judged here; the result says where it was."""
    network = write_onnx("net.onnx")
    found, measurement = compare_files(network, network, LENIENT, devices=(arm,))
    assert found.verdict == "PASS"
    assert found.candidate.fingerprint["architecture"] == "aarch64"
    assert found.candidate.device.startswith("ssh://")
    assert len(measurement.subjects[0].sessions) >= 4


def test_two_processors_are_incomparable(arm: SshDevice, write_onnx: Callable[..., Path]) -> None:
    """What differs is named before anything is timed."""
    network = write_onnx("net.onnx")
    with pytest.raises(IncomparableError, match=r"cpu_model: .*\n.*architecture: 'x86_64', 'aarch64'"):
        compare_files(network, network, LENIENT, devices=(LocalDevice(), arm))


@pytest.mark.usefixtures("arm64_root")
def test_a_byte_copy_needs_as_many_instructions(write_onnx: Callable[..., Path], tmp_path: Path) -> None:
    """To within what the table says of the runtime; a wider network needs more, and fails."""
    network, wider = write_onnx("net.onnx", width=32, size=24), write_onnx("wider.onnx", width=40, size=24)
    copy = tmp_path / "copy.onnx"
    shutil.copyfile(network, copy)
    question = ComparisonRequest(margin=0.01, metric="instructions", tolerance=None)
    same, _ = compare_instructions(network, copy, question, device="qemu://cortex-a72", progress=SilentProgress())
    more, _ = compare_instructions(network, wider, question, device="qemu://cortex-a72", progress=SilentProgress())
    assert same.verdict == "PASS"
    assert same.ratio
    assert same.ratio.low <= 1 <= same.ratio.high
    assert abs(same.ratio.value - 1) < RUNTIMES["onnxruntime"].repeatability
    assert more.verdict == "FAIL"
    assert same.candidate.instructions_per_inference
    assert same.candidate.wall_ns is None
