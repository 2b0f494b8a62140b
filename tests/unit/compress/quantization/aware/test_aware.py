"""Training with quantization simulated: what is trained is what ships, and what must not move does not."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from pipeline.compress.quantization.aware import graph as module
from pipeline.compress.quantization.weighted import weighted_layers
from pipeline.core.errors import StageError
from tests.defaults import asked
from tests.unit.compress.quantization.aware.networks import (
    IMAGES,
    NETWORKS,
    decibels,
    exported,
    exported_of,
    from_file,
    network,
    outputs,
    simulated,
    train,
)
from tests.unit.compress.quantization.graphs import floats

if TYPE_CHECKING:
    from pipeline.compress.quantization.aware.graph import QuantizationAware

#: Two ways to sum in float32 may round a value at the edge between two integers differently.
SAME = 40.0
each_network = pytest.mark.parametrize("name", NETWORKS)


def check_file(aware: QuantizationAware) -> None:
    """Compare the file with the simulation: outputs, and the largest of them unless two are as large."""
    quantized = aware.shipped()
    expected, found = outputs(aware), from_file(quantized.model)
    assert decibels(expected, found) > SAME
    margin = np.diff(np.sort(expected, 1)[:, -2:], axis=1)[:, 0]
    clear = margin > 2 * np.abs(expected - found).max(1)
    assert clear.mean() > 0.7
    np.testing.assert_array_equal(expected.argmax(1)[clear], found.argmax(1)[clear])


@each_network
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
def test_the_file_is_what_was_trained(name: str, scheme: Any, symmetric: bool) -> None:  # noqa: ANN401, FBT001
    """Before training, and after some steps that moved weights, ranges and statistics."""
    aware = simulated(name, asked(scheme, symmetric=symmetric, calibration="min-max"))
    assert decibels(from_file(exported(name)), outputs(aware)) > 15
    check_file(aware)
    before = outputs(aware)
    train(aware)
    assert decibels(before, outputs(aware)) < SAME
    check_file(aware)


@pytest.mark.parametrize("scheme", ["u8s8", "u8s8-reduced", "s8s8", "u8u8"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", ["residual", "depthwise"])
def test_every_scheme(name: str, scheme: Any, per_channel: bool, symmetric: bool) -> None:  # noqa: ANN401, FBT001
    """With a scale for each channel or for all."""
    request = asked(scheme, per_channel=per_channel, symmetric=symmetric, calibration="mse")
    aware = simulated(name, request)
    check_file(aware)
    train(aware)
    check_file(aware)


@each_network
def test_nodes_that_stay_in_float_are_trained_too(name: str) -> None:
    """And the file has them as they became."""
    first = "patch" if name == "attention" else "c1"
    aware = simulated(name, asked("u8s8", calibration="min-max", keep=(first, "fc*")))
    train(aware)
    check_file(aware)
    quantized = aware.shipped()
    assert first in quantized.float_nodes
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.model.graph.initializer}
    old = {tensor.name: numpy_helper.to_array(tensor) for tensor in exported(name).graph.initializer}
    assert not np.array_equal(stored[f"{first}.weight"], old[f"{first}.weight"])


def test_constants_of_the_code_are_not_trained() -> None:
    """A factor that is a parameter is."""
    aware = simulated("gated")
    request = {name for name in aware.weights() if aware.constant(name).requires_grad}
    assert request <= {"gain"}
    mean = deepcopy(aware)
    train(mean)
    for name, before in aware.weights().items():
        assert np.array_equal(mean.weights()[name], before) == (name not in request)


def test_a_convolution_that_is_called_twice_stays_one() -> None:
    """One weight in the file, trained by both calls; each call has its own bias on its own scale."""
    aware = simulated("twice")
    train(aware)
    layers = weighted_layers(aware.shipped().model)
    assert layers["c2"].weight.tensor.name == layers["c2_2"].weight.tensor.name
    assert aware.weights_of("c2") is aware.weights_of("c2_2")
    check_file(aware)


def test_norms_are_found_where_they_are_folded() -> None:
    """Not before a convolution, behind an activation or an addition, or behind one that is called twice."""
    networks = {name: simulated(name) for name in NETWORKS}
    normed = {
        name: {layer for layer in aware._layers if aware.weights_of(layer).norm is not None}
        for name, aware in networks.items()
    }
    assert normed == {
        "residual": {"c1", "c2", "c3"},
        "depthwise": {"c1", "c2", "c3"},
        "twice": {"c1"},
        "elsewhere": set(),
        "joined": {"c1", "c4"},
        "gated": {"c1"},
        "wide": {"c1"},
        "attention": set(),
    }


def test_a_fresh_network_is_trained_with_its_norms() -> None:
    """Their folded biases are all zeros, which the exporter leaves out."""
    torch.manual_seed(3)
    made = NETWORKS["residual"]().eval()
    aware = simulated("residual", made=made, model=exported_of(made))
    assert all(aware.weights_of(name).norm is not None for name in ("c1", "c2", "c3"))
    check_file(aware)
    train(aware)
    check_file(aware)


def test_equal_tensors_of_two_layers_are_trained_apart() -> None:
    """Biases that were all zero, which the exporter stores once."""
    made = network("wide")
    with torch.no_grad():
        for layer in made.modules():
            if isinstance(layer, (nn.Linear, nn.ConvTranspose2d)) and layer.bias is not None:
                layer.bias.zero_()
    aware = simulated("wide", made=made, model=exported_of(made))
    train(aware, steps=6)
    check_file(aware)


@each_network
def test_nothing_moves_while_frozen(name: str) -> None:
    """Ranges stay when not observing, statistics when not normalising; both stay in evaluation mode."""
    aware = simulated(name)
    start = deepcopy(aware.state_dict())
    outputs(aware)
    assert all(torch.equal(tensor, start[key]) for key, tensor in aware.state_dict().items())
    aware.observing = aware.normalising = False
    train(aware)
    for key, tensor in aware.state_dict().items():
        if key.startswith("ranges.") or "running_" in key or "num_batches" in key:
            assert torch.equal(tensor, start[key]), key
    aware.observing = aware.normalising = True
    train(aware)
    moved = {key for key, tensor in aware.state_dict().items() if not torch.equal(tensor, start[key])}
    assert any(key.startswith("ranges.") for key in moved)
    statistics = {key for key in start if "running_" in key}
    assert statistics <= moved


def test_frozen_training_is_the_evaluation_mode() -> None:
    """The forward pass is that of the file then."""
    aware = simulated("residual")
    aware.observing = aware.normalising = False
    expected = outputs(aware)
    aware.train()
    np.testing.assert_array_equal(outputs(aware), expected)


@pytest.mark.parametrize("name", ["residual", "depthwise", "twice", "joined"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_ranges_of_activations_keep_their_bounds(name: str, symmetric: bool) -> None:  # noqa: FBT001 - a parameter
    """What a ReLU makes is never below zero, what ReLU6 makes never above six, whatever is seen before them."""
    aware = simulated(name, asked("u8s8", symmetric=symmetric, calibration="min-max"))
    clipped = {tensor: bounds for tensor, bounds in aware._clipped.items() if tensor in aware.current_ranges()}
    assert clipped
    aware.train()
    for _ in range(30):
        outputs(aware, IMAGES * 3 - 1)
    for tensor, (low, high) in clipped.items():
        found = aware.current_ranges()[tensor]
        assert low <= found[0] <= found[1] <= high
        assert found[0] == 0
    if name == "depthwise":
        assert {6.0} == {high for _, high in clipped.values()}


def test_ranges_follow_what_is_seen() -> None:
    """By a hundredth of the way with each batch; what only moves values has the range of its source."""
    aware = simulated("residual")
    before = aware.current_ranges()["input"]
    aware.train()
    outputs(aware, 2 * IMAGES)
    after = aware.current_ranges()["input"]
    assert after == pytest.approx([1.01 * each for each in before], rel=1e-5)
    assert "max_pool2d" not in " ".join(aware.current_ranges())


def test_softmax_has_its_own_range() -> None:
    """From zero to one, however small its values are."""
    aware = simulated("attention")
    name = next(node.output[0] for node in exported("attention").graph.node if node.op_type == "Softmax")
    train(aware)
    assert aware.current_ranges()[name] == (0.0, 1.0)


@pytest.mark.parametrize("scheme", ["u8s8", "u8u8"])
def test_zeros_stay_zero(scheme: Any) -> None:  # noqa: ANN401 - a scheme
    """In training and in the file, with norms and without; unless that is not asked for."""
    made = network("residual")
    mask = torch.from_numpy(floats(8, 8, 3, 3) > 0)
    layers: Any = made
    with torch.no_grad():
        layers.c2.weight.mul_(mask)
        layers.c3.weight[2] = 0
        layers.fc.weight[:, 5] = 0
    model = exported_of(made)
    for keep_zeros in (True, False):
        aware = simulated("residual", asked(scheme), made=deepcopy(made), model=model, keep_zeros=keep_zeros)
        train(aware)
        stored = {name: layer.weight for name, layer in weighted_layers(aware.shipped().model).items()}
        offsets = {name: each.integers.astype(int) - each.broadcast(each.zero_point) for name, each in stored.items()}
        zeros = [offsets["c2"][~mask.numpy()], offsets["c3"][2], offsets["fc"][:, 5]]
        assert any(part.any() for part in zeros) != keep_zeros
        assert offsets["c2"][mask.numpy()].any()
        check_file(aware)


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-20])
def test_dead_channels(size: float) -> None:
    """Weights that are next to nothing beside their bias give a file that is right."""
    made: Any = network("twice")
    with torch.no_grad():
        made.c2.weight[3] *= size
        made.c2.bias[3] = 0.7
        made.n1.weight[2] *= size
    aware = simulated("twice", made=made, model=exported_of(made))
    check_file(aware)
    assert decibels(outputs(made), from_file(aware.shipped().model)) > 20
    train(aware)
    assert all(torch.isfinite(tensor).all() for tensor in aware.state_dict().values())
    check_file(aware)


class Preactivation(nn.Module):
    """A batch norm that no convolution can take, a clip that no grid implies, and a dead channel."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.n, self.c2 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)
        with torch.no_grad():
            self.c2.weight[3] = 0
            self.n.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
            self.n.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = self.c1(x)
        x = x + self.c2(self.n(x).relu())
        mean: torch.Tensor = self.fc(x.clamp(min=0.3).mean((2, 3)))
        return mean


@pytest.mark.parametrize("per_channel", [False, True])
def test_what_stays_in_float_ships_as_it_was_trained(per_channel: bool) -> None:  # noqa: FBT001 - a parameter
    """A batch norm behind a convolution that a shortcut reads too; the clip stays in the file."""
    torch.manual_seed(3)
    made = Preactivation().eval()
    request = asked("u8s8", per_channel=per_channel, calibration="min-max")
    aware = simulated("", request, made=made, model=exported_of(made))
    train(aware)
    check_file(aware)
    quantized = aware.shipped()
    operators = [each.op_type for each in quantized.model.graph.node]
    assert {"BatchNormalization", "Clip"} <= set(operators)
    assert list(quantized.reasons.values()) == ["no convolution can absorb this batch norm"]


def gradient(network: nn.Module) -> torch.Tensor:
    """Return the gradient of the loss with respect to the images, in one row."""
    images = torch.from_numpy(IMAGES).requires_grad_()
    functional.cross_entropy(network(images), torch.arange(len(images)) % 5).backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    return images.grad.flatten()


def weight_gradients(network: nn.Module, names: list[str], get: Any) -> torch.Tensor:  # noqa: ANN401 - a function
    """Return the gradient of the loss with respect to the weights of these layers, in one row."""
    loss = functional.cross_entropy(network(torch.from_numpy(IMAGES)), torch.arange(len(IMAGES)) % 5)
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, [get(name) for name in names])])


@pytest.mark.parametrize("name", ["residual", "depthwise", "joined", "gated"])
def test_gradients_are_near_those_of_the_float_network(name: str) -> None:
    """With frozen norms, of images and of weights."""
    made, aware = network(name), simulated(name)
    aware.observing = aware.normalising = False
    aware.train()
    assert float(functional.cosine_similarity(gradient(made), gradient(aware), dim=0)) > 0.9
    names = [layer for layer in aware._layers if aware.weights_of(layer).norm is not None]
    expected = weight_gradients(made, names, lambda layer: made.get_submodule(layer).weight)
    found = weight_gradients(aware, names, lambda layer: aware.weights_of(layer).core)
    assert float(functional.cosine_similarity(expected, found, dim=0)) > 0.97
    assert float(found.norm() / expected.norm()) == pytest.approx(1, abs=0.1)


def test_batch_statistics_are_near_those_of_the_float_network() -> None:
    """While normalising: outputs, gradients and running averages after the same batch; ranges have some room."""
    made: Any = network("residual")
    aware = simulated("residual")
    for name in aware.current_ranges():
        aware.bounds(name).mul_(1.3)
    made.train()
    aware.train()
    assert decibels(outputs(made), outputs(aware)) > 20
    for layer in ("c1", "c2", "c3"):
        expected, found = made.get_submodule(layer.replace("c", "n")), aware.weights_of(layer).norm
        assert isinstance(found, nn.BatchNorm2d)
        for statistic in ("running_mean", "running_var"):
            one, other = getattr(expected, statistic), getattr(found, statistic)
            assert float((one - other).abs().max()) < 0.02 * float(one.abs().max())
    expected = weight_gradients(made, ["c1", "c2", "c3"], lambda layer: made.get_submodule(layer).weight)
    found = weight_gradients(aware, ["c1", "c2", "c3"], lambda layer: aware.weights_of(layer).core)
    assert float(functional.cosine_similarity(expected, found, dim=0)) > 0.97


@each_network
def test_training_lowers_the_loss(name: str) -> None:
    """By a good part of what it does without ranges that clip, in seven bits; and further with frozen norms."""
    without = train(network(name), steps=40, rate=0.03)
    aware = simulated(name, asked("u8s8-reduced", per_channel=False))
    first = train(aware, steps=40, rate=0.03)
    assert first[0] - first[-1] > 0.25 * (without[0] - without[-1]) > 0
    aware.observing = aware.normalising = False
    second = train(aware, steps=20, rate=0.01)
    assert second[-1] < second[0]
    check_file(aware)


def test_half_precision_around_it_changes_nothing() -> None:
    """Its mantissa of 8 bits would be all that 8 bits have."""
    aware = simulated("residual")
    expected = outputs(aware)
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(outputs(aware), expected)


def test_copies_and_states_are_whole() -> None:
    """A copy trains on its own, and a state brings everything back."""
    aware = simulated("residual")
    state, expected = deepcopy(aware.state_dict()), outputs(aware)
    copy = deepcopy(aware)
    train(copy)
    np.testing.assert_array_equal(outputs(aware), expected)
    assert copy.state_dict().keys() == state.keys()
    copy.load_state_dict(state)
    np.testing.assert_array_equal(outputs(copy), expected)
    first, second = (each.shipped().model.SerializeToString(deterministic=True) for each in (aware, copy))
    assert first == second


def test_scales_that_are_not_the_files_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should another version of onnxruntime round differently."""
    monkeypatch.setattr(module, "shared_ranges", lambda *_: {"input": "c1"})
    with pytest.raises(StageError, match=r"input has the scale .* in the file and .* in training"):
        simulated("residual")
