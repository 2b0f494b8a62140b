"""Comparisons of tiny networks on this machine: what is written, what is refused, and what is kept of a broken one."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.core.errors import DeviceError, IncomparableError, InputError, OutputsError
from pipeline.latency.compare import PARTIAL_FILE, ComparisonRequest, compare_files, keep_partial, write_comparison
from pipeline.measure.devices.local import LocalDevice
from pipeline.measure.regression import decide_verdict
from pipeline.measure.subjects import MeasureTerms
from pipeline.results.comparison import RESULT_FILE, ROUNDS_FILE, Comparison, load_comparison
from pipeline.results.measurement import Measurement, load_measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.measure.devices import Device

#: Five times as slow is still accepted, so that no load of this machine changes the verdict.
LENIENT = ComparisonRequest(margin=5.0, budget_s=20, roofline=False)
#: Refused, or broken off, before its length matters.
STRICT = ComparisonRequest(
    budget_s=20, roofline=False, terms=MeasureTerms(threads=1, batch=1, measure_peak_memory=False)
)
DYING = """
import os
from pipeline.measure import worker
from pipeline.measure.worker_bench import Bench

LAST = {last}

class Dying(Bench):
    sessions = 0

    def release(self):
        super().release()
        self.sessions += 1

    def rounds(self, orders, sizes, limit_ns, pause_ns=0):
        if self.sessions == LAST:
            os._exit(9)
        return super().rounds(orders[:3], sizes, 0, pause_ns)

    OPERATIONS = {{**Bench.OPERATIONS, "release": release, "rounds": rounds}}

worker.Bench = Dying
worker.main()
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is known of this machine counts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def network(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a network of one convolution and a mean."""

    def write_network(name: str, *, scale: float = 0.1, size: int = 8) -> Path:
        weight = numpy_helper.from_array(np.full((4, 3, 3, 3), scale, np.float32), "weight")
        nodes = [
            helper.make_node("Conv", ["image", "weight"], ["conv"], kernel_shape=[3, 3]),
            helper.make_node("ReduceMean", ["conv"], ["scores"], axes=[1, 2, 3], keepdims=0),
        ]
        inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, size, size])]
        outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch"])]
        graph = helper.make_graph(nodes, "tiny", inputs, outputs, [weight])
        path = tmp_path / name
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path

    return write_network


def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int) -> Sequence[Device]:
    """Return this machine, with a worker that ends in the session after so many."""
    (tmp_path / "dying_worker.py").write_text(DYING.format(last=last))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return (LocalDevice(module="dying_worker"),)


@pytest.fixture
def passed(network: Callable[..., Path], tmp_path: Path) -> tuple[Comparison, Measurement, Path]:
    """Return a file's comparison with itself, as it was written."""
    path = network("net.onnx")
    found, measurement = compare_files(path, path, LENIENT)
    return write_comparison(found, measurement, tmp_path / "out"), measurement, tmp_path / "out"


def test_file_against_itself_is_written_with_its_rounds(passed: tuple[Comparison, Measurement, Path]) -> None:
    """The verdict reads back as it was, and can be computed again from rounds of the stated hash."""
    found, measurement, folder = passed
    assert sorted(file.name for file in folder.iterdir()) == [RESULT_FILE, ROUNDS_FILE]
    assert load_comparison(folder / RESULT_FILE) == found
    assert found.raw is not None
    assert hashlib.sha256((folder / found.raw.path).read_bytes()).hexdigest() == found.raw.sha256
    kept = load_measurement(folder / found.raw.path)
    assert kept == measurement
    again = decide_verdict(kept, margin=found.margin)
    assert (again.verdict, again.ratio, again.reasons) == (found.verdict, found.ratio, found.reasons)
    assert (found.verdict, found.exit_code, found.unfair) == ("PASS", 0, False)


def test_result_says_what_both_sides_are_and_how_it_was_measured(
    passed: tuple[Comparison, Measurement, Path],
) -> None:
    """Everything that the verdict rests on stands in it."""
    found, measurement, _ = passed
    assert found.baseline.digest == found.candidate.digest
    assert found.candidate.input_shapes == {"image": (1, 3, 8, 8)}
    assert found.candidate.wall_ns is not None
    assert found.candidate.wall_ns.inferences > 0
    assert (found.candidate.load_ms or 0) > 0
    assert found.output_check is not None
    assert found.output_check.max_abs == 0
    assert found.protocol.sessions == len(measurement.subjects[0].sessions) == 4
    assert (found.protocol.stopped, found.protocol.budget_s) == ("decided", 20)
    assert found.noise.preempted_share is not None
    assert (found.name, found.metric) == ("net", "cpu")


def test_other_threads_are_incomparable(network: Callable[..., Path]) -> None:
    """The field is named with both values, and nothing was timed."""
    path = network("net.onnx")
    with pytest.raises(IncomparableError, match="threads: 1, 2") as caught:
        compare_files(path, path, ComparisonRequest(**{**vars(STRICT), "threads_b": 2}))
    assert caught.value.exit_code == 4


def test_other_runtime_is_incomparable_unless_it_is_the_question(network: Callable[..., Path]) -> None:
    """Asked for, two runtimes are compared."""
    path = network("net.onnx")
    found, _ = compare_files(
        path, path, ComparisonRequest(**{**vars(LENIENT), "margin": 1000.0, "runtime_b": "openvino"})
    )
    assert (found.baseline.runtime, found.candidate.runtime) == ("onnxruntime", "openvino")
    assert not found.unfair


def test_force_compares_and_marks_it_unfair(network: Callable[..., Path]) -> None:
    """The difference that was forced stands in the reasons."""
    path = network("net.onnx")
    found, _ = compare_files(
        path, path, ComparisonRequest(**{**vars(LENIENT), "margin": 1000.0, "threads_b": 2, "force": True})
    )
    assert found.unfair
    assert found.reasons[-1].code == "unfair"
    assert "threads: 1, 2" in found.reasons[-1].text
    assert found.metric == "wall"


def test_other_outputs_are_wrong_outputs(network: Callable[..., Path]) -> None:
    """A file that computes twice as much is not timed."""
    with pytest.raises(OutputsError, match="not timed") as caught:
        compare_files(network("base.onnx"), network("double.onnx", scale=0.2), STRICT)
    assert caught.value.exit_code == 6


def test_images_of_another_size_are_other_terms(network: Callable[..., Path]) -> None:
    """They can be allowed, as a gate does that accepts a file, and then nothing is said of outputs."""
    paths = network("small.onnx"), network("large.onnx", size=16)
    with pytest.raises(IncomparableError, match=r"input shapes: \[\(1, 3, 8, 8\)\], \[\(1, 3, 16, 16\)\]"):
        compare_files(*paths, STRICT)
    found, _ = compare_files(*paths, ComparisonRequest(**{**vars(LENIENT), "other_sizes": True}))
    assert found.unfair
    assert found.output_check is None
    assert "input shapes" in found.reasons[-1].text


def test_missing_file_is_bad_input(network: Callable[..., Path], tmp_path: Path) -> None:
    """The file is named before anything is started."""
    with pytest.raises(InputError, match=r"none\.onnx does not exist"):
        compare_files(network("net.onnx"), tmp_path / "none.onnx", STRICT)


def test_emulated_device_is_not_asked_for_time(network: Callable[..., Path]) -> None:
    """Its times are the emulator's."""

    class Emulated(LocalDevice):
        emulated = True

    path = network("net.onnx")
    with pytest.raises(InputError, match="is emulated: its time means nothing"):
        compare_files(path, path, STRICT, devices=(Emulated(),))


def test_budget_that_is_too_small_is_never_a_pass(network: Callable[..., Path]) -> None:
    """50 ms are over before there are four sessions; what was measured is kept, and how much would do is said."""
    path = network("net.onnx")
    found, measurement = compare_files(path, path, ComparisonRequest(**{**vars(LENIENT), "budget_s": 0.05}))
    assert (found.verdict, found.exit_code) == ("INCONCLUSIVE", 3)
    assert [reason.code for reason in found.reasons] == ["budget"]
    assert "try --budget" in found.reasons[0].text
    assert found.ratio is None
    assert 1 <= len(measurement.subjects[0].sessions) < 4


@pytest.mark.parametrize("last", [0, 2])
def test_device_that_dies_leaves_what_was_measured(
    network: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    """Whole sessions are kept in partial.json; a later comparison that succeeds removes it."""
    path = network("net.onnx")
    with pytest.raises(DeviceError, match=r"the worker ended during rounds \(exit code 9\)") as caught:
        compare_files(path, path, STRICT, devices=dying(tmp_path, monkeypatch, last))
    file = keep_partial(caught.value, tmp_path / "out")
    assert file == tmp_path / "out" / PARTIAL_FILE
    kept = load_measurement(file)
    assert kept.stopped == "broken off"
    assert [len(subject.sessions) for subject in kept.subjects] == [last, last]


def test_success_replaces_what_was_broken_off(passed: tuple[Comparison, Measurement, Path]) -> None:
    """A partial file is gone once there is a whole one."""
    found, measurement, folder = passed
    (folder / PARTIAL_FILE).write_text("{}")
    write_comparison(found, measurement, folder)
    assert not (folder / PARTIAL_FILE).exists()
    assert json.loads((folder / RESULT_FILE).read_text())["verdict"] == found.verdict


def test_error_without_measurement_keeps_nothing(tmp_path: Path) -> None:
    """A device that was never reached leaves no folder."""
    assert keep_partial(DeviceError("unreachable"), tmp_path / "out") is None
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["with space.onnx", "quo'te \"s.onnx", "$(touch x).onnx", "`touch x`; x.onnx", "-x.onnx"]
)
def test_names_of_files_are_only_names(
    network: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """No shell sees them."""
    monkeypatch.chdir(tmp_path)
    path = network(name)
    found, _ = compare_files(path, path, ComparisonRequest(**{**vars(STRICT), "budget_s": 0.05}))
    assert found.candidate.path == str(path)
    assert not (tmp_path / "x").exists()
