"""Profiled times: kernels of both runtimes find the nodes of the file that they compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import quantize_dynamic

from pipeline.analysis.times import middle_mean, node_times
from pipeline.core.errors import InputError
from pipeline.onnx_graph.file import finish_model, read_onnx, write_onnx
from pipeline.onnx_graph.wiring import FileWiring
from tests.defaults import quantize_static

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.analysis.times import NodeTime
    from pipeline.core.stage import Runtime

RUNS = 12


def kernels(file: Path, runtime: Runtime, samples: NDArray[np.float32]) -> dict[str, NodeTime]:
    """Return the kernels of a file by the node that they count for."""
    found = node_times(file, runtime, {"input": samples[:1]}, runs=RUNS)
    assert (found.runtime, found.runs, found.threads) == (runtime, RUNS, 1)
    assert found.nanoseconds == sum(kernel.nanoseconds for kernel in found.kernels) > 0
    return {kernel.name: kernel for kernel in found.kernels}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_float_layer_has_its_kernel(exported: Path, samples: NDArray[np.float32], runtime: Runtime) -> None:
    """Layouts, fused activations and additions do not hide which layer a kernel is."""
    found = kernels(exported, runtime, samples)
    assert {"stem", "depthwise", "fc"} <= set(found)
    assert found["stem"].precision == "float32"
    assert "Conv" in found["stem"].operator
    layers = {node.name for node in FileWiring(read_onnx(exported)).layers}
    assert layers >= {node for kernel in found.values() for node in kernel.nodes}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_units_of_quantized_layers_count_for_their_layer(
    quantized: Path, samples: NDArray[np.float32], runtime: Runtime
) -> None:
    """A convolution with its quantizers is one kernel on integers; a mean that has none stays float in onnxruntime."""
    found = kernels(quantized, runtime, samples)
    assert {"stem", "depthwise", "fc"} <= set(found)
    assert {found[name].precision for name in ("stem", "depthwise", "fc")} == {"int8"}
    assert "act.Clip_QuantizeLinear" in found["stem"].nodes
    if runtime == "onnxruntime":
        assert found["ReduceMean"].precision == "float32"
        assert found["ReduceMean_QuantizeLinear"].own


def test_an_ir_has_the_names_of_its_layers(quantized_ir: Path, samples: NDArray[np.float32]) -> None:
    """A matrix product whose bias OpenVINO calls by the output of the network is still the layer."""
    found = kernels(quantized_ir, "openvino", samples)
    assert {"stem", "depthwise", "fc"} <= set(found)
    assert found["stem"].precision == "int8"


def test_a_moved_converter_does_not_take_in_the_network(samples: NDArray[np.float32], tmp_path: Path) -> None:
    """Onnxruntime quantizes in front of a Reshape; the mean before it and the Reshape keep their own kernels."""
    constants = [helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])]
    constants.append(helper.make_tensor("shape", TensorProto.INT64, [2], [1, 8]))
    weight = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    constants.append(helper.make_tensor("weight", TensorProto.FLOAT, weight.shape, weight.flatten().tolist()))
    constants.append(helper.make_tensor("matrix", TensorProto.FLOAT, [8, 4], [0.5] * 32))
    nodes = [
        helper.make_node("Conv", ["input", "weight"], ["conv"], name="conv"),
        helper.make_node("ReduceMean", ["conv", "axes"], ["mean"], name="mean", keepdims=1),
        helper.make_node("Reshape", ["mean", "shape"], ["flat"], name="flat"),
        helper.make_node("MatMul", ["flat", "matrix"], ["logits"], name="fc"),
    ]
    ports = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 8, 8]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4]),
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    write_onnx(finish_model(quantize_static(model, samples, scheme="u8s8").model), tmp_path / "int8.onnx")
    found = kernels(tmp_path / "int8.onnx", "onnxruntime", samples)
    assert {"conv", "mean", "flat", "fc"} <= set(found)
    assert "conv" not in found["flat"].nodes
    assert found["mean"].nodes == ("mean",)


def test_products_that_quantize_their_input_are_on_integers(
    exported: Path, samples: NDArray[np.float32], tmp_path: Path
) -> None:
    """Although they read floats."""
    quantize_dynamic(str(exported), str(tmp_path / "dynamic.onnx"), op_types_to_quantize=["Gemm", "MatMul"])
    found = kernels(tmp_path / "dynamic.onnx", "onnxruntime", samples)
    (name,) = (
        node.name for node in FileWiring(read_onnx(tmp_path / "dynamic.onnx")).layers if node.op_type == "MatMulInteger"
    )
    assert found[name].precision == "int8"


def test_shares_are_by_node(quantized: Path, quantized_ir: Path, samples: NDArray[np.float32]) -> None:
    """Nanoseconds, none of them zero; nodes of the file and what the runtime added."""
    for file, runtime in ((quantized, "onnxruntime"), (quantized, "openvino"), (quantized_ir, "openvino")):
        found = {
            name: kernel.nanoseconds for name, kernel in kernels(file, runtime, samples).items() if kernel.nanoseconds
        }
        assert found
        assert all(0 < nanoseconds < 1e9 for nanoseconds in found.values())
        # OpenVINO tells whole microseconds, which these layers hardly take.
        assert runtime == "openvino" or {"stem", "depthwise"} <= set(found)


def test_a_dynamic_batch_and_nodes_without_names(samples: NDArray[np.float32], tmp_path: Path) -> None:
    """The name of a node is then that of its output."""
    nodes = [helper.make_node("Exp", ["input"], ["grown"]), helper.make_node("Softmax", ["grown"], ["scores"])]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 8, 8]) for name in ("input", "scores")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:])
    write_onnx(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "u.onnx"
    )
    assert {"grown", "scores"} <= set(kernels(tmp_path / "u.onnx", "onnxruntime", samples))
    assert kernels(tmp_path / "u.onnx", "openvino", samples)


def test_what_a_runtime_cannot_profile_is_told(quantized_ir: Path, tmp_path: Path) -> None:
    """An IR in onnxruntime, a runtime without a profiler, a file that is none."""
    feed = {"input": np.zeros((1, 3, 8, 8), np.float32)}
    with pytest.raises(InputError, match=r"allowed: onnxruntime for \.onnx; openvino for \.xml and \.onnx"):
        node_times(quantized_ir, "onnxruntime", feed)
    with pytest.raises(InputError, match="torch cannot profile it"):
        node_times(quantized_ir, "torch", feed)
    broken = read_onnx_of_unknown_operator(tmp_path)
    with pytest.raises(InputError, match="cannot be opened by onnxruntime"):
        node_times(broken, "onnxruntime", feed)
    with pytest.raises(InputError, match="is not a readable model for OpenVINO"):
        node_times(broken, "openvino", feed)


def read_onnx_of_unknown_operator(folder: Path) -> Path:
    """Write a valid file with an operator that no runtime knows."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("input", "scores")]
    node = helper.make_node("Nothing", ["input"], ["scores"], domain="nobody")
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("nobody", 1)]
    model = helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:]), opset_imports=opsets, ir_version=10)
    write_onnx(model, folder / "nothing.onnx")
    return folder / "nothing.onnx"


def test_interruptions_do_not_count() -> None:
    """The mean of the middle half."""
    assert middle_mean([10.0, 11.0, 12.0, 900.0]) == 11.5
    assert middle_mean([7.0]) == 7.0


def test_reading_names_nodes_once(exported: Path) -> None:
    """The names that times and noise are given by are those of the file."""
    assert {node.name for node in read_onnx(exported).graph.node} == {
        node.name for node in FileWiring(read_onnx(exported)).model.graph.node
    }
