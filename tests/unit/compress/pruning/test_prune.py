"""prune(): which way is taken and why, what it refuses, and what it leaves alone."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.pruning import prune as engine
from pipeline.compress.pruning.certificate import DifferentError
from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.prune import prune_channels
from pipeline.compress.pruning.rewrite import rewrite_module
from pipeline.core.errors import InputError, StageError
from tests.unit.compress.pruning.networks import Net, conv, halved, halves

if TYPE_CHECKING:
    from torch import fx

    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.graph.walk import Walk
    from pipeline.compress.pruning.surgery import PrunePlan

IMAGES = (torch.randn(2, 3, 6, 6),)


def plain() -> Net:
    """Return a network that can be pruned in place."""
    return Net(lambda m, x: m.b(m.n(m.a(x)).relu()), a=conv(3, 8), n=nn.BatchNorm2d(8), b=conv(8, 2))


def literal() -> Net:
    """Return a network whose code counts the channels of its second layer."""
    return Net(
        lambda m, x: m.fc(m.b(m.a(x)).view(-1, 288)), a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 8, 1), fc=nn.Linear(288, 2)
    )


def test_the_networks_own_class_stays_where_it_can() -> None:
    """A smaller copy of the same class, and no reason."""
    net = plain()
    _, _, pruned = halved(net, IMAGES)
    assert type(pruned.model) is Net
    assert pruned.rewritten == ""
    assert pruned.model.a.weight.shape == (4, 3, 3, 3)
    assert pruned.plan.keep["n.running_var"] == pruned.plan.keep["a.weight"]
    assert net.a.weight.shape == (8, 3, 3, 3)


def test_a_literal_size_is_rewritten_only_where_it_counts() -> None:
    """Channels of the first layer leave in place; those that `view(-1, 288)` counts need another module."""
    net = literal()
    captured = capture_graph(net, IMAGES)
    graph = trace_channels(captured)
    assert prune_channels(captured, graph, net, {"a": [0, 3]}).rewritten == ""
    pruned = prune_channels(captured, graph, net, {"b": [0, 3]})
    assert type(pruned.model) is not Net
    assert "at test_prune.py:" in pruned.rewritten
    assert "view(-1, 288)" in pruned.rewritten
    assert pruned.model(torch.randn(5, 3, 6, 6)).shape == (5, 2)


def test_the_mode_and_values_of_the_original_stay() -> None:
    """The copy has the modes of the original, whose tensors keep their values and gradients."""
    net = plain().train()
    net(*IMAGES).sum().backward()
    before, gradient = deepcopy(net.state_dict()), net.a.weight.grad
    _, _, pruned = halved(net, IMAGES)
    assert net.training
    assert pruned.model.training
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert net.a.weight.grad is gradient


@pytest.mark.parametrize("build", [plain, literal])
def test_nothing_removed_is_the_identity(build: type[nn.Module]) -> None:
    """All classes kept, or no group named: the same outputs to the last bit."""
    net = build().eval()
    captured = capture_graph(net, IMAGES)
    graph = trace_channels(captured)
    for kept in ({}, {group.name: range(group.width) for group in graph.groups}):
        pruned = prune_channels(captured, graph, net, kept)
        assert (pruned.plan.keep, pruned.rewritten, pruned.certificate.max_error) == ({}, "", 0)
        assert torch.equal(pruned.model(*IMAGES), net(*IMAGES))


def test_what_stays_keeps_its_values() -> None:
    """The kept rows and columns are the original's."""
    net = plain()
    captured = capture_graph(net, IMAGES)
    pruned = prune_channels(captured, trace_channels(captured), net, {"a": [1, 4, 6]}).model
    assert torch.equal(pruned.a.weight, net.a.weight[[1, 4, 6]])
    assert torch.equal(pruned.n.running_var, net.n.running_var[[1, 4, 6]])
    assert torch.equal(pruned.b.weight, net.b.weight[:, [1, 4, 6]])


def test_down_to_one_channel_and_again() -> None:
    """A single channel is the least that stays; then there is nothing left to remove."""
    net = plain()
    captured = capture_graph(net, IMAGES)
    pruned = prune_channels(captured, trace_channels(captured), net, {"a": [5]})
    assert pruned.model.a.out_channels == 1
    assert trace_channels(capture_graph(pruned.model, IMAGES)).groups == ()


@pytest.mark.parametrize(
    ("kept", "message"), [({"x": [0]}, "Group 'x' is not in the network"), ({"a": []}, "'a' would lose all")]
)
def test_unknown_and_empty_groups_are_refused(kept: dict[str, list[int]], message: str) -> None:
    """The message lists the groups."""
    net = plain()
    captured = capture_graph(net, IMAGES)
    with pytest.raises(InputError, match=f"{message}.*Groups: a"):
        prune_channels(captured, trace_channels(captured), net, kept)


def test_a_graph_without_its_walk_is_refused() -> None:
    """A graph that was read from a file does not know the values between layers."""
    net = plain()
    captured = capture_graph(net, IMAGES)
    with pytest.raises(InputError, match="no walk"):
        prune_channels(captured, replace(trace_channels(captured), walk=None), net, {"a": [0]})


def test_what_neither_way_can_prune_is_a_stage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect in the rules does not pass: the plan is refused."""

    def wrong(captured: CapturedGraph, walk: Walk, plan: PrunePlan, _: object) -> fx.GraphModule:
        module = rewrite_module(captured, walk, plan)
        (output,) = (node for node in module.graph.nodes if node.op == "output")
        with module.graph.inserting_before(output):
            output.args = (module.graph.call_function(torch.neg, (output.args[0],)),)
        module.recompile()
        return module

    net = literal()
    captured = capture_graph(net, IMAGES)
    monkeypatch.setattr(engine, "rewrite_module", wrong)
    with pytest.raises(StageError, match=r"cannot be pruned by this plan: .* outputs differ") as caught:
        prune_channels(captured, trace_channels(captured), net, {"b": [0, 3]})
    assert not isinstance(caught.value, DifferentError)


def test_values_are_compared_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate holds whatever the values; a copy with other values is refused too."""

    def wrong(model: nn.Module, plan: PrunePlan) -> None:
        apply(model, plan)
        with torch.no_grad():
            model.b.bias.add_(1)

    apply = engine.apply_plan
    monkeypatch.setattr(engine, "apply_plan", wrong)
    net = plain()
    captured = capture_graph(net, IMAGES)
    with pytest.raises(DifferentError, match=r"'b\.bias'"):
        prune_channels(captured, trace_channels(captured), net, {"a": [0, 3]})


def test_a_network_of_one_layer_has_nothing_to_remove() -> None:
    """An empty graph, and an empty plan."""
    net = nn.Linear(3, 2)
    captured, graph, pruned = halved(net, (torch.randn(2, 3),))
    assert (graph.groups, pruned.plan.keep, captured.aliases) == ((), {}, {})


def test_a_forward_that_writes_into_its_input() -> None:
    """Each run gets inputs of its own, so that all see the same ones, and the example stays."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x *= 255
        return m.b(m.a(x).relu())  # type: ignore[no-any-return]

    net, example = Net(forward, a=conv(3, 8), b=conv(8, 4)).eval(), torch.randn(2, 3, 6, 6)
    before, captured = example.clone(), capture_graph(net, (example,))
    pruned = prune_channels(captured, trace_channels(captured), net, {"a": [0, 1, 2]})
    assert pruned.rewritten == ""
    assert torch.equal(example, before)


def test_what_the_batch_size_was_does_not_matter() -> None:
    """Captured with two images, the pruned network takes any number of them."""
    for build in (plain, literal):
        _, _, pruned = halved(build().eval(), IMAGES)
        model = pruned.model.eval()
        images = torch.randn(7, 3, 6, 6)
        whole = model(images)
        assert torch.allclose(whole[3:4], model(images[3:4]), atol=1e-6)


@pytest.mark.parametrize("build", [plain, literal])
def test_a_pruned_network_is_exported_again(build: type[nn.Module]) -> None:
    """By torch.export, as the exporters do it, with the same outputs."""
    _, _, pruned = halved(build().eval(), IMAGES)
    program = torch.export.export(pruned.model.eval(), IMAGES)
    assert torch.equal(program.module()(*IMAGES), pruned.model(*IMAGES))


def test_half_precision_networks_stay_so() -> None:
    """The certificate runs in double precision; the result has the original's types."""
    net = plain().bfloat16().eval()
    _, _, pruned = halved(net, (torch.randn(2, 3, 6, 6, dtype=torch.bfloat16),))
    assert {tensor.dtype for tensor in pruned.model.parameters()} == {torch.bfloat16}
    assert pruned.certificate.relative_error < 1e-10


class Counted(nn.Module):
    """A network with a method, an attribute and a hook of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 2)
        self.note = "mine"

    def forward(self, x: Tensor) -> Tensor:
        """Apply both."""
        return self.b(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Apply the first."""
        return self.a(x).relu()


def test_methods_and_attributes_stay_in_place() -> None:
    """What is pruned in place is still the user's own network."""
    net = Counted()
    captured = capture_graph(net, IMAGES)
    graph = trace_channels(captured)
    model = prune_channels(captured, graph, net, halves(graph)).model
    assert isinstance(model, Counted)
    assert model.note == "mine"
    assert model.features(*IMAGES).shape == (2, 4, 6, 6)
