"""Bias correction: means of outputs are those of the float graph again, whatever the bias is stored as."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pipeline.compress.quantization.engines.registry import available, open_engine
from pipeline.compress.quantization.recovery.bias_correction import correct_biases
from pipeline.compress.quantization.weighted import StoredWeights, weighted_layers
from pipeline.core.errors import InputError
from tests.defaults import asked, quantize_static
from tests.feeds import fed
from tests.unit.compress.quantization.graphs import floats, model_of, run
from tests.unit.compress.quantization.layer_graphs import LAYERS, SAMPLES, convolution, twice

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from pipeline.compress.quantization.names import EngineName

BIASED = [name for name in LAYERS if name not in {"no bias", "tokens"}]


def means(model: ModelProto, name: str, samples: NDArray[np.float32] = SAMPLES) -> NDArray[np.float32]:
    """Return the mean of each output channel of a node."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    output = next(node.output[0] for node in model.graph.node if node.name == name)
    exposed.graph.output.append(onnx.ValueInfoProto(name=output))
    found = np.concatenate([run(exposed, image[None])[0] for image in samples])
    result: NDArray[np.float32] = found.mean(axis=tuple(dim for dim in range(found.ndim) if dim != 1))
    return result


def biased(layer: str) -> str:
    """Return the name of the layer that a graph is about."""
    return "fc" if layer in {"rows", "columns"} else "conv"


@pytest.mark.parametrize("layer", BIASED)
@pytest.mark.parametrize("per_channel", [True, False])
def test_means_are_those_of_the_float_graph(layer: str, per_channel: bool) -> None:  # noqa: FBT001 - a parameter
    """Ten times nearer than before at least, in onnxruntime; nothing but biases changes."""
    model, name = LAYERS[layer](), biased(layer)
    plain = quantize_static(model, SAMPLES, scheme="u8s8-reduced", per_channel=per_channel).model
    before = plain.SerializeToString(deterministic=True)
    corrected, shifts = correct_biases(model, plain, fed(SAMPLES))
    assert plain.SerializeToString(deterministic=True) == before
    wanted = means(model, name)
    errors = [np.abs(means(each, name) - wanted).max() for each in (plain, corrected)]
    assert errors[1] < 0.1 * errors[0]
    assert 0 < shifts[name] < 0.2
    stored = {tensor.name: tensor.SerializeToString() for tensor in plain.graph.initializer}
    changed = {
        tensor.name for tensor in corrected.graph.initializer if stored[tensor.name] != tensor.SerializeToString()
    }
    assert changed == {f"{each}.bias_quantized" for each in shifts}


def test_later_layers_see_what_earlier_ones_became() -> None:
    """So the means of all of them are right at once, that of the network's output included."""
    model = convolution((4, 4, 3, 3), pads=[1, 1, 1, 1])
    plain = quantize_static(model, SAMPLES, scheme="u8s8-reduced", per_channel=False).model
    corrected, shifts = correct_biases(model, plain, fed(SAMPLES))
    assert list(shifts) == ["conv", "fc"]
    for name in shifts:
        errors = [np.abs(means(each, name) - means(model, name)).max() for each in (plain, corrected)]
        assert errors[1] < 0.1 * errors[0]


def test_a_known_mean_is_taken_off() -> None:
    """One weight of 0.504 on a grid of 0.01 and inputs of 1: each output is 0.004 too low."""
    constants = {"w": np.float32([[[[1.27]]], [[[0.504]]]]), "b": np.float32([0, 0])}
    nodes = [
        helper.make_node("Conv", ["input", "w", "b"], ["conv"], "conv"),
        helper.make_node("ReduceMean", ["conv"], ["y"], "mean"),
    ]
    model = model_of(nodes, {"input": (1, 1, 2, 2)}, ["y"], constants)
    ones = np.ones((3, 1, 2, 2), np.float32)
    plain = quantize_static(model, ones, scheme="u8s8", per_channel=False).model
    corrected, shifts = correct_biases(model, plain, fed(ones))
    np.testing.assert_allclose(means(plain, "conv", ones), [1.27, 0.5], rtol=1e-6)
    np.testing.assert_allclose(means(corrected, "conv", ones), [1.27, 0.504], atol=3e-5)
    assert shifts["conv"] == pytest.approx(0.004 / 1.27, rel=1e-3)


def test_float_biases_are_shifted_too() -> None:
    """Some engines leave them."""
    model = LAYERS["plain"]()
    plain = quantize_static(model, SAMPLES, scheme="u8s8-reduced", per_channel=False).model
    node = next(node for node in plain.graph.node if node.name == "conv")
    node.input[2] = "float"
    bias = next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == "conv.bias")
    plain.graph.initializer.append(numpy_helper.from_array(bias, "float"))
    corrected, _ = correct_biases(model, plain, fed(SAMPLES))
    np.testing.assert_allclose(means(corrected, "conv"), means(model, "conv"), atol=1e-6)
    changed = weighted_layers(corrected)["conv"].bias
    assert isinstance(changed, onnx.TensorProto)
    assert numpy_helper.to_array(changed).dtype == np.float32
    assert not np.array_equal(numpy_helper.to_array(changed), bias)


def test_layers_without_a_bias_of_their_own_stay() -> None:
    """One that has none, and one whose bias another layer reads too."""
    model = LAYERS["no bias"]()
    plain = quantize_static(model, SAMPLES, scheme="u8s8").model
    assert set(correct_biases(model, plain, fed(SAMPLES))[1]) == {"fc"}
    layer = weighted_layers(plain)["conv"]
    assert layer.bias is None
    with pytest.raises(InputError, match="Conv conv has no bias"):
        layer.shift_bias(np.zeros(8, np.float32))
    model = twice()
    plain = quantize_static(model, SAMPLES, scheme="u8s8").model
    bias = weighted_layers(plain)["conv"].node.input[2]
    next(node for node in plain.graph.node if node.name == "again").input[2] = bias
    corrected, shifts = correct_biases(model, plain, fed(SAMPLES))
    assert set(shifts) == {"fc"}
    assert weighted_layers(corrected)["conv"].bias_shared


def test_a_bias_stays_within_32_bits() -> None:
    """However far it is shifted."""
    plain = quantize_static(LAYERS["plain"](), SAMPLES, scheme="u8s8").model
    layer = weighted_layers(plain)["conv"]
    layer.shift_bias(np.full(8, 1e9, np.float32))
    assert isinstance(layer.bias, StoredWeights)
    assert (layer.bias.integers == 2**31 - 1).all()
    assert layer.bias.integers.dtype == np.int32


@pytest.mark.parametrize("name", ["onnxruntime", "neural-compressor", "nncf"])
def test_graphs_of_every_engine(name: EngineName) -> None:
    """Wherever the engine has put its pairs, and however it stores biases."""
    if name not in available():
        pytest.skip(f"{name} is not installed")
    model = onnx.shape_inference.infer_shapes(LAYERS["plain"]())
    request = asked("u8s8-reduced", per_channel=False, calibration="min-max")
    quantized = open_engine(name).quantize(model, fed(SAMPLES), request).model
    corrected, shifts = correct_biases(model, quantized, fed(SAMPLES))
    assert set(shifts) == {"conv", "fc"}
    errors = [np.abs(means(each, "conv") - means(model, "conv")).max() for each in (quantized, corrected)]
    assert errors[1] < 0.1 * errors[0]


def test_the_same_again_gives_the_same_bytes() -> None:
    """Nothing is drawn."""
    model = LAYERS["depthwise"]()
    plain = quantize_static(model, SAMPLES, scheme="u8s8").model
    files = [correct_biases(model, plain, fed(SAMPLES))[0].SerializeToString(deterministic=True) for _ in range(2)]
    assert files[0] == files[1]


def test_a_dead_layer_is_no_error() -> None:
    """All weights and outputs zero."""
    model = LAYERS["plain"]()
    for tensor in model.graph.initializer:
        if tensor.name.startswith("conv"):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))
    plain = quantize_static(model, SAMPLES, scheme="u8s8").model
    corrected, shifts = correct_biases(model, plain, fed(SAMPLES))
    assert shifts["conv"] == 0
    np.testing.assert_allclose(run(corrected, floats(1, 4, 9, 9))[0], run(model, floats(1, 4, 9, 9))[0], atol=0.02)
