"""Rewritten modules: layers by their names, two modes, sizes as they are after pruning; an original that stays."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import CapturedGraph, capture_graph
from pipeline.compress.pruning.rewrite import rewrite_module
from pipeline.compress.pruning.surgery import PrunePlan, plan_for
from tests.unit.compress.pruning.networks import Example, Net, conv, halves

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import fx

IMAGES = (torch.randn(2, 3, 6, 6),)
TOKENS = (torch.randn(2, 5, 12),)
WHOLE = PrunePlan({})


def mixed(m: Net, x: Tensor) -> dict[str, Tensor]:
    """Convolve, normalise, drop and split by literal sizes."""
    first, second = m.drop(m.n(m.a(x)).relu()).split([5, 3], 1)
    return {"classes": m.fc(m.b(first).mean((2, 3))), "map": m.c(second)}


def mixed_net() -> Net:
    """Return a network whose forward cannot be kept."""
    return Net(
        mixed,
        a=conv(3, 8),
        n=nn.BatchNorm2d(8, momentum=0.3),
        drop=nn.Dropout(0.5),
        b=conv(5, 6),
        c=conv(3, 2),
        fc=nn.Linear(6, 2),
    )


def written(net: nn.Module, example: Example, plan: PrunePlan | None = None) -> tuple[CapturedGraph, fx.GraphModule]:
    """Return the captured network, and the module that half of every group is left of, or what another plan keeps."""
    captured = capture_graph(net, example)
    graph = trace_channels(captured)
    assert graph.walk is not None
    return captured, rewrite_module(captured, graph.walk, plan_for(graph, halves(graph)) if plan is None else plan)


def test_layers_are_modules_with_their_names_and_sizes() -> None:
    """Convolutions, norms and linear layers are those of torch.nn, as the original has them."""
    _, module = written(mixed_net(), IMAGES)
    assert isinstance(module.a, nn.Conv2d)
    assert (module.a.in_channels, module.a.out_channels, module.a.padding) == (3, 5, (1, 1))
    assert isinstance(module.n, nn.BatchNorm2d)
    assert (module.n.num_features, module.n.momentum) == (5, 0.3)
    assert isinstance(module.fc, nn.Linear)
    assert (module.fc.in_features, module.fc.out_features) == (3, 2)
    assert set(module.state_dict()) == set(mixed_net().state_dict())
    assert not module.training


def test_nothing_removed_is_the_same_network() -> None:
    """With an empty plan the module computes what the original does, for any batch, in the same structure."""
    net = mixed_net().eval()
    _, module = written(net, IMAGES, WHOLE)
    images = torch.randn(5, 3, 6, 6)
    expected, found = net(images), module(images)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_training_and_evaluation_are_the_original_s() -> None:
    """In training, dropout drops and batch norms use and update statistics as the original's; in evaluation neither."""
    net = mixed_net()
    _, module = written(net, IMAGES, WHOLE)
    images = torch.randn(4, 3, 6, 6)
    for _ in range(2):
        for each in (net.train(), module.train()):
            torch.manual_seed(0)
            each(images)
    assert torch.equal(module.n.running_mean, net.n.running_mean)
    assert module.n.running_mean.any()
    assert torch.equal(module.eval()(images)["map"], net.eval()(images)["map"])
    assert torch.equal(module.n.running_mean, net.n.running_mean)
    first, second = (module.train()(images)["classes"] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.b(F.dropout(m.a(x), 0.5, m.training)),
        lambda m, x: m.b(F.batch_norm(m.a(x), m.mean, m.var, training=m.training)),
        lambda m, x: m.b(F.dropout2d(m.a(x), 0.5, training=m.training)),
    ],
    ids=["dropout", "batch norm", "dropout of channels"],
)
def test_functions_follow_the_mode_too(forward: Callable[[Net, Tensor], Tensor]) -> None:
    """Calls without a module switch with train() and eval()."""
    net = Net(forward, a=conv(3, 8), b=conv(8, 2))
    net.register_buffer("mean", torch.zeros(8))
    net.register_buffer("var", torch.ones(8))
    _, module = written(net, IMAGES, WHOLE)
    images = torch.randn(4, 3, 6, 6)
    assert torch.equal(module.eval()(images), net.eval()(images))
    for each in (net.train(), module.train()):
        torch.manual_seed(0)
        each.result = each(images)
    assert torch.equal(module.result, net.result)
    assert not torch.equal(module.result, net.eval()(images))


def test_recurrent_layers_drop_between_layers_in_training() -> None:
    """The operator's own switch follows the mode."""
    net = Net(lambda m, x: m.cell(x)[0], cell=nn.LSTM(12, 6, 2, dropout=0.5, batch_first=True))
    _, module = written(net, TOKENS, WHOLE)
    assert torch.equal(module(*TOKENS), net.eval()(*TOKENS))
    module.train()
    torch.manual_seed(0)
    assert not torch.equal(module(*TOKENS), module(*TOKENS))


def test_the_original_is_not_touched() -> None:
    """The captured network and its tensors stay, and training the module trains the module alone."""
    net = mixed_net()
    before = deepcopy(net.state_dict())
    captured, module = written(net, IMAGES)
    graph = str(captured.module.graph)
    module.train()(*IMAGES)["classes"].sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert str(captured.module.graph) == graph


def test_training_moves_every_parameter() -> None:
    """Each is used by the module's forward, through a layer or directly."""
    torch.manual_seed(0)
    _, module = written(mixed_net(), IMAGES)
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    outputs = module.train()(*IMAGES)
    (outputs["classes"].square().sum() + outputs["map"].square().sum()).backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    still = {name for name, parameter in module.named_parameters() if torch.equal(before[name], parameter)}
    assert still <= {"a.bias"}  # the norm takes it away again


def test_the_batch_counter_is_copied() -> None:
    """A trained batch norm has counted its batches, and goes on counting."""
    net = mixed_net().train()
    net(*IMAGES)
    _, module = written(net, IMAGES)
    assert module.n.num_batches_tracked == 1
    module.train()(*IMAGES)
    assert module.n.num_batches_tracked == 2
    assert net.n.num_batches_tracked == 1


def test_gradient_flags_stay() -> None:
    """What was not trained in the original is not trained in the module."""
    net = mixed_net()
    net.a.requires_grad_(requires_grad=False)
    _, module = written(net, IMAGES)
    assert {name for name, each in module.named_parameters() if not each.requires_grad} == {"a.weight", "a.bias"}


def test_literals_are_those_of_the_smaller_network() -> None:
    """Views, splits, expansions and norm shapes state what is left; the attention's scale is the original's."""
    net = Net(
        lambda m, x: m.proj(
            F.scaled_dot_product_attention(*m.qkv(x).view(-1, 5, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0))
            .transpose(1, 2)
            .reshape(-1, 5, 16)
        ),
        qkv=nn.Linear(12, 48),
        proj=nn.Linear(16, 7),
    )
    _, module = written(net, TOKENS)
    calls = {str(node.target): node for node in module.graph.nodes if node.op == "call_function"}
    shapes = [node.args[1] for node in module.graph.nodes if str(node.target) == "aten.reshape.default"]
    assert shapes == [[-1, 5, 3, 2, 4], [-1, 5, 8]]
    assert calls["aten.scaled_dot_product_attention.default"].kwargs["scale"] == pytest.approx(8**-0.5)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_of_windows_is_spelled_out(masked: bool) -> None:  # noqa: FBT001
    """Exporters take four dimensions alone: with five, the module has the two products and the softmax instead."""
    net = Net(
        lambda m, x: m.proj(
            F.scaled_dot_product_attention(
                *m.qkv(x).view(-1, 1, 5, 3, 2, 8).permute(3, 0, 1, 4, 2, 5).unbind(0),
                attn_mask=m.mask if masked else None,
            )
            .transpose(2, 3)
            .reshape(-1, 5, 16)
        ),
        qkv=nn.Linear(12, 48),
        proj=nn.Linear(16, 7),
        mask=nn.Parameter(torch.randn(5, 5)),
    )
    _, module = written(net, TOKENS)
    names = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
    assert names.count("aten.matmul.default") == 2
    assert "aten.scaled_dot_product_attention.default" not in names
    _, whole = written(net, TOKENS, WHOLE)
    torch.testing.assert_close(whole(*TOKENS), net(*TOKENS))


def test_shared_weights_stay_shared() -> None:
    """A table that is also the classifier is one tensor, which training moves once."""
    net = Net(
        lambda m, x: F.linear(m.table(x).view(-1, 3, 8) * m.gain, m.table.weight),
        table=nn.Embedding(11, 8),
        gain=nn.Parameter(torch.ones(8)),
    )
    tokens = torch.randint(11, (2, 3))
    _, module = written(net, (tokens,))
    assert [name for name, _ in module.named_parameters(remove_duplicate=False)] == ["gain", "table.weight"]
    assert module.table.weight.shape == (11, 4)
    module(tokens).sum().backward()
    assert module.table.weight.grad is not None


def test_a_layer_under_two_names_is_one_tensor() -> None:
    """Two convolutions with one weight share it after rewriting as well."""
    net = Net(
        lambda m, x: m.head(m.b(m.a(m.stem(x))).view(-1, 8, 6, 6)),
        stem=conv(3, 8),
        a=conv(8, 8),
        b=conv(8, 8),
        head=conv(8, 2),
    )
    net.b.weight = net.a.weight
    _, module = written(net, IMAGES)
    weights = [each for _, each in module.named_parameters() if each.shape == (4, 4, 3, 3)]
    assert len(weights) == 1
    module(*IMAGES).sum().backward()
    assert weights[0].grad is not None


def test_the_number_of_groups_follows() -> None:
    """Of eight groups of two channels half leave whole; two groups keep their number."""
    net = Net(
        lambda m, x: m.c(m.few(m.norm(m.many(m.a(x)).view(-1, 16, 6, 6)))),
        a=conv(3, 16),
        many=conv(16, 16, groups=8),
        norm=nn.GroupNorm(8, 16),
        few=conv(16, 8, groups=2),
        c=conv(8, 2),
    )
    _, module = written(net, IMAGES)
    groups = [node.args[6] for node in module.graph.nodes if str(node.target) == "aten.conv2d.default"]
    norms = [node.args[1] for node in module.graph.nodes if str(node.target) == "aten.group_norm.default"]
    assert (groups, norms) == ([4, 2], [4])
    assert module(*IMAGES).shape == (2, 2, 6, 6)


def test_a_module_can_be_captured_copied_and_stored() -> None:
    """The state of one module loads into a copy of another with the same plan."""
    net = mixed_net()
    _, module = written(net, IMAGES)
    again = deepcopy(module)
    with torch.no_grad():
        again.fc.weight.zero_()
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(*IMAGES)["classes"], module(*IMAGES)["classes"])
    captured = capture_graph(module, IMAGES)
    assert torch.equal(captured.module(*IMAGES)["map"], module(*IMAGES)["map"])
    assert captured.dynamic
