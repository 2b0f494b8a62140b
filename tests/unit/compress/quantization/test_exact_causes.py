"""What quantizers get wrong when it is left to them: clips, factors, biases, masks, groups, norms, shared weights.

Each graph is quantized by onnxruntime's and NNCF's placement, and must be within the noise of 8 bits of its float form,
in onnxruntime as it is and optimised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.compress.quantization.engines.registry import ENGINES
from pipeline.compress.quantization.weighted import StoredWeights, weighted_layers
from pipeline.core.errors import StageError
from tests.defaults import asked
from tests.feeds import fed
from tests.properties.int8_noise import onnxruntime_outputs
from tests.unit.compress.quantization.exact import COMMON, IMAGES, PLAIN, graph, node, quantized, wrong
from tests.unit.compress.quantization.graphs import floats

if TYPE_CHECKING:
    from onnx import ModelProto

    from pipeline.compress.quantization.engines.engine import QuantizeRequest
    from pipeline.compress.quantization.names import EngineName

#: NNCF takes a second for each graph.
each_engine = pytest.mark.parametrize("name", ["onnxruntime", "nncf"])
ours = pytest.mark.parametrize("name", ["onnxruntime"])
each_request = pytest.mark.parametrize("request_", [PLAIN, COMMON], ids=["channels", "common"])


def clipped(low: float | None, high: float | None, *, at_the_end: str = "") -> ModelProto:
    """Return a convolution, a clip and another convolution; or a Gemm or convolution and a clip at the end."""
    bounds = {key: np.float32(bound) for key, bound in (("low", low), ("high", high)) if bound is not None}
    given = " ".join(key if key in bounds else "-" for key in ("low", "high")).rstrip(" -")
    weights = {"w": floats(5, 3, 3, 3) / 5, "b": floats(5)}
    if at_the_end == "Gemm":
        flat, product = node("Flatten", "input", "flat"), node("Gemm", "flat w b", "x")
        return graph([flat, product, node("Clip", f"x {given}", "y")], w=floats(108, 5) / 10, b=floats(5), **bounds)
    first = node("Conv", "input w b", "x")
    if at_the_end:
        return graph([first, node("Clip", f"x {given}", "y")], **weights, **bounds)
    nodes = [first, node("Clip", f"x {given}", "c"), node("Conv", "c v", "y")]
    return graph(nodes, **weights, v=floats(4, 5, 1, 1), **bounds)


@ours
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0.0, 6.0),
        (0.0, 0.7),
        (0.5, None),
        (None, 0.4),
        (-0.3, 0.8),
        (0.3, 0.9),
        (-1.0, -0.2),
        (0.0, None),
        (None, None),
    ],
)
def test_a_clip_stays_unless_the_grid_says_the_same(
    name: EngineName, low: float | None, high: float | None, *, symmetric: bool
) -> None:
    """Whatever its bounds; one without any goes."""
    request = asked("u8s8-reduced", symmetric=symmetric, calibration="min-max")
    assert wrong(name, clipped(low, high), request) == []


@pytest.mark.parametrize("last", ["Gemm", "Conv"])
@pytest.mark.parametrize(("low", "high"), [(0.0, None), (0.5, None), (-0.2, 0.4), (-2.0, -0.1)])
def test_a_clip_at_the_end_of_a_network_stays(low: float, high: float | None, last: str) -> None:
    """Behind a matrix product, which returns floats that nothing clips, and behind a convolution."""
    assert wrong("onnxruntime", clipped(low, high, at_the_end=last)) == []


def test_several_activations_at_the_end_all_stay() -> None:
    """Whichever of them a grid would imply."""
    nodes = [node("Flatten", "input", "flat"), node("Gemm", "flat w b", "x"), node("Clip", "x", "c")]
    nodes += [node("Relu", "c", "r"), node("Clip", "r - high", "y")]
    assert wrong("onnxruntime", graph(nodes, w=floats(108, 5) / 10, b=floats(5), high=np.float32(0.6))) == []


def test_a_relu_that_the_grid_implies_is_taken_out() -> None:
    """So that the convolution in front of it runs on integers; a clip that reaches less far stays."""
    operators = [each.op_type for each in quantized("onnxruntime", clipped(0.0, None)).model.graph.node]
    assert "Clip" not in operators
    operators = [each.op_type for each in quantized("onnxruntime", clipped(0.5, None)).model.graph.node]
    assert operators.count("Clip") == 1


@each_engine
def test_what_a_relu_reads_may_be_an_output_too(name: EngineName) -> None:
    """It keeps its negative values."""
    nodes = [node("Conv", "input w b", "x"), node("Relu", "x", "r"), node("Conv", "r v", "y")]
    assert wrong(name, graph(nodes, "x y", w=floats(5, 3, 3, 3) / 5, b=floats(5), v=floats(4, 5, 1, 1))) == []


def test_a_clip_of_tiny_values_is_not_dropped_by_the_runtime() -> None:
    """Whose optimizer takes bounds for equal that differ by less than 1e-7."""
    small = np.float32(1e-9)
    nodes = [node("Conv", "input w", "x"), node("Clip", "x low", "c"), node("Conv", "c v", "y")]
    model = graph(nodes, w=floats(5, 3, 3, 3) * small, v=floats(4, 5, 1, 1), low=np.float32(-2e-10))
    assert wrong("onnxruntime", model, asked("u8s8-reduced", symmetric=True, calibration="min-max")) == []


@ours
@pytest.mark.parametrize("alpha", [1.0, -2.0])
@pytest.mark.parametrize("beta", [1.0, 4.0])
@pytest.mark.parametrize("form", ["vector", "row", "scalar", "computed"])
def test_factors_of_a_product_are_computed(name: EngineName, alpha: float, beta: float, form: str) -> None:
    """Alpha and beta, with a bias of any shape, stored or computed."""
    bias = {"vector": floats(5), "row": floats(1, 5), "scalar": np.float32(0.7)}.get(form)
    nodes = [node("Flatten", "input", "flat"), node("Gemm", "flat u", "c")]
    given = "flat w c" if bias is None else "flat w b"
    nodes.append(node("Gemm", given, "y", alpha=alpha, beta=beta, transB=1))
    stored = {} if bias is None else {"b": bias}
    model = graph(
        nodes if bias is None else [nodes[0], nodes[2]], w=floats(5, 108) / 10, u=floats(108, 5) / 10, **stored
    )
    assert wrong(name, model) == []


WILD = {
    "dead": (np.float32([0, 1, 1, 0, 1]), np.float32([1, 1, 0.3, -0.2, 0])),
    "regularised": (np.float32([1e-12, 1, 1e-30, 1, 1e-9]), np.float32([1, 1, -3, 0.2, 1])),
    "huge": (np.ones(5, np.float32), np.float32([1e9, -1, 0.1, 1e4, 3])),
    "all dead": (np.zeros(5, np.float32), np.float32([1, -1, 0.3, 0, 3])),
}


@ours
@each_request
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
@pytest.mark.parametrize("kind", WILD)
def test_biases_beyond_their_scale_are_kept(
    name: EngineName, operator: str, kind: str, request_: QuantizeRequest
) -> None:
    """Of dead and regularised channels, and of 1e9; in integers, and channels that need none keep their scale."""
    factor, bias = WILD[kind]
    if operator in {"Conv", "ConvTranspose"}:
        weight = floats(5, 3, 3, 3) * factor[:, None, None, None] / 5
        nodes = [node(operator, "input w b", "y")]
        model = graph(nodes, w=weight.transpose(1, 0, 2, 3) if operator == "ConvTranspose" else weight, b=bias)
    else:
        weight = floats(108, 5) * factor / 10
        product = [node("Gemm", "flat w b", "y")] if operator == "Gemm" else []
        product = product or [node("MatMul", "flat w", "x"), node("Add", "x b", "y")]
        model = graph([node("Flatten", "input", "flat"), *product], w=weight, b=bias)
    assert wrong(name, model, request_) == []


def test_a_huge_bias_leaves_other_channels_their_weights() -> None:
    """A class that is switched off by -1e9 is a channel with a scale of its own, also where one was asked for all."""
    bias = np.float32([-1e9, 0.1, 0.2, -0.1, 0])
    model = graph([node("Flatten", "input", "flat"), node("Gemm", "flat w b", "y")], w=floats(108, 5) / 10, b=bias)
    result = quantized("onnxruntime", model, COMMON).model
    exact, found = (onnxruntime_outputs(each, IMAGES, optimised=False)[0] for each in (model, result))
    assert np.abs(found - exact)[:, 1:].max() < 0.05 * np.abs(exact[:, 1:]).max()
    layer = weighted_layers(result)["y.node"]
    assert isinstance(layer.bias, StoredWeights)
    assert layer.bias.integers.dtype == np.int32
    assert np.abs(layer.bias.integers.astype(np.int64)).max() <= 2**30  # room for the sums


@ours
@each_request
@pytest.mark.parametrize("groups", [1, 3])
def test_a_transposed_convolution_with_groups(name: EngineName, groups: int, request_: QuantizeRequest) -> None:
    """Its scales count the outputs of one group."""
    nodes = [
        node("ConvTranspose", "input w b", "t", group=groups, strides=[2, 2]),
        node("Relu", "t", "r"),
        node("Conv", "r v", "y"),
    ]
    weight = floats(3, 2, 4, 4) * np.float32([1, 20])[:, None, None]
    model = graph(nodes, w=weight, b=floats(2 * groups), v=floats(4, 2 * groups, 1, 1))
    assert wrong(name, model, request_) == []


def masked(hidden: float, *, where: bool) -> ModelProto:
    """Return attention of three tokens, of which later ones are hidden."""
    near = np.tril(np.ones((3, 3), bool))
    hide = node("Where", "near s hidden", "h") if where else node("Add", "s mask", "h")
    nodes = [
        node("Reshape", "input shape", "x"),
        node("MatMul", "x w", "k"),
        node("Transpose", "k", "t", perm=[0, 2, 1]),
        node("MatMul", "k t", "s"),
        hide,
        node("Softmax", "h", "p", axis=-1),
        node("MatMul", "p x", "y"),
    ]
    constants = {"near": near, "hidden": np.float32(hidden)} if where else {"mask": np.where(near, 0, hidden)}
    constants = {key: value if value.dtype == bool else value.astype(np.float32) for key, value in constants.items()}
    return graph(nodes, shape=np.array([0, 3, -1]), w=floats(36, 36) / 20, **constants)


@ours
@pytest.mark.parametrize("where", [True, False])
@pytest.mark.parametrize("hidden", [-np.inf, -1e9, float(np.finfo(np.float32).min)])
def test_a_mask_stays_and_the_rest_is_quantized(name: EngineName, hidden: float, *, where: bool) -> None:
    """Minus infinity, and the large numbers that stand for it; the reason is told."""
    model = masked(hidden, where=where)
    assert wrong(name, model) == []
    made = quantized(name, model)
    assert made.nodes["MatMul"] == (3 if name == "onnxruntime" else 2)
    assert set(made.reasons) == {"h.node", "p.node"}
    assert made.reasons["p.node"].startswith("h holds values that are masked, not finite, or so large")


def offset(behind: str, size: float) -> ModelProto:
    """Return three convolutions; a channel of the second has a bias of this size, with this operator behind it."""
    bias = floats(5)
    bias[0] = size
    nodes = [
        node("Conv", "input w b", "c", pads=[1] * 4),
        node("Relu", "c", "r"),
        node("Conv", "r v o", "d"),
        node(behind, "d", "a"),
        node("Conv", "a u", "y"),
    ]
    last = floats(4, 5, 1, 1)
    if behind == "Relu" and size > 0:
        last[:, 0] = 0  # else nothing of what differs between images is left in float either
    return graph(nodes, w=floats(4, 3, 3, 3) / 5, b=floats(4), v=floats(5, 4, 1, 1) / 2, o=bias, u=last)


@each_engine
@pytest.mark.parametrize(
    ("behind", "size", "in_float"),
    [
        ("Relu", -1e6, set()),  # fused into the convolution, it cuts the bias off
        ("Relu", 1e6, {"d.node", "a.node", "y.node"}),
        ("Sigmoid", -1e6, {"d.node", "a.node"}),
        ("Sigmoid", 1e6, {"d.node", "a.node"}),
        ("Tanh", 1e9, {"d.node", "a.node"}),
        ("Sigmoid", 3, set()),
    ],
)
def test_a_layer_whose_bias_hides_the_rest_stays_in_float_alone(
    name: EngineName, behind: str, size: float, in_float: set[str]
) -> None:
    """One step of 8 bits would be larger than all that differs between images; other layers are quantized."""
    model = offset(behind, size)
    made = quantized(name, model)
    assert set(made.reasons) == in_float
    if name == "onnxruntime":  # NNCF leaves the last convolution in float anyway
        assert made.nodes["Conv"] == 3 - len(in_float & {"d.node", "y.node"})
    assert wrong(name, model) == []


def test_values_that_the_network_makes_infinite_are_refused_and_keep_helps() -> None:
    """With the node's name; what reads them stays in float too."""
    nodes = [node("Log", "input", "l"), node("Clip", "l low", "c"), node("Conv", "c w", "y")]
    model = graph(nodes, w=floats(4, 3, 1, 1), low=np.float32(-5))
    images = np.abs(IMAGES) * (np.abs(IMAGES) > 0.3)
    with pytest.raises(StageError, match=r'first in l \(node l.node\).*keep: \["l.node"\]'):
        ENGINES["onnxruntime"]().quantize(model, fed(images), PLAIN)
    made = ENGINES["onnxruntime"]().quantize(model, fed(images), asked("u8s8", calibration="min-max", keep=("l.*",)))
    assert made.nodes == {"Conv": 1}
    assert set(made.float_nodes) == {"l.node", "c.node"}


def grouped() -> ModelProto:
    """Return a transposed convolution of three groups with a dead channel."""
    nodes = [node("ConvTranspose", "input w b", "t", group=3), node("Relu", "t", "r"), node("Conv", "r v", "y")]
    return graph(nodes, w=floats(3, 2, 4, 4) * np.float32([0, 1])[:, None, None], b=floats(6), v=floats(4, 6, 1, 1))


def scaled() -> ModelProto:
    """Return a product with both factors and a dead output."""
    nodes = [node("Flatten", "input", "f"), node("Gemm", "f w b", "y", alpha=-2.0, beta=4.0)]
    return graph(nodes, w=floats(108, 5) * np.float32([0, 1, 1, 1e-12, 1]) / 10, b=floats(5))


def preactivation() -> ModelProto:
    """Return a convolution that a batch norm and a shortcut read."""
    nodes = [
        node("Conv", "input w b", "c"),
        node("BatchNormalization", "c s o m v", "n"),
        node("Relu", "n", "r"),
        node("Conv", "r u", "d", pads=[1] * 4),
        node("Add", "c d", "y"),
    ]
    norm = {"s": floats(5), "o": floats(5, seed=1), "m": floats(5, seed=2), "v": np.square(floats(5)) + np.float32(0.1)}
    return graph(nodes, w=floats(5, 3, 3, 3) / 5, b=floats(5), u=floats(5, 5, 3, 3) / 7, **norm)


def bias_on_the_left() -> ModelProto:
    """Return a product and an addition, which onnxruntime makes one layer; 32 bits do not hold this bias."""
    nodes = [node("Flatten", "input", "f"), node("MatMul", "f w", "m"), node("Add", "b m", "a"), node("Relu", "a", "r")]
    weight = floats(108, 5) * np.float32([0, 1, 1, 1, 1e-9]) / 10
    bias = np.float32([3e6, 1, 0.2, -4, 1e5])
    return graph([*nodes, node("MatMul", "r v", "y")], w=weight, b=bias, v=floats(5, 3) / 5)


GRAPHS = {
    "clip": lambda: clipped(0.5, None),
    "mask": lambda: masked(-np.inf, where=True),
    "groups": grouped,
    "factors": scaled,
    "norm": preactivation,
    "bias": bias_on_the_left,
    "nothing": lambda: graph([node("Clip", "input", "y")]),
}


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("name", ["nncf", "neural-compressor"])
def test_other_engines_get_them_right_too(name: EngineName, kind: str) -> None:
    """One graph of each kind."""
    assert wrong(name, GRAPHS[kind]()) == []


@each_engine
def test_a_batch_norm_that_no_convolution_can_take_stays_in_float(name: EngineName) -> None:
    """With the reason; the convolutions around it are quantized."""
    assert wrong(name, preactivation()) == []
    made = quantized(name, preactivation())
    assert made.nodes["Conv"] == 2
    assert made.reasons == {"n.node": "no convolution can absorb this batch norm"}


@ours
@each_request
def test_a_weight_that_is_read_along_both_axes(name: EngineName, request_: QuantizeRequest) -> None:
    """As in an autoencoder with tied weights; each product has scales along its outputs."""
    nodes = [node("Flatten", "input", "f"), node("Gemm", "f w b", "h", transB=1), node("Gemm", "h w", "y")]
    model = graph(nodes, w=floats(108, 108) * np.float32(np.geomspace(0.1, 1, 108))[:, None] / 10, b=floats(108))
    assert wrong(name, model, request_) == []


@ours
@each_request
def test_a_layer_that_is_called_twice_with_a_huge_bias(name: EngineName, request_: QuantizeRequest) -> None:
    """The data of the second call is on a scale a million times the first one's."""
    nodes = [node("Conv", "input w b", "c"), node("Conv", "c w b", "y")]
    weight = floats(3, 3, 1, 1) * np.float32([1, 1e-12, 0])[:, None, None, None]
    assert wrong(name, graph(nodes, w=weight, b=np.float32([1e6, 2, 0.5])), request_) == []


@pytest.mark.parametrize("size", [0.0, 1e-40])
def test_a_bias_behind_a_dead_layer_is_kept(size: float) -> None:
    """Zeros have no scale of their own: it is that which the biases need."""
    nodes = [node("Conv", "input w", "c"), node("Relu", "c", "r"), node("Conv", "r v b", "y")]
    model = graph(nodes, w=floats(5, 3, 3, 3) * np.float32(size), v=floats(4, 5, 1, 1), b=floats(4) * np.float32(1e-3))
    assert wrong("onnxruntime", model) == []


def test_means_that_cancel_stay_in_float() -> None:
    """Which onnxruntime's integer kernel refuses when it runs."""
    weight = np.float32([[[[1, -1]]]]) * np.ones((3, 1, 1, 2), np.float32)
    nodes = [node("Conv", "input w", "c", group=3, pads=[0, 1, 0, 0]), node("GlobalAveragePool", "c", "y")]
    images = floats(4, 3, 6, 1) * np.ones((4, 3, 6, 6), np.float32)
    model = graph(nodes, w=weight)
    images[:, :, :, 5] = 1e-5
    made = ENGINES["onnxruntime"]().quantize(model, fed(images), PLAIN)
    assert set(made.reasons) == {"y.node"}
    onnxruntime_outputs(made.model, images, optimised=True)


@pytest.mark.parametrize("name", ["nncf"])
def test_tensors_below_an_engines_floor_are_quantized(name: EngineName) -> None:
    """NNCF gives all scales below 1.2e-7 that of 1.2e-7: whole tensors become zero."""
    nodes = [node("Conv", "input w b", "c"), node("Relu", "c", "r"), node("Conv", "r v", "y")]
    small = np.float32(1e-9)
    assert wrong(name, graph(nodes, w=floats(5, 3, 3, 3) * small, b=floats(5) * small, v=floats(4, 5, 1, 1))) == []
