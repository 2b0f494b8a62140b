"""Simulated measurements without a clock, and tiny ONNX files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.results.measurement import Block, Measurement, SamplingPlan, SessionSamples, SubjectSamples

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SESSIONS, ROUNDS, INFERENCES = 4, 12, 5


def simulate(wall_ms: dict[str, float], cpu_ms: dict[str, float] | None = None, **fields: Any) -> Measurement:  # noqa: ANN401
    """Return a measurement of subjects with these true times: shared noise per round, own noise, some preemptions."""
    rng = np.random.default_rng(fields.get("seed", 0))
    cpu_ms = wall_ms if cpu_ms is None else cpu_ms
    sessions: dict[str, list[SessionSamples]] = {label: [] for label in wall_ms}
    for _ in range(SESSIONS):
        shared = 1 + rng.exponential(0.3, ROUNDS)
        for label, true_ms in wall_ms.items():
            own = shared[:, None] * (1 + rng.exponential(0.02, (ROUNDS, INFERENCES)))
            late = rng.random((ROUNDS, INFERENCES)) < 0.2
            wall = np.rint(1e6 * true_ms * own * np.where(late, 5, 1)).astype(int)
            cpu = np.rint(1e6 * cpu_ms[label] * own).astype(int)
            rounds = tuple(
                Block(order=0, wall_ns=tuple(w), cpu_ns=tuple(c), preemptions=int(p))
                for w, c, p in zip(wall.tolist(), cpu.tolist(), late.sum(axis=1), strict=True)
            )
            sessions[label].append(SessionSamples(load_ns=10, first_ns=20, warmup=(), rounds=rounds))
    subjects = tuple(
        SubjectSamples(
            label=label,
            runtime="onnxruntime",
            runtime_version="1",
            options={},
            digest=label,
            input_shapes={"image": (1, 3, 8, 8)},
            threads=1,
            fingerprint={},
            sessions=tuple(taken),
        )
        for label, taken in sessions.items()
    )
    content = {
        "created": "2026-01-01T00:00:00+00:00",
        "batch": 1,
        "seed": 0,
        "in_force": {},
        "plan": SamplingPlan(budget_s=1),
        "seconds": 1.0,
        "stopped": "budget",
        "conditions": (),
        "subjects": subjects,
    }
    return Measurement.model_validate({**content, **fields})


@pytest.fixture(name="simulate")
def _simulate() -> Callable[..., Measurement]:
    return simulate


@pytest.fixture
def write_onnx(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a network of one convolution, ReLU and mean, with a dynamic batch."""

    def write(
        name: str, *, width: int = 4, size: int | str = 8, scale: float = 0.1, batch: int | str = "batch"
    ) -> Path:
        weight = numpy_helper.from_array(np.full((width, 3, 3, 3), scale, np.float32), "weight")
        nodes = [
            helper.make_node("Conv", ["image", "weight"], ["conv"], kernel_shape=[3, 3]),
            helper.make_node("Relu", ["conv"], ["relu"]),
            helper.make_node("ReduceMean", ["relu"], ["scores"], axes=[1, 2, 3], keepdims=0),
        ]
        inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, size, size])]
        outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch])]
        graph = helper.make_graph(nodes, "tiny", inputs, outputs, [weight])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path = tmp_path / name
        onnx.save(model, path)
        return path

    return write
