"""Cross-layer equalization: the same network with equal ranges, and pairs of layers that it must not touch."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from pipeline.compress.quantization.recovery.equalization import equalize_channels
from pipeline.core.errors import InputError
from tests.defaults import quantize_static
from tests.unit.compress.quantization.graphs import floats, model_of, run

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    Array = NDArray[np.float32]

WIDTH = 6
IMAGES = floats(8, WIDTH, 9, 9, seed=7)
SETTINGS = settings(
    max_examples=40, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)

#: What may stand between two layers: operator, attributes, constants.
BETWEEN: dict[str, tuple[str, dict[str, Any], tuple[Array, ...]]] = {
    "relu": ("Relu", {}, ()),
    "leaky relu": ("LeakyRelu", {"alpha": 0.1}, ()),
    "prelu": ("PRelu", {}, (np.linspace(-0.5, 0.5, WIDTH, dtype=np.float32)[:, None, None],)),
    "max pool": ("MaxPool", {"kernel_shape": [2, 2], "strides": [1, 1], "pads": [1, 0, 0, 1]}, ()),
    "average pool": ("AveragePool", {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}, ()),
    "identity": ("Identity", {}, ()),
}


class Chain:
    """Builds a graph node by node; each reads what the last one made."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.last, self.seed = "input", seed

    def add(self, operator: str, *constants: Array, other: str = "", **attributes: Any) -> Chain:  # noqa: ANN401
        """Add a node; `other` is another value that it reads."""
        name = f"n{len(self.nodes)}"
        given = [f"{name}.{place}" for place in range(len(constants))]
        self.constants |= dict(zip(given, constants, strict=True))
        inputs = [self.last, *([other] if other else []), *given]
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        self.last = name
        return self

    def conv(self, *, groups: int = 1, kernel: int = 1, bias: bool = True) -> Chain:
        """Add a convolution whose channels differ in range by a thousand."""
        self.seed += 1
        draws = np.random.default_rng(self.seed)
        spread = np.exp(draws.uniform(-3.5, 3.5, (WIDTH, 1, 1, 1)) / 2) * np.exp(
            draws.uniform(-3.5, 3.5, (1, WIDTH // groups, 1, 1)) / 2
        )
        weight = (draws.standard_normal((WIDTH, WIDTH // groups, kernel, kernel)) * spread).astype(np.float32)
        constants = [weight, draws.standard_normal(WIDTH).astype(np.float32)][: 1 + bias]
        return self.add("Conv", *constants, group=groups, pads=[kernel // 2] * 4)

    def model(self, *outputs: str) -> ModelProto:
        """Return the graph."""
        names = [self.last, *outputs]
        return model_of(self.nodes, {"input": (8, WIDTH, 9, 9)}, names, self.constants)


def tensors(model: ModelProto) -> dict[str, Array]:
    """Return the stored tensors by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def ranges(model: ModelProto, first: str, second: str) -> tuple[Array, Array]:
    """Return the largest weight of each channel, in the layer that makes it and in the one that reads it."""
    stored = tensors(model)
    nodes = {node.name: node for node in model.graph.node}
    groups = next(each.i for each in nodes[second].attribute if each.name == "group")
    makes, reads = np.abs(stored[f"{first}.0"]), np.abs(stored[f"{second}.0"])
    by_channel = [
        reads[group * WIDTH // groups : (group + 1) * WIDTH // groups, index].max()
        for group in range(groups)
        for index in range(WIDTH // groups)
    ]
    return makes.max((1, 2, 3)), np.array(by_channel)


@st.composite
def chains(draw: st.DrawFn) -> tuple[ModelProto, list[tuple[str, str]]]:
    """Return a chain of convolutions of all kinds with anything between them, and the pairs."""
    chain = Chain(draw(st.integers(0, 2**16)))
    layers = []
    for place in range(draw(st.integers(2, 4))):
        for name in draw(st.lists(st.sampled_from(sorted(BETWEEN)), max_size=2)) if place else ():
            operator, attributes, constants = BETWEEN[name]
            chain.add(operator, *constants, **attributes)
        groups = draw(st.sampled_from((1, 2, 3, WIDTH)))
        chain.conv(groups=groups, kernel=draw(st.sampled_from((1, 3))), bias=draw(st.booleans()))
        layers.append(chain.last)
    return chain.model(), list(pairwise(layers))


@SETTINGS
@given(chains())
def test_the_network_stays_the_same_and_ranges_become_equal(drawn: tuple[ModelProto, list[tuple[str, str]]]) -> None:
    """For all pairs of a chain at once, whatever stands between them."""
    model, pairs = drawn
    before = model.SerializeToString(deterministic=True)
    equalized, found = equalize_channels(model)
    assert model.SerializeToString(deterministic=True) == before
    assert list(found) == pairs
    expected, outputs = run(model, IMAGES)[0], run(equalized, IMAGES)[0]
    assert np.abs(outputs - expected).max() <= 1e-5 * np.abs(expected).max()
    for pair in pairs:
        one, other = ranges(equalized, *pair)
        np.testing.assert_allclose(one, other, rtol=0.01)
    again, _ = equalize_channels(equalized)
    for name, tensor in tensors(again).items():
        np.testing.assert_allclose(tensor, tensors(equalized)[name], rtol=0.02, atol=1e-6)


def test_the_same_again_gives_the_same_bytes() -> None:
    """And the types of all tensors stay."""
    model = Chain().conv().add("Relu").conv(groups=WIDTH, kernel=3).add("Relu").conv().model()
    files = [equalize_channels(model)[0] for _ in range(2)]
    assert files[0].SerializeToString(deterministic=True) == files[1].SerializeToString(deterministic=True)
    assert {tensor.dtype for tensor in tensors(files[0]).values()} == {np.dtype(np.float32)}


def test_one_scale_for_a_depthwise_layer_loses_less() -> None:
    """Which is what it is for: the error of the int8 file falls to a fraction."""
    model = Chain().conv().add("Relu").conv(groups=WIDTH, kernel=3).add("Relu").conv().model()
    expected = run(model, IMAGES)[0]
    errors = []
    for each in (model, equalize_channels(model)[0]):
        quantized = quantize_static(each, IMAGES, scheme="u8s8-reduced", per_channel=False).model
        errors.append(float(np.square(run(quantized, IMAGES)[0] - expected).sum()))
    assert errors[1] < 0.3 * errors[0]


def relu6(chain: Chain) -> Chain:
    """Put a bounded activation between two layers."""
    return chain.conv().add("Clip", np.float32(0), np.float32(6)).conv()


def addition(chain: Chain) -> Chain:
    """Add the input before the second layer."""
    return chain.conv().add("Add", other="input").conv()


def two_readers(chain: Chain) -> Chain:
    """Let something else read what the first layer makes."""
    chain.conv().conv()
    return chain.add("Add", other="n0")


def read_twice(chain: Chain) -> Chain:
    """Add what the first layer makes to itself."""
    return chain.conv().add("Add", other="n0").conv()


def shared_weights(chain: Chain) -> Chain:
    """Compute one layer twice."""
    chain.conv().conv()
    chain.nodes[1].input[1] = chain.nodes[0].input[1]
    return chain


def shared_bias(chain: Chain) -> Chain:
    """Give both layers the same bias, which the first may not change."""
    chain.conv().conv()
    chain.nodes[1].input[2] = chain.nodes[0].input[2]
    return chain


def computed_slope(chain: Chain) -> Chain:
    """Let the layer's output be the slope of another value."""
    chain.add("Relu").conv()
    chain.nodes.append(helper.make_node("PRelu", ["input", chain.last], ["slope"], "slope"))
    chain.last = "slope"
    return chain.conv()


def as_kernel(chain: Chain) -> Chain:
    """Use what the first layer makes as the weights of the second."""
    chain.conv()
    chain.nodes.append(helper.make_node("Conv", ["input", chain.last], ["y"], "y"))
    chain.last = "y"
    return chain


def other_layers(chain: Chain) -> Chain:
    """Join layers by a linear one."""
    return chain.conv().add("MatMul", floats(9, 9)).conv()


@pytest.mark.parametrize(
    "build",
    [relu6, addition, two_readers, read_twice, shared_weights, shared_bias, computed_slope, as_kernel, other_layers],
)
def test_what_cannot_be_equalized_is_refused(build: Any) -> None:  # noqa: ANN401 - a function
    """When there is nothing else in the network."""
    with pytest.raises(InputError, match="no two layers are joined directly or only by ReLU or pooling"):
        equalize_channels(build(Chain()).model())


def test_an_output_of_the_network_keeps_its_scale() -> None:
    """Even if a layer reads it."""
    chain = Chain().conv().add("Relu").conv()
    with pytest.raises(InputError, match="nothing to equalize"):
        equalize_channels(chain.model("n1"))


def test_the_rest_of_a_network_is_equalized() -> None:
    """Pairs that cannot stay as they are."""
    chain = relu6(Chain()).add("Relu").conv()
    model = chain.model()
    equalized, pairs = equalize_channels(model)
    assert pairs == (("n2", "n4"),)
    np.testing.assert_array_equal(tensors(equalized)["n0.0"], tensors(model)["n0.0"])
    np.testing.assert_allclose(run(equalized, IMAGES)[0], run(model, IMAGES)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-12])
def test_dead_channels_stay(size: float) -> None:
    """Or their biases would set the range of the whole activation."""
    chain = Chain().conv().add("Relu").conv()
    chain.constants["n0.0"][2] *= size
    chain.constants["n2.0"][:, 4] *= size
    model = chain.model("n0")
    model.graph.output.pop()
    equalized, _ = equalize_channels(model)
    for name, tensor in tensors(equalized).items():
        assert np.isfinite(tensor).all(), name
    assert np.abs(tensors(equalized)["n0.1"]).max() < 100 * np.abs(tensors(model)["n0.1"]).max()
    np.testing.assert_array_equal(tensors(equalized)["n0.1"][[2, 4]], tensors(model)["n0.1"][[2, 4]])
    np.testing.assert_allclose(run(equalized, IMAGES)[0], run(model, IMAGES)[0], rtol=1e-4, atol=1e-4)
