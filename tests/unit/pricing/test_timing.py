"""Probes on real files: what they are kept by, and what one measurement of some files gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import helper, numpy_helper

from pipeline.compress.pruning.state import NetworkState
from pipeline.core.stage import SilentProgress, Target
from pipeline.onnx_graph.file import write_onnx
from pipeline.pricing.probes import Machine, Probe, graph_digest, kept_profile, machine_of, probe_of
from pipeline.pricing.timing import FileTimer
from pipeline.results.profile import ProbedState

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from onnx import ModelProto


def product(width: int, value: float = 1.0) -> ModelProto:
    """Return a file that multiplies by a matrix [16, width] and by one [width, 4]."""
    ports = [helper.make_tensor_value_info(*each) for each in (("x", 1, [1, 16]), ("y", 1, [1, 4]))]
    sizes = {"w": (16, width), "v": (width, 4)}
    weights = [numpy_helper.from_array(np.full(size, value, np.float32), name) for name, size in sizes.items()]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_probes_are_kept_by_what_their_times_depend_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sizes of weights count, values do not; so do groups, precision, threads, batch, runtime and machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert graph_digest(product(8)) == graph_digest(product(8, 2.0)) != graph_digest(product(9))
    here = Machine({"cpu": "one"}, "onnxruntime", "1.0")
    target = Target(threads=1)
    found = {
        kept_profile(*each)
        for each in (
            ("a", {"g": 8}, "int8", target, here),
            ("b", {"g": 8}, "int8", target, here),
            ("a", {"g": 9}, "int8", target, here),
            ("a", {"g": 8}, "fp32", target, here),
            ("a", {"g": 8}, "int8", Target(threads=2), here),
            ("a", {"g": 8}, "int8", Target(batch=2), here),
            ("a", {"g": 8}, "int8", target, Machine({"cpu": "one"}, "onnxruntime", "1.1")),
            ("a", {"g": 8}, "int8", target, Machine({"cpu": "one"}, "openvino", "1.0")),
        )
    }
    assert len(found) == 8
    assert kept_profile("a", {"g": 8}, "int8", target, here) in found
    assert all(tmp_path in each.parents for each in found)


def test_a_probe_is_what_was_kept_of_it() -> None:
    """Through its record and JSON."""
    probe = Probe(NetworkState({"b": 8, "a": 4}, frozenset({"y", "x"})), -0.25, 0.01)
    assert probe_of(ProbedState.model_validate_json(probe.record().model_dump_json())) == probe


def test_some_files_are_timed_at_once(tmp_path: Path) -> None:
    """A ratio for each of them, with its error; this machine says what it is."""
    files = []
    for name, width in (("whole", 64), ("same", 64), ("narrow", 8)):
        files.append(tmp_path / f"{name}.onnx")
        write_onnx(product(width), files[-1])
    target = Target()
    timer = FileTimer(target, {}, 0, None, SilentProgress())
    found = timer.timed(files[0], files[1:], 0.1)
    assert len(found.ratios) == 2
    assert all(each.log.error > 0 and each.ratio.low < each.ratio.value < each.ratio.high for each in found.ratios)
    assert found.whole.value > 0
    assert timer.timed(files[0], [], 0.1).ratios == ()
    machine = machine_of(target, None)
    assert machine.runtime == "onnxruntime"
    assert machine.fingerprint
    assert machine.runtime_version
