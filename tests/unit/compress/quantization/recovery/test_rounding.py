"""Adaptive rounding: smaller errors of layers, measured by running them, and weights that stay where they may."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from pipeline.compress.quantization.engines.registry import available, open_engine
from pipeline.compress.quantization.recovery import rounding
from pipeline.compress.quantization.recovery.rounding import round_adaptively
from pipeline.compress.quantization.recovery.rounding_decisions import Choices, decide
from pipeline.compress.quantization.weighted import weighted_layers
from tests.defaults import asked, quantize_static
from tests.feeds import fed
from tests.unit.compress.quantization.graphs import floats, run
from tests.unit.compress.quantization.layer_graphs import LAYERS, SAMPLES, twice

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from pipeline.compress.quantization.names import EngineName, Scheme

STEPS = 100


def layer_error(float_model: ModelProto, quantized: ModelProto, name: str) -> float:
    """Return the squared error that the weights of a layer alone make, on the inputs of the quantized graph."""
    exact = {tensor.name: numpy_helper.to_array(tensor) for tensor in float_model.graph.initializer}
    weight = next(node.input[1] for node in float_model.graph.node if node.name == name)
    changed = onnx.ModelProto()
    changed.CopyFrom(quantized)
    node = next(node for node in changed.graph.node if node.name == name)
    changed.graph.initializer.append(numpy_helper.from_array(exact[weight], "exact"))
    output = node.output[0]
    outputs = []
    for model in (quantized, changed):
        exposed = onnx.ModelProto()
        exposed.CopyFrom(model)
        if model is changed:
            next(node for node in exposed.graph.node if node.name == name).input[1] = "exact"
        del exposed.graph.output[:]
        exposed.graph.output.append(onnx.ValueInfoProto(name=output))
        outputs.append(np.concatenate([run(exposed, image[None])[0] for image in SAMPLES]))
    return float(np.square(outputs[0] - outputs[1]).sum())


def integers(model: ModelProto, name: str) -> NDArray[np.int64]:
    """Return a layer's weights as numbers without type."""
    return weighted_layers(model)[name].weight.integers.astype(np.int64)


def weighted(layer: str) -> str:
    """Return the name of the layer that a graph is about."""
    return "fc" if layer in {"rows", "columns", "tokens"} else "conv"


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_the_error_of_a_layer_falls(layer: str, per_channel: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """As predicted, and measured in onnxruntime; no weight moves by more than a step; nothing but weights changes."""
    model, name = LAYERS[layer](), weighted(layer)
    plain = quantize_static(model, SAMPLES, scheme="u8s8", per_channel=per_channel).model
    before = plain.SerializeToString(deterministic=True)
    rounded, gains = round_adaptively(model, plain, fed(SAMPLES), steps=STEPS)
    assert plain.SerializeToString(deterministic=True) == before
    assert set(gains) == {name, "fc"} & set(weighted_layers(plain))
    assert all(0 < gain <= 1 for gain in gains.values())
    assert gains[name] < 0.95
    measured = layer_error(model, rounded, name) / layer_error(model, plain, name)
    assert measured == pytest.approx(gains[name], rel=0.02)
    change = integers(rounded, name) - integers(plain, name)
    assert np.abs(change).max() == 1
    restored = onnx.ModelProto()
    restored.CopyFrom(rounded)
    for each in gains:
        weighted_layers(restored)[each].weight.replace(integers(plain, each))
    assert restored.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("scheme", ["u8s8", "u8s8-reduced", "s8s8", "u8u8"])
def test_weights_stay_in_the_range_of_the_scheme(scheme: Scheme) -> None:
    """Seven bits stay seven bits, and signed weights keep clear of -128."""
    model = LAYERS["plain"]()
    plain = quantize_static(model, SAMPLES, scheme=scheme).model
    rounded, gains = round_adaptively(model, plain, fed(SAMPLES), steps=STEPS)
    assert gains["conv"] < 0.9
    found = integers(rounded, "conv")
    low, high = {"u8s8-reduced": (-64, 64), "u8u8": (0, 255)}.get(scheme, (-127, 127))
    assert low <= found.min() <= found.max() <= high
    assert weighted_layers(rounded)["conv"].weight.integers.dtype == (np.uint8 if scheme == "u8u8" else np.int8)


def test_zeros_stay_zero() -> None:
    """Those of a pruning mask."""
    model = LAYERS["plain"]()
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "conv.weight")
    mask = floats(8, 4, 3, 3, seed=9) > 0
    mask[3] = False
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * mask, tensor.name))
    for scheme in ("u8s8", "u8u8"):
        plain = quantize_static(model, SAMPLES, scheme=scheme).model  # type: ignore[arg-type]
        rounded, _ = round_adaptively(model, plain, fed(SAMPLES), steps=STEPS)
        stored = weighted_layers(rounded)["conv"].weight
        offset = stored.integers.astype(int) - stored.broadcast(stored.zero_point).astype(int)
        assert not offset[~mask].any()
        assert offset[mask].any()


def test_the_same_again_gives_the_same_bytes() -> None:
    """Nothing is drawn."""
    model = LAYERS["depthwise"]()
    plain = quantize_static(model, SAMPLES, scheme="u8s8").model
    files = [
        round_adaptively(model, plain, fed(SAMPLES), steps=STEPS)[0].SerializeToString(deterministic=True)
        for _ in range(2)
    ]
    assert files[0] == files[1]


def test_parts_of_the_images_give_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by taking few of them at a time."""
    model = LAYERS["grouped"]()
    plain = quantize_static(model, SAMPLES, scheme="u8s8").model
    whole = round_adaptively(model, plain, fed(SAMPLES), steps=STEPS)[1]
    for numbers in (1, 5000):
        monkeypatch.setattr(rounding, "CHUNK", numbers)
        assert round_adaptively(model, plain, fed(SAMPLES), steps=STEPS)[1] == pytest.approx(whole, rel=0.05)


def test_layers_are_told_one_by_one() -> None:
    """With their number."""
    model = LAYERS["plain"]()
    told: list[tuple[int, int, str]] = []
    plain = quantize_static(model, SAMPLES, scheme="u8s8").model
    round_adaptively(model, plain, fed(SAMPLES[:4]), steps=10, on_layer=lambda *each: told.append(each))
    assert told == [(1, 2, "conv"), (2, 2, "fc")]


def test_the_order_of_groups_and_its_inverse() -> None:
    """Groups first, then output channels, then all weights of one."""
    for layer in LAYERS:
        model, name = LAYERS[layer](), weighted(layer)
        module = rounding._Rounding(model, {}, {}, steps=1, on_layer=lambda *_: None)
        step = next(step for step in module.steps if step.name == name)
        weight = module.constant(step.inputs[1]).detach()
        shape = {"rows": (2, 324), "columns": (2, 324), "tokens": (2, 4, 81), "sequence": (2, 4, 81)}
        matrices = rounding._matrices(step, torch.zeros(shape.get(layer, (2, 4, 9, 9))), weight)
        assert matrices is not None
        gram, order = matrices
        ordered = order(weight)
        groups = step.attributes.get("group", 1)
        assert ordered.shape == (groups, ordered.shape[1], gram.shape[2])
        assert torch.equal(rounding._back(ordered, weight, order), weight)
        if step.operator == "Conv":
            assert torch.equal(ordered[-1, -1], weight[-1].flatten())
        else:
            assert torch.equal(ordered[0, 1], weight[1] if layer == "rows" else weight[:, 1])


def test_weights_that_two_layers_read_stay() -> None:
    """What is best for one is not for the other."""
    model = twice()
    plain = quantize_static(model, SAMPLES, scheme="u8s8").model
    rounded, gains = round_adaptively(model, plain, fed(SAMPLES), steps=STEPS)
    assert set(gains) == {"fc"}
    np.testing.assert_array_equal(integers(rounded, "again"), integers(plain, "conv"))


@pytest.mark.parametrize("name", ["onnxruntime", "neural-compressor", "nncf"])
def test_graphs_of_every_engine(name: EngineName) -> None:
    """Whatever the engine did to weights, no layer gets worse and none leaves its range."""
    if name not in available():
        pytest.skip(f"{name} is not installed")
    model = onnx.shape_inference.infer_shapes(LAYERS["plain"]())
    quantized = open_engine(name).quantize(model, fed(SAMPLES), asked("u8s8", calibration="min-max")).model
    rounded, gains = round_adaptively(model, quantized, fed(SAMPLES), steps=STEPS)
    assert gains["conv"] < 0.95
    measured = layer_error(model, rounded, "conv") / layer_error(model, quantized, "conv")
    assert measured == pytest.approx(gains["conv"], rel=0.02)
    assert np.abs(integers(rounded, "conv") - integers(quantized, "conv")).max() == 1


def random_choices(groups: int, width: int, weights: int) -> Choices:
    """Return a layer with correlated inputs."""
    inputs = torch.from_numpy(
        floats(groups, weights, 3) @ floats(groups, 3, 500, seed=1) + floats(groups, weights, 500)
    )
    exact = torch.from_numpy(floats(groups, width, weights, seed=2) * 20)
    scale = torch.from_numpy(np.exp(floats(groups, width, 1, seed=3))).expand(exact.shape)
    return Choices(exact.floor(), torch.ones_like(exact), exact, scale, inputs @ inputs.transpose(1, 2))


@pytest.mark.parametrize(
    ("shape", "share"), [((1, 16, 40), 0.67), ((1, 3, 130), 0.67), ((8, 4, 9), 0.67), ((1, 200, 8), 0.8)]
)
def test_decisions_are_clearly_better_than_rounding(shape: tuple[int, int, int], share: float) -> None:
    """By a third where there is enough to choose, with or without the relaxation; integers are neighbours."""
    choices = random_choices(*shape)
    for steps in (0, 100):
        found = decide(choices, steps)
        assert set((found - choices.lower).unique().tolist()) == {0.0, 1.0}
        assert choices.error(found) < share * choices.error(choices.exact.round())


def test_few_weights_are_decided_almost_as_well_as_by_trying_all() -> None:
    """All 256 ways to round eight weights; no single turn gains anything more."""
    choices = random_choices(1, 6, 8)
    ways = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 8)
    change = (choices.lower + ways[:, None, None, :] - choices.exact) * choices.scale
    best = ((change @ choices.gram) * change).sum(-1).min(0).values.sum()
    plain, found = choices.error(choices.exact.round()), choices.error(decide(choices, 300))
    assert best <= found < best + 0.25 * (plain - best)


def test_what_has_no_room_stays() -> None:
    """And exact weights stay exact."""
    choices = random_choices(1, 4, 10)
    room = choices.room.clone()
    room[0, 1] = 0
    kept = Choices(choices.lower, room, choices.exact, choices.scale, choices.gram)
    assert torch.equal(decide(kept, 60)[0, 1], choices.lower[0, 1])
    exact = Choices(choices.lower, choices.room, choices.lower, choices.scale, choices.gram)
    assert exact.error(decide(exact, 60)) == 0
