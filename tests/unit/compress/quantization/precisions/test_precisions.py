"""Dynamic int8, weights in blocks and half precision: outputs in both runtimes, sizes, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.compress.quantization.precisions.block_weights import block_weights, packed_blocks
from pipeline.compress.quantization.precisions.dynamic import dynamic_int8
from pipeline.compress.quantization.precisions.half import half_graph, half_weights
from pipeline.core.errors import InputError
from tests.defaults import quantize_static

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from onnx import ModelProto

SAMPLES = np.random.default_rng(0).standard_normal((5, 3, 12, 12), dtype=np.float32)


def network(*, products: bool = True) -> ModelProto:
    """Return a residual network with a resize, a gate, and at its end a Gemm with a bias and a MatMul."""
    generator = np.random.default_rng(1)

    def tensor(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((generator.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["input", "first.weight", "first.bias"], ["first"], name="first", pads=[1] * 4),
        helper.make_node("Clip", ["first", "low", "high"], ["relu6"], name="relu6"),
        helper.make_node("Conv", ["relu6", "second.weight"], ["second"], name="second", pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Resize", ["second", "", "scales"], ["large"], name="resize", mode="nearest"),
        helper.make_node("Add", ["large", "relu6"], ["sum"], name="add"),
        helper.make_node("Sigmoid", ["sum"], ["gate"], name="sigmoid"),
        helper.make_node("Mul", ["sum", "gate"], ["silu"], name="mul"),
        helper.make_node("GlobalAveragePool", ["silu"], ["mean"], name="mean"),
        helper.make_node("Flatten", ["mean"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "hidden.weight", "hidden.bias"], ["hidden"], name="hidden", transB=1),
        helper.make_node("Constant", [], ["factor"], value_float=0.5),
        helper.make_node("Mul", ["hidden", "factor"], ["scaled"], name="scale"),
        helper.make_node("MatMul", ["scaled", "last.weight"], ["logits"], name="last"),
    ]
    constants = [
        tensor("first.weight", 48, 3, 3, 3),
        tensor("first.bias", 48),
        numpy_helper.from_array(np.float32(0), "low"),
        numpy_helper.from_array(np.float32(6), "high"),
        tensor("second.weight", 48, 48, 3, 3),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
        tensor("hidden.weight", 40, 48),
        tensor("hidden.bias", 40),
        tensor("last.weight", 40, 10),
    ]
    if not products:
        nodes, constants = nodes[:8], constants[:6]
    output, shape = ("logits", [1, 10]) if products else ("mean", [1, 48, 1, 1])
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 12, 12])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def in_onnxruntime(model: ModelProto) -> NDArray[np.float32]:
    """Return the outputs for all samples."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # Sums that do not saturate where the processor has no VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": image[None]})[0] for image in SAMPLES])


def in_openvino(model: ModelProto) -> NDArray[np.float32]:
    """Return the outputs for all samples, in float32 where nothing else is stored."""
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    return np.concatenate([compiled(image[None])[0].copy() for image in SAMPLES])


def apart(model: ModelProto, run: Callable[[ModelProto], NDArray[np.float32]]) -> float:
    """Return the largest difference from the float network in onnxruntime, relative to its largest output."""
    reference = in_onnxruntime(network(products=model.graph.output[0].name == "logits"))
    return float(np.abs(run(model) - reference).max() / np.abs(reference).max())


#: What makes a file, how far its outputs may be apart, and how many bytes are left of those of the weights it is about.
WAYS: dict[str, tuple[Callable[[ModelProto], ModelProto], float, tuple[float, float]]] = {
    "dynamic": (dynamic_int8, 0.03, (0.25, 0.75)),
    "dynamic, 7 bits": (lambda model: dynamic_int8(model, reduced=True), 0.05, (0.25, 0.75)),
    "dynamic, one scale": (lambda model: dynamic_int8(model, per_channel=False), 0.05, (0.25, 0.75)),
    "4 bits": (block_weights, 0.15, (0.12, 0.3)),
    "4 bits, small blocks": (lambda model: block_weights(model, block_size=16), 0.15, (0.12, 0.3)),
    "8 bits": (lambda model: block_weights(model, bits=8), 0.01, (0.25, 0.5)),
    "half weights": (half_weights, 2e-3, (0.5, 0.5)),
    "half graph": (half_graph, 5e-3, (0.5, 0.5)),
}


@pytest.mark.parametrize("name", WAYS)
def test_outputs_stay_close_in_both_runtimes(name: str) -> None:
    """And are not the same: something was rounded."""
    change, bound, _ = WAYS[name]
    changed = change(network())
    onnx.checker.check_model(changed)
    for run in (in_onnxruntime, in_openvino):
        assert 0 < apart(changed, run) < bound


@pytest.mark.parametrize("name", WAYS)
def test_the_same_graph_gives_the_same_bytes(name: str) -> None:
    """And the given graph stays as it is."""
    change, _, _ = WAYS[name]
    model = network()
    before = model.SerializeToString(deterministic=True)
    first, second = (change(model).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert model.SerializeToString(deterministic=True) == before


def stored(model: ModelProto, *prefixes: str) -> int:
    """Return the bytes of initializers whose name begins with one of these."""
    return sum(numpy_helper.to_array(each).nbytes for each in model.graph.initializer if each.name.startswith(prefixes))


@pytest.mark.parametrize("name", WAYS)
def test_weights_become_smaller(name: str) -> None:
    """By what their precision promises, scales included."""
    change, _, (low, high) = WAYS[name]
    weights = ("hidden.weight", "last.weight") if "half" not in name else ("first.weight", "second.weight")
    share = stored(change(network()), *weights) / stored(network(), *weights)
    assert low <= share <= high


def operators(model: ModelProto) -> list[str]:
    """Return the operators in order."""
    return [node.op_type for node in model.graph.node]


def test_dynamic_products_run_on_integers() -> None:
    """Both of them; convolutions stay."""
    found = operators(dynamic_int8(network()))
    assert found.count("MatMulInteger") == found.count("DynamicQuantizeLinear") == 2
    assert found.count("Conv") == 2


@pytest.mark.parametrize(("keep", "left"), [(["hidden"], "last"), (["last"], "hidden"), (["h*"], "last")])
def test_products_that_are_kept_are_no_dynamic_ones(keep: list[str], left: str) -> None:
    """A Gemm too, which becomes a MatMul of another name."""
    model = dynamic_int8(network(), keep=keep)
    names = [node.name for node in model.graph.node if node.op_type == "MatMulInteger"]
    assert len(names) == 1
    assert left in names[0]
    assert apart(model, in_onnxruntime) < 0.03


def test_a_pattern_without_a_match_is_refused() -> None:
    """As for static int8."""
    with pytest.raises(InputError, match='"hiden" matches no node'):
        dynamic_int8(network(), keep=["hiden"])


def test_reduced_weights_have_seven_bits() -> None:
    """They never saturate in pairs."""
    for reduced, bound in ((True, 64), (False, 127)):
        model = dynamic_int8(network(), reduced=reduced)
        weights = [
            numpy_helper.to_array(each) for each in model.graph.initializer if each.data_type == TensorProto.INT8
        ]
        assert max(np.abs(each.astype(int)).max() for each in weights) in {bound - 1, bound}


def test_a_bias_stays_in_float() -> None:
    """As an Add of its own behind the product, under the names that were there."""
    model = block_weights(network())
    named = {node.name: node for node in model.graph.node}
    assert (named["hidden"].op_type, named["hidden.bias"].op_type) == ("MatMulNBits", "Add")
    assert list(named["hidden.bias"].output) == ["hidden"]
    assert "hidden.weight" not in {each.name for each in model.graph.initializer}
    assert [each.domain for each in model.opset_import] == ["", "com.microsoft"]


def test_a_weight_that_is_read_twice_is_packed_once() -> None:
    """Plain by one product and transposed by another it is two."""
    model = network()
    square = numpy_helper.from_array(np.random.default_rng(2).standard_normal((48, 48)).astype(np.float32), "shared")
    nodes = list(model.graph.node)
    place = next(i for i, node in enumerate(nodes) if node.name == "hidden")
    nodes[place].input[0] = "third"
    between = [
        helper.make_node("MatMul", ["flat", "shared"], ["one"], name="one"),
        helper.make_node("MatMul", ["one", "shared"], ["two"], name="two"),
        helper.make_node("Gemm", ["two", "shared"], ["third"], name="three", transB=1),
    ]
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], *between, *nodes[place:]])
    model.graph.initializer.append(square)
    packed = [each.name for each in block_weights(model).graph.initializer if each.name.startswith("shared")]
    assert packed == ["shared.4bit", "shared.4bit.scales", "shared.T.4bit", "shared.T.4bit.scales"]


def test_blocks_hold_what_they_should() -> None:
    """Numbers from 0 to 15 around 8, low half first; the largest of a block is exact, and a block of zeros is zero."""
    weight_KN = np.zeros((20, 2), np.float32)
    weight_KN[:3, 0] = [4, -8, 1]
    weight_KN[16:, 0] = [3, 0, 0, -1.5]
    numbers, scales = packed_blocks(weight_KN, 4, 16)
    assert (numbers.shape, scales.shape) == ((2, 2, 8), (2, 2))
    assert scales.tolist() == [[1, -0.375], [1, 1]]
    assert numbers[0, 0, :2].tolist() == [12 | 0 << 4, 9 | 8 << 4]
    assert numbers[0, 1, :2].tolist() == [0 | 8 << 4, 8 | 12 << 4]
    assert set(numbers[1].ravel().tolist()) == {8 | 8 << 4}


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_are_read_as_they_were_written(bits: int) -> None:
    """A unit matrix in front of the product gives the weights back, within half a step of each block."""
    weight_KN = np.random.default_rng(4).standard_normal((48, 5)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["y"], name="product")],
        "product",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [48, 48])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [48, 5])],
        [numpy_helper.from_array(weight_KN, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(block_weights(model, bits=bits, block_size=16).SerializeToString())
    found = session.run(None, {"input": np.eye(48, dtype=np.float32)})[0]
    step = np.abs(weight_KN.reshape(3, 16, 5)).max(1) / 2 ** (bits - 1)
    # The number of the opposite sign to the largest ends one short of it.
    assert (np.abs(found - weight_KN).reshape(3, 16, 5) <= 1.01 * step[:, None]).all()


def test_biases_stay_in_float32() -> None:
    """Only weights are halved."""
    types = {each.name: each.data_type for each in half_weights(network()).graph.initializer}
    assert types["first.weight.half"] == types["hidden.weight.half"] == TensorProto.FLOAT16
    assert types["first.bias"] == types["low"] == types["scales"] == TensorProto.FLOAT


def test_a_weight_beyond_half_precision_stays() -> None:
    """It would become infinite."""
    model = network()
    large = next(each for each in model.graph.initializer if each.name == "first.weight")
    large.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(large) * np.float32(1e5), "first.weight"))
    names = {each.name for each in half_weights(model).graph.initializer}
    assert {"first.weight", "second.weight.half"} <= names
    with pytest.raises(InputError, match=r"first\.weight holds .*; float16 ends at 65504"):
        half_graph(model)


def test_a_half_graph_has_float_ends() -> None:
    """Inputs, outputs and the sizes of a resize stay in float32; what lies between does not."""
    model = half_graph(network())
    assert {each.type.tensor_type.elem_type for each in (*model.graph.input, *model.graph.output)} == {
        TensorProto.FLOAT
    }
    types = {each.name: each.data_type for each in model.graph.initializer}
    assert types.pop("scales") == TensorProto.FLOAT
    assert set(types.values()) == {TensorProto.FLOAT16}
    between = {
        each.type.tensor_type.elem_type for each in model.graph.value_info if each.name not in {"input", "logits"}
    }
    assert between == {TensorProto.FLOAT16}


@pytest.mark.parametrize("change", [dynamic_int8, half_graph], ids=["dynamic", "half graph"])
def test_a_quantized_file_is_refused(change: Callable[[ModelProto], ModelProto]) -> None:
    """There is a float file to start from."""
    quantized = quantize_static(network(), SAMPLES, scheme="u8s8").model
    with pytest.raises(InputError, match="quantized"):
        change(quantized)


@pytest.mark.parametrize(
    ("change", "message"),
    [(dynamic_int8, "found no matrix product"), (block_weights, "found no matrix product")],
)
def test_without_matrix_products_there_is_nothing_to_do(
    change: Callable[[ModelProto], ModelProto], message: str
) -> None:
    """Convolutions do not qualify."""
    with pytest.raises(InputError, match=message):
        change(network(products=False))


def test_without_floats_there_is_nothing_to_halve() -> None:
    """Half of a half graph is refused."""
    model = half_graph(network())
    del model.graph.initializer[:]
    with pytest.raises(InputError, match="found no float32 weights within the range"):
        half_weights(model)
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["y"])],
        "empty",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    with pytest.raises(InputError, match="found no float32 tensor in the graph"):
        half_graph(helper.make_model(graph))


@pytest.mark.parametrize("block_size", [8, 24, 0])
def test_block_sizes_are_powers_of_two(block_size: int) -> None:
    """From 16 on, as the operator wants them."""
    with pytest.raises(InputError, match=f"found a block size of {block_size}; allowed: powers of two from 16 on"):
        block_weights(network(), block_size=block_size)


def test_products_that_scale_or_transpose_their_data_stay() -> None:
    """Their operator has no such attributes."""
    for name, value in (("alpha", 0.5), ("beta", 2.0), ("transA", 1)):
        model = network()
        node = next(each for each in model.graph.node if each.name == "hidden")
        node.attribute.append(helper.make_attribute(name, value))
        assert "Gemm" in operators(block_weights(model))


def test_weights_that_would_not_become_smaller_stay() -> None:
    """Blocks are filled up: 48 weights in a block of 1024 take more bytes than in float32."""
    with pytest.raises(InputError, match="that would become smaller"):
        block_weights(network(), bits=8, block_size=1024)
