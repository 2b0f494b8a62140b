"""A graph as a torch network: pairs bit by bit, gradients, other batches, and what is trained."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from pipeline.compress.quantization.torch_graph.graph_module import GraphModule, fake_quantize
from pipeline.core.errors import InputError
from pipeline.export.onnx import export_onnx
from tests.defaults import quantize_static
from tests.feeds import image_input
from tests.unit.compress.pruning.networks import Net, conv
from tests.unit.compress.quantization.graphs import floats, model_of, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from onnx import ModelProto

SHAPE = (3, 5, 4)
#: Zero points by type; the scale of a value times two is whole, so that many lie between two numbers.
POINTS: dict[Any, tuple[int, ...]] = {
    np.uint8: (0, 7, 255),
    np.int8: (0, -128, 127),
    np.uint16: (40_000,),
    np.int16: (0, -5),
}


def pair(scale: NDArray[np.float32], zero_point: NDArray[Any] | None, axis: int, opset: int) -> ModelProto:
    """Return QuantizeLinear, its numbers as floats, and DequantizeLinear of them."""
    given = ["scale"] + (["zero"] if zero_point is not None else [])
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *given], ["numbers"], "quantize", axis=axis),
        helper.make_node("DequantizeLinear", ["numbers", *given], ["y"], "dequantize", axis=axis),
    ]
    constants = {"scale": scale} | ({"zero": zero_point} if zero_point is not None else {})
    return model_of(nodes, {"x": SHAPE}, ["y"], constants, opset)


def values() -> NDArray[np.float32]:
    """Return values on a grid with all ties, some of them far outside of every range."""
    x = np.round(floats(*SHAPE) * 400) / 4
    x.flat[:4] = 1e6, -1e6, 0.5, -0.5
    return x.astype(np.float32)


@pytest.mark.parametrize("kind", POINTS)
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("step", [0.5, 0.0117])
def test_pairs_are_computed_bit_by_bit(kind: Any, axis: int | None, step: float) -> None:  # noqa: ANN401 - a type
    """Half to even, clipped at the ends, with one scale or with one for each channel."""
    opset = 20 if np.iinfo(kind).bits == 8 else 21
    for point in POINTS[kind]:
        count = SHAPE[axis] if axis is not None else 1
        scale = np.float32(step) * (1 + np.arange(count, dtype=np.float32) / 2)
        points = np.full(count, point, kind)
        points[1:] = 3
        grid = (scale, points) if axis is not None else (scale[0], points[0])
        model = pair(*grid, axis=axis or 0, opset=opset)
        found = GraphModule(model)(torch.from_numpy(values())).numpy()
        np.testing.assert_array_equal(found, run(model, values())[0])


def test_a_pair_without_zero_point_is_of_eight_bits_without_sign() -> None:
    """As ONNX says."""
    model = pair(np.float32(0.5), None, 0, 20)
    found = GraphModule(model)(torch.from_numpy(values())).numpy()
    np.testing.assert_array_equal(found, run(model, values())[0])
    assert (found.min(), found.max()) == (0, 127.5)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_stored_numbers_of_32_bits(axis: int | None) -> None:
    """Biases, which a float could not hold."""
    numbers = np.random.default_rng(0).integers(-(2**31), 2**31, (4, 6)).astype(np.int32)
    scale = np.float32(1e-6) * (
        np.arange(1, (4, 6)[axis] + 1, dtype=np.float32) if axis is not None else np.ones(1, "f")
    )
    constants = {"numbers": numbers, "scale": scale if axis is not None else scale.reshape(())}
    node = helper.make_node("DequantizeLinear", ["numbers", "scale"], ["b"], "bias", axis=axis or 0)
    model = model_of([node, helper.make_node("Add", ["x", "b"], ["y"], "add")], {"x": (4, 6)}, ["y"], constants)
    zeros = np.zeros((4, 6), np.float32)
    np.testing.assert_array_equal(GraphModule(model)(torch.from_numpy(zeros)).numpy(), run(model, zeros)[0])


def test_blocks_are_refused() -> None:
    """A scale for each block of a channel is of opset 21."""
    constants = {"numbers": np.zeros((4, 6), np.int8), "scale": np.ones((2, 6), np.float32)}
    node = helper.make_node("DequantizeLinear", ["numbers", "scale"], ["y"], "weight", axis=0, block_size=2)
    with pytest.raises(InputError, match="DequantizeLinear weight has scales for blocks"):
        GraphModule(model_of([node], {"x": (4, 6)}, ["y"], constants, 21))


def test_rounding_passes_gradients_and_clipping_stops_them() -> None:
    """The ends of the range still belong to it."""
    x = torch.tensor([-3.0, -1.0, -0.6, 0.2, 1.0, 1.49, 3.0], requires_grad=True)
    fake_quantize(x, torch.tensor(0.5), torch.tensor(2.0), (0, 4)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0, 0]


def test_a_graph_with_pairs_has_the_same_gradients() -> None:
    """Through QuantizeLinear and DequantizeLinear as nodes."""
    model = pair(np.float32(0.5), np.uint8(2), 0, 20)
    x = torch.linspace(-3, 3, 60).reshape(SHAPE).requires_grad_()
    GraphModule(model)(x).sum().backward()
    inside = (x / 0.5 + 2).round().clamp(0, 255) == (x / 0.5 + 2).round()
    assert x.grad is not None
    assert torch.equal(x.grad, inside.float())


def small(layers: Net, x: Tensor) -> Tensor:
    """Return logits of a residual block with a gate and pooling."""
    x = layers.stem(x).relu()
    gate = layers.gate(x.mean((2, 3), keepdim=True)).sigmoid()
    x = nn.functional.max_pool2d((x * gate + layers.deep(x)).relu(), 2)
    return layers.fc(x.flatten(1))


class Tokens(nn.Module):
    """One attention block with a class token and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 2, 2)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 10, 8))
        self.norm, self.qkv, self.fc = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, 5]."""
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1) + self.positions
        query, key, value = (
            self.qkv(self.norm(tokens)).reshape(x.shape[0], 10, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.fc((tokens + mixed.transpose(1, 2).reshape(x.shape[0], 10, 8))[:, 0])


def cnn() -> nn.Module:
    """Return the convolutional network."""
    torch.manual_seed(0)
    layers = {"stem": conv(3, 8), "gate": conv(8, 8, 1), "deep": conv(8, 8, groups=8), "fc": nn.Linear(72, 5)}
    return Net(small, **layers).eval()


def tokens() -> nn.Module:
    """Return the network of tokens."""
    torch.manual_seed(0)
    return Tokens().eval()


@cache
def exported(network: Callable[[], nn.Module], batch: int = 1, *, dynamic: bool = False) -> ModelProto:
    """Return the graph."""
    with TemporaryDirectory() as folder:
        export_onnx(network(), Path(folder), image_input((batch, 3, 6, 6)), dynamic_batch=dynamic)
        return onnx.load(Path(folder) / "model.onnx")


@pytest.mark.parametrize("network", [cnn, tokens])
@pytest.mark.parametrize("batch", [1, 4])
def test_another_batch_than_the_files(network: Callable[[], nn.Module], batch: int) -> None:
    """With the float graph and the quantized one, whose outputs are those of single images."""
    model = exported(network, batch)
    images = floats(7, 3, 6, 6)
    expected = network()(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(GraphModule(model)(torch.from_numpy(images)).detach().numpy(), expected, atol=1e-5)
    quantized = quantize_static(model, images, scheme="u8s8").model
    wanted = np.concatenate(
        [run(quantized, np.take(images, range(i, i + batch), 0, mode="wrap"))[0] for i in (0, batch)]
    )
    found = GraphModule(quantized)(torch.from_numpy(images)).detach().numpy()[: len(wanted)]
    np.testing.assert_allclose(found, wanted[: len(found)], atol=1e-5)


def test_a_dynamic_batch() -> None:
    """Shapes are computed then."""
    model = exported(tokens, dynamic=True)
    images = floats(3, 3, 6, 6)
    np.testing.assert_allclose(
        GraphModule(model)(torch.from_numpy(images)).detach().numpy(), run(model, images)[0], atol=1e-5
    )


def test_a_literal_shape_that_holds_for_one_batch_is_refused() -> None:
    """Tokens first and heads beside the batch, as torch's own attention has them."""
    shape = np.array([5, 2, 3])
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], "heads")
    module = GraphModule(model_of([node], {"x": (1, 5, 6)}, ["y"], {"shape": shape}))
    assert module(torch.zeros(1, 5, 6)).shape == (5, 2, 3)
    with pytest.raises(
        InputError, match=r"heads reshapes to \[5, 2, 3\], which holds only for batches of 1, but 4 images"
    ):
        module(torch.zeros(4, 5, 6))


@pytest.mark.parametrize("network", [cnn, tokens])
def test_it_can_be_exported_again(network: Callable[[], nn.Module]) -> None:
    """By torch.export, float and quantized."""
    model = exported(network)
    images = floats(1, 3, 6, 6)
    for each in (model, quantize_static(model, images, scheme="u8s8").model):
        module = GraphModule(each)
        again = torch.export.export(module, (torch.from_numpy(images),)).module()
        torch.testing.assert_close(again(torch.from_numpy(images)), module(torch.from_numpy(images)))


def test_weights_are_parameters_under_their_names() -> None:
    """Statistics, scales and literal numbers are not."""
    module = GraphModule(exported(cnn))
    expected = {name: tensor.detach().numpy() for name, tensor in cnn().named_parameters()}
    found = module.weights()
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    quantized = GraphModule(quantize_static(exported(cnn), floats(1, 3, 6, 6), scheme="u8s8").model)
    assert not list(quantized.parameters())


@pytest.mark.parametrize("name", ["training", "tensors", "half.weight", "a..b", ".", "forward", "a/b:0", "stored.x"])
def test_names_may_be_anything(name: str) -> None:
    """Also those of attributes that a module has, and with empty parts."""
    weights = {name: floats(3), f"{name}.more": floats(3, seed=1), "a": floats(3, seed=2)}
    nodes = [
        helper.make_node("Add", ["x", name], ["first"], "first"),
        helper.make_node("Mul", ["first", f"{name}.more"], ["second"], "second"),
        helper.make_node("Add", ["second", "a"], ["y"], "third"),
    ]
    model = model_of(nodes, {"x": (2, 3)}, ["y"], weights)
    module = GraphModule(model)
    np.testing.assert_allclose(module(torch.from_numpy(floats(2, 3))).detach().numpy(), run(model, floats(2, 3))[0])
    assert module.weights().keys() == weights.keys()
    assert len(dict(module.named_parameters())) == 3


def test_what_is_read_once_more_later_is_kept_and_outputs_may_be_inputs_or_constants() -> None:
    """Values are let go only behind their last reader."""
    nodes = [
        helper.make_node("Relu", ["x"], ["positive"], "relu"),
        helper.make_node("Neg", ["positive"], ["negative"], "neg"),
        helper.make_node("Add", ["positive", "negative"], ["zero"], "add"),
    ]
    model = model_of(nodes, {"x": (2, 3)}, ["zero", "positive", "c"], {"c": floats(3)})
    module = GraphModule(model)
    found = module(torch.from_numpy(floats(2, 3)))
    assert [each.shape for each in found] == [(2, 3), (2, 3), (3,)]
    assert float(found[0].abs().max()) == 0
