"""Small ONNX graphs, and what onnxruntime makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    Array = NDArray[Any]


def floats(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Return values of a normal distribution."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def model_of(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Sequence[int | str] | None],
    outputs: Sequence[str],
    constants: Mapping[str, Array] | None = None,
    opset: int = 20,
) -> ModelProto:
    """Return a model with float inputs of these shapes, and outputs whose types are inferred."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def session(model: ModelProto, *, optimised: bool = False) -> onnxruntime.InferenceSession:
    """Open a model on one thread, by default exactly as it is."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: ModelProto, *arrays: Array, optimised: bool = False) -> list[Array]:
    """Return what onnxruntime computes."""
    opened = session(model, optimised=optimised)
    return list(opened.run(None, {port.name: each for port, each in zip(opened.get_inputs(), arrays, strict=True)}))
