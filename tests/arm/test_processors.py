"""Bundles on ARM processors, emulated and over ssh, in both runtimes: every output beside that of this machine."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.arm.lab import Answer, Question
from tests.arm.recipes import RECIPES, SAMPLES

if TYPE_CHECKING:
    from tests.arm.lab import Lab

pytestmark = [pytest.mark.arm, pytest.mark.slow]

RUNTIMES = ("onnxruntime", "openvino")
A72, A76 = "qemu://cortex-a72", "qemu://cortex-a76"
#: What OpenVINO 2026.4.1 has no kernel for on a processor without dot products, with its own words.
CANNOT_LOAD = {
    Question(name, "openvino", A72): "openvino cannot read it .*object is not initialized"
    for name in RECIPES
    if name.startswith("EfficientNet-Lite0 int8")
}
#: A number with a unit of time.
TIME = re.compile(r"\d ?(ns|us|ms|s|seconds|milliseconds)\b|_ns|_ms|_s\b|speedup|latency")


def require_right(answer: Answer, device: str) -> None:
    """Assert that every output is the one of this machine: bit by bit where that is asked for, else within bounds."""
    found, question = answer.found, answer.question
    exact = RECIPES[question.name].exact and question.runtime == "onnxruntime"
    assert answer.code == 0, found["error"]
    assert (found["verified"], found["exact"], found["runtime"]) == (True, exact, question.runtime)
    assert (found["machine"]["architecture"], found["device"].split(":")[0]) == ("aarch64", device)
    assert answer.outputs == SAMPLES * (10 if question.name.startswith("ResNet") else 2)
    assert answer.max_abs <= answer.tolerance
    assert found["max_abs"] == answer.max_abs
    assert sum(row["same_bits"] for row in found["samples"].values()) == answer.same_bits
    assert sum(row["found_class"] == row["expected_class"] for row in found["samples"].values()) == answer.same_classes
    if exact:
        assert (answer.same_bits, answer.same_classes, answer.tolerance) == (answer.outputs, SAMPLES, 0.0)


@pytest.mark.parametrize("device", [A72, A76])
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", RECIPES)
def test_an_emulated_processor(processors: Lab, name: str, runtime: str, device: str) -> None:
    """It computes what the bundle says, or says that the runtime cannot; nowhere is there a time."""
    question = Question(name, runtime, device)
    answer = processors.ask(question).result()
    assert not TIME.search(json.dumps(answer.found))
    if question in CANNOT_LOAD:
        assert answer.code == 2
        assert re.search(CANNOT_LOAD[question], answer.found["error"])
        return
    require_right(answer, "qemu")
    assert answer.found["emulated"] is True


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("ResNet-20 float", "onnxruntime"),
        ("ResNet-20 int8 arm_exact", "onnxruntime"),
        ("ResNet-20 int8", "openvino"),
    ],
)
def test_a_board_over_ssh(lab: Lab, board: str, name: str, runtime: str) -> None:
    """A device whose Python is an aarch64 one: the bundle is sent there and run there."""
    answer = lab.verify(lab.bundle(name), Question(name, runtime, board))
    require_right(answer, "ssh")
