"""Real files at other widths: the right sizes and precision, sound values, and the network as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.state import NetworkState
from pipeline.core.artifact import TensorSpec
from pipeline.core.errors import InputError
from pipeline.core.stage import Context, Target
from pipeline.data.arrays import image_classifier
from pipeline.network.stored import load_network
from pipeline.onnx_graph.execution import onnx_session
from pipeline.precision.config import QuantizationConfig
from pipeline.pricing.form import FileForm, make_sound
from pipeline.pricing.making import FileMaker, keeps_own_forward, network_at
from tests.unit.compress.pruning.networks import Net
from tests.unit.stages.prune_networks import DATA, original

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto


def maker_of(folder: Path, **options: Any) -> tuple[FileMaker, nn.Module]:  # noqa: ANN401
    """Return a maker of files of a small residual network, and the network."""
    given = original(folder).model_copy(update={"inputs": (TensorSpec(name="input", shape=(-1, 1, 6, 6)),)})
    model = load_network(given)
    captured = capture_graph(model, (torch.randn(2, 1, 6, 6),))
    context = Context(folder, 0, Target(batch=3), given, lambda: image_classifier(DATA))
    return FileMaker(captured, trace_channels(captured), model, FileForm(given, context, **options)), model


def weights(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what convolutions are stored with."""
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer if ".weight" in tensor.name}


def test_a_file_has_the_widths_of_the_state_and_the_batch_of_the_target(tmp_path: Path) -> None:
    """In float, with and without its block; the network is not changed."""
    maker, model = maker_of(tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole, narrow = maker(NetworkState()), maker(NetworkState({"stem.0": 8, "block.0": 5}))
    assert weights(whole)["block.0.weight"] == (24, 16, 3, 3)
    assert weights(narrow)["block.0.weight"] == (5, 8, 3, 3)
    assert [dim.dim_value for dim in narrow.graph.input[0].type.tensor_type.shape.dim] == [3, 1, 6, 6]
    without = maker(NetworkState({"stem.0": 8}, frozenset({"block"})))
    assert [node.op_type for node in without.graph.node].count("Conv") == 1
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())
    assert maker.at_widths({"stem.0": 16}) is whole  # whole widths by name are the whole file


def test_files_of_other_precisions_come_from_the_same_exports(tmp_path: Path) -> None:
    """Static int8 at other widths and without the block, which a pattern of `keep` names; and dynamic int8."""
    config = QuantizationConfig(scheme="u8s8", keep=("block.0",))
    maker, _ = maker_of(tmp_path, quantization=config)
    for state in (NetworkState({"block.0": 5}), NetworkState(dropped=frozenset({"block"}))):
        file = maker.in_precision("int8")(state)
        (found,) = onnx_session(file, "the file", optimised=True).run(
            None, {"input": np.ones((3, 1, 6, 6), np.float32)}
        )
        assert np.isfinite(found).all()
        assert "stem.0.weight_quantized" in {tensor.name for tensor in file.graph.initializer}
        assert "block.0.weight_quantized" not in {tensor.name for tensor in file.graph.initializer}
    dynamic = maker.in_precision("int8-dynamic")(NetworkState({"block.0": 5}))
    assert "MatMulInteger" in {node.op_type for node in dynamic.graph.node}


def test_a_convolution_that_is_used_twice_is_quantized_with_its_batch_norm(tmp_path: Path) -> None:
    """An exporter leaves the batch norm behind it, which would be computed in float; `simplify` folds it."""
    given = original(tmp_path).model_copy(update={"inputs": (TensorSpec(name="input", shape=(-1, 1, 6, 6)),)})
    net = Net(
        lambda net, x: net.fc(net.norm(net.twice(net.norm(net.twice(net.stem(x))).relu())).mean((2, 3))),
        stem=nn.Conv2d(1, 8, 1),
        twice=nn.Conv2d(8, 8, 3, padding=1),
        norm=nn.BatchNorm2d(8),
        fc=nn.Linear(8, 2),
    ).eval()
    captured = capture_graph(net, (torch.randn(2, 1, 6, 6),))
    context = Context(tmp_path, 0, Target(), given, lambda: image_classifier(DATA))
    maker = FileMaker(captured, trace_channels(captured), net, FileForm(given, context, precision="int8"))
    operators = [node.op_type for node in maker(NetworkState()).graph.node]
    assert operators.count("Conv") == 3
    assert "BatchNormalization" not in operators


def test_a_forward_with_sizes_written_out_is_not_kept() -> None:
    """A literal view fails at other widths, a literal slice computes something else, a mean takes any."""
    forwards = {
        "mean": (lambda net, x: net.fc(net.conv(x).relu().mean((2, 3))), 8, True),
        "view": (lambda net, x: net.fc(net.conv(x).relu().view(-1, 8 * 36)), 8 * 36, False),
    }
    for forward, features, kept in forwards.values():
        net = Net(forward, conv=nn.Conv2d(3, 8, 3, padding=1), fc=nn.Linear(features, 2)).eval()
        captured = capture_graph(net, (torch.randn(2, 3, 6, 6),))
        graph = trace_channels(captured)
        assert keeps_own_forward(captured, graph, net) is kept
        narrow = network_at(captured, graph, net, NetworkState({"conv": 3}), own=kept)
        assert narrow(torch.randn(2, 3, 6, 6)).shape == (2, 2)


def test_unknown_blocks_and_groups_are_refused() -> None:
    """Neither is in the network."""
    net = Net(lambda net, x: net.b(net.a(x)), a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 2, 1)).eval()
    captured = capture_graph(net, (torch.randn(2, 3, 6, 6),))
    graph = trace_channels(captured)
    with pytest.raises(InputError, match="Group 'c' is not in the network"):
        network_at(captured, graph, net, NetworkState({"c": 2}))
    with pytest.raises(InputError, match="Blocks c are not in the network"):
        network_at(captured, graph, net, NetworkState(dropped=frozenset({"c"})))


def test_a_network_without_training_gets_sound_values() -> None:
    """Batch norms take the statistics of the images, and no two parameters are alike."""
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    with torch.no_grad():
        net[0].weight.fill_(1e-6)
    images = torch.randn(8, 1, 6, 6)
    make_sound(net, (images,), 4)
    assert not net.training
    assert float(net(images).detach().std()) > 0.01
    assert len({tuple(parameter.flatten().tolist()) for parameter in net.parameters()}) == 8
