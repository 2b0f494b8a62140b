"""Sums that saturate without VNNI: counts worked out in the plainest way, and weights that never saturate."""

from __future__ import annotations

import dataclasses
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from pipeline.compress.quantization.saturation import can_saturate, count_saturation
from pipeline.core.errors import InputError
from tests.defaults import quantize_static
from tests.feeds import fed
from tests.unit.compress.quantization.products import (
    CASES,
    W_SCALE,
    X_SCALE,
    Case,
    images_of,
    integers,
    model_of,
    sums_of,
    weights,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALL = 10**6


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("depthwise")])
def test_counts_and_effects(name: str) -> None:
    """Every clipped pair is counted, and the largest change of an output is that of the clipped sums."""
    case = CASES[name]
    values = integers(case)
    expected = sums_of(case, values, weights(case))
    (found,) = count_saturation(model_of(case), fed(images_of(case, values), "x"), positions=ALL).layers
    assert expected.saturated > 0
    assert found.saturated == expected.saturated
    changed = expected.clipped != expected.exact
    assert found.outputs == pytest.approx(changed.mean())
    scale = float(X_SCALE) * float(W_SCALE)
    largest = np.abs(expected.exact).max() * scale
    assert found.effect == pytest.approx(np.abs(expected.clipped - expected.exact).max() * scale / largest, rel=1e-4)
    assert found.sums == expected.exact.size * -(-(weights(case).size // case.width) // 2)
    assert (found.layer, found.sampled) == ("layer", False)


def test_a_case_by_hand() -> None:
    """255 * 127 + 255 * 127 = 64770 is clipped to 32767, 255 * 64 * 2 = 32640 is not, opposite signs cancel."""
    weight = np.array([[127, 64, 127], [127, 64, -127], [127, 64, 0], [1, 65, 0]], np.int8)
    case = Case(4, 3, spatial=(), zero_point=0)
    (found,) = count_saturation(model_of(case, weight), fed(images_of(case, np.full((1, 4), 255)), "x")).layers
    assert (found.operator, found.sums, found.possible) == ("MatMul", 6, 2)
    # The pairs (127, 127) and (64, 65): 64770 and 32895; (127, 1) is 32640 and fits.
    assert found.saturated == 2
    assert found.outputs == pytest.approx(2 / 3)
    assert found.effect == pytest.approx((64770 - 32767) / (64770 + 32640))


def test_negative_sums_are_clipped_as_well() -> None:
    """To -32768."""
    case = Case(2, 1, spatial=())
    model = model_of(case, np.array([[-100], [-29]], np.int8))
    for value, saturated in ((255, 1), (254, 0)):
        (found,) = count_saturation(model, fed(images_of(case, np.full((1, 2), value)), "x")).layers
        assert found.saturated == saturated


@pytest.mark.parametrize("name", ["depthwise", "depthwise of 16"])
def test_depthwise_layers_run_on_other_kernels(name: str) -> None:
    """Nothing of theirs is summed in 16 bits."""
    found = count_saturation(model_of(CASES[name]), fed(images_of(CASES[name], integers(CASES[name])), "x"))
    assert (found.layers, found.elsewhere, found.saturated, found.images) == ((), ("layer",), 0, 1)


def test_unsigned_weights_run_on_other_kernels() -> None:
    """They are widened to 16 bits first."""
    case = CASES["im2col"]
    model = model_of(case, (weights(case).astype(np.int16) + 128).astype(np.uint8))
    assert count_saturation(model, fed(images_of(case, integers(case)), "x")).elsewhere == ("layer",)


def places(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where pairs could saturate, for weights [K, M]."""
    return can_saturate(values.astype(np.int32)[None])


def test_the_bound_for_weights() -> None:
    """From a sum of 129 of equal sign on there is an input that saturates."""
    assert places(np.array([[64], [64]])).size == 0
    assert places(np.array([[64], [65]])).tolist() == [[0], [0], [0]]
    assert places(np.array([[-64], [-64]])).size == 0
    assert places(np.array([[-64], [-65]])).shape == (3, 1)
    assert places(np.array([[127], [-127]])).size == 0
    assert places(np.array([[127, 0], [0, 127], [0, 127]])).size == 0  # 127 alone, and 127 beside the padding


SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 5), st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, signed=st.booleans())
def test_weights_of_seven_bits_never_saturate(shape: tuple[int, int, int, int], *, signed: bool) -> None:
    """Whatever the layer and the image: neither possibly nor in fact."""
    channels, width, kernel, seed = shape
    case = Case(channels, width, kernel=kernel, pad=1, spatial=(4, 4), signed=signed, bound=64, seed=seed)
    values = np.full((1, channels, 4, 4), case.limits[1])
    found = count_saturation(model_of(case), fed(images_of(case, values), "x"), positions=ALL)
    assert found.saturated == 0
    assert all(layer.possible == 0 and layer.effect == 0 for layer in found.layers)


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, signed=st.booleans())
def test_counts_agree_with_the_plain_computation(shape: tuple[int, int, int, int], *, signed: bool) -> None:
    """On random layers; what is not possible does not happen."""
    channels, width, kernel, seed = shape
    case = Case(channels, width, kernel=kernel, stride=1 + seed % 2, spatial=(5, 4), signed=signed, seed=seed)
    values = integers(case)
    found = count_saturation(model_of(case), fed(images_of(case, values), "x"), positions=ALL)
    assert found.saturated == sums_of(case, values, weights(case)).saturated
    assert all(layer.possible > 0 for layer in found.layers if layer.saturated)


def test_positions_are_sampled_evenly() -> None:
    """Every n-th, beginning at another one for each image; all of them where they are few enough."""
    case = Case(3, 8)
    values = integers(case, images=2)
    model, images = model_of(case), images_of(case, values)
    (found,) = count_saturation(model, fed(images, "x"), positions=20).layers
    pairs = 8 * 14  # channels times pairs of 27 weights
    # 81 positions, every fifth: 0, 5, .., 80 and 1, 6, .., 76.
    assert found.sums == (17 + 16) * pairs
    assert found.sampled
    both = sums_of(case, values, weights(case))
    chosen = [*range(0, 81, 5), *range(82, 162, 5)]
    one_by_one = [np.count_nonzero(both.exact[place] != both.clipped[place]) for place in chosen]
    assert found.outputs == pytest.approx(sum(one_by_one) / (33 * 8))
    assert not count_saturation(model, fed(images, "x"), positions=81).layers[0].sampled


def test_a_file_with_a_batch_of_its_own() -> None:
    """A dynamic batch is fed image by image."""
    case = Case(3, 8)
    model = model_of(case)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    images = images_of(case, integers(case, images=3))
    dynamic = count_saturation(model, fed(images, "x"), positions=ALL)
    assert dynamic.images == 3
    assert dynamic.layers[0].saturated == count_saturation(model_of(case), fed(images, "x"), positions=ALL).saturated


def network() -> tuple[onnx.ModelProto, NDArray[np.float32]]:
    """Return two convolutions and a matrix product as a float graph, and images."""
    generator = np.random.default_rng(3)

    def tensor(name: str, *shape: int) -> onnx.TensorProto:
        # The second layer's weights are all large and positive, so that neighbours add up.
        values = generator.uniform(0.5 if name == "second" else -1, 1, shape).astype(np.float32)
        return onnx.numpy_helper.from_array(values, name)

    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], name="first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "second"], ["c"], name="second", pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], name="mean"),
        helper.make_node("Flatten", ["d"], ["e"], name="flat"),
        helper.make_node("Gemm", ["e", "third"], ["y"], name="third", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", 1, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, [1, 4])],
        [tensor("first", 16, 3, 3, 3), tensor("second", 16, 16, 3, 3), tensor("third", 4, 16)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model), generator.standard_normal((6, 3, 8, 8), dtype=np.float32)


def test_a_network_by_scheme() -> None:
    """Full range saturates in layers that are named; 7 bits do not; u8 weights are elsewhere."""
    model, images = network()
    by_scheme = {
        scheme: count_saturation(
            quantize_static(model, images, scheme=scheme).model,
            fed(images, "x"),
        )
        for scheme in ("u8s8", "s8s8", "u8s8-reduced", "u8u8")
    }
    assert [layer.layer for layer in by_scheme["u8s8"].layers] == ["first", "second", "third"]
    assert "second" in {layer.layer for layer in by_scheme["u8s8"].layers if layer.saturated}
    assert by_scheme["s8s8"].saturated > 0
    assert by_scheme["u8s8-reduced"].saturated == 0
    assert by_scheme["u8u8"].layers == ()


def test_a_float_file_is_refused() -> None:
    """There is nothing to count."""
    model, images = network()
    with pytest.raises(InputError, match="found no layer that runs on 8-bit integers; quantize the file first"):
        count_saturation(model, fed(images, "x"))
    with pytest.raises(InputError, match="found no sample"):
        count_saturation(model_of(CASES["im2col"]), fed(images[:0], "x"))


def test_memory_stays_bounded() -> None:
    """The worst weights, all of which saturate: sums are held in tiles."""
    case = dataclasses.replace(CASES["deep"], width=64, spatial=(16, 16))
    weight = np.full(weights(case).shape, 127, np.int8)
    values = np.full((1, case.channels, *case.spatial), 255)
    model, images = model_of(case, weight), images_of(case, values)
    tracemalloc.start()
    (found,) = count_saturation(model, fed(images, "x")).layers
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.possible == 64 * 360
    assert found.saturated > 0.5 * found.sums
    assert peak < 40e6  # untiled, the sums alone would take 47 MB
