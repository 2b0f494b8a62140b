"""Capture: the graph computes what the network does, reads the network's own tensors, and changes nothing."""

from __future__ import annotations

import functools
import re
from collections import namedtuple
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._pytree import register_dataclass, tree_leaves

from pipeline.compress.pruning.definition import definition_source
from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph, record_values
from pipeline.compress.pruning.prune import prune_channels
from pipeline.core.errors import InputError
from tests.unit.compress.pruning.networks import Net, Net2, conv

if TYPE_CHECKING:
    from collections.abc import Callable

Pair = namedtuple("Pair", "first second")  # noqa: PYI024 - untyped, as networks have them


@dataclass
class Result:
    """An output of a class of its own."""

    classes: Tensor
    maps: Tensor


register_dataclass(Result)


class Many(nn.Module):
    """A network that takes its inputs as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Add all inputs up."""
        return self.a(sum(inputs))


class Optional(nn.Module):
    """A network with an input that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)

    def forward(self, x: Tensor, scale: float = 2.0, mask: Tensor | None = None) -> Tensor:
        """Scale the result."""
        hidden = self.a(x) * scale
        return hidden if mask is None else hidden * mask


def small() -> Net:
    """Return two convolutions with batch norm and dropout."""
    return Net(
        lambda m, x: m.b(m.drop(m.n(m.a(x)).relu())), a=conv(3, 4), n=nn.BatchNorm2d(4), drop=nn.Dropout(), b=conv(4, 2)
    )


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_graph_computes_what_the_network_does(batch: int) -> None:
    """In evaluation mode, for any number of images."""
    net = small().eval()
    captured = capture_graph(net, (torch.randn(2, 3, 6, 6),))
    images = torch.randn(batch, 3, 6, 6)
    assert captured.dynamic
    assert torch.equal(captured.module(images), net(images))


@pytest.mark.parametrize(
    "forward",
    [lambda m, x: m.a(x).view(2, -1), lambda m, x: m.a(x).unbind(0)[1]],
    ids=["literal", "unbind"],
)
def test_a_batch_that_the_code_fixes(forward: Callable[[Net, Tensor], Tensor]) -> None:
    """The batch is then that of the example, and `dynamic` says so."""
    net = Net(forward, a=conv(3, 4)).eval()
    captured = capture_graph(net, (torch.randn(2, 3, 6, 6),))
    images = torch.randn(2, 3, 6, 6)
    assert not captured.dynamic
    assert torch.equal(captured.module(images), net(images))


def test_capturing_changes_nothing() -> None:
    """Modes, values, gradients and hooks of the network are as before."""
    net = small()
    net.n.eval()
    before = deepcopy(net.state_dict())
    capture_graph(net, (torch.randn(2, 3, 6, 6),))
    modes = {name: module.training for name, module in net.named_modules()}
    assert modes == {"": True, "a": True, "n": False, "drop": True, "b": True}
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


def test_the_modes_come_back_after_an_error() -> None:
    """A network that cannot be exported goes on training."""
    net = Net(lambda m, x: m.a(x) if x.sum() > 0 else x, a=conv(3, 3)).train()
    with pytest.raises(InputError):
        capture_graph(net, (torch.randn(2, 3, 6, 6),))
    assert net.training
    assert net.a.training


def test_the_graph_reads_the_networks_own_parameters() -> None:
    """A step of training on the network is one on the graph, and gradients of the graph are the network's."""
    net = small().eval()
    captured = capture_graph(net, (torch.randn(2, 3, 6, 6),))
    images = torch.randn(3, 3, 6, 6)
    assert captured.stored["a.weight"] is net.a.weight
    assert captured.stored["n.running_mean"] is net.n.running_mean
    captured.module(images).square().sum().backward()
    assert net.a.weight.grad is not None
    before = captured.module(images).detach()
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    assert not torch.allclose(captured.module(images), before)
    assert torch.equal(captured.module(images), net(images))


def test_stored_tensors_aliases_and_constants() -> None:
    """Each tensor stands under its first name, those that evaluation does not use too; constants are foreign."""
    net = Net(
        lambda m, x: m.b(m.a(x)) + torch.tensor([1.0, 2.0]),
        a=nn.Linear(3, 3),
        b=nn.Linear(3, 2),
        c=nn.Linear(3, 3),
        d=nn.Linear(1, 1),
    )
    net.c.weight = net.a.weight
    captured = capture_graph(net, (torch.randn(2, 3),))
    assert captured.aliases == {"a.weight": ("a.weight", "c.weight")}
    (constant,) = captured.foreign
    assert set(captured.stored) - {constant} == set(net.state_dict()) - {"c.weight"}
    assert captured.stored[constant].tolist() == [1.0, 2.0]


def test_computed_weights_are_stored_under_the_layer() -> None:
    """A weight norm is computed once; what it was computed from is no reason for anything."""
    net = Net(lambda m, x: m.b(m.a(x)), a=weight_norm(nn.Linear(3, 4)), b=nn.Linear(4, 2)).eval()
    captured = capture_graph(net, (torch.randn(2, 3),))
    assert captured.foreign == {"a.baked_weight"}
    assert captured.folded == {f"a.parametrizations.weight.original{part}" for part in (0, 1)}
    assert torch.allclose(captured.stored["a.baked_weight"], net.a.weight)
    graph = trace_channels(captured)
    assert [group.name for group in graph.groups] == ["a"]
    assert {frozen.tensor for frozen in graph.frozen} == {"a.baked_weight", "b.weight", "b.bias"}


@pytest.mark.parametrize(
    ("forward", "kind"),
    [
        (lambda m, x: {"a": m.a(x), "b": [m.b(x), None]}, dict),
        (lambda m, x: [m.a(x), (m.b(x), m.a(x))], list),
        (lambda m, x: (m.a(x),), tuple),
        (lambda m, x: Pair(m.a(x), m.b(x)), tuple),
        (lambda m, x: Result(m.a(x), m.b(x)), tuple),
    ],
    ids=["dictionary", "list", "tuple", "named tuple", "dataclass"],
)
def test_outputs_keep_their_structure(forward: Callable[[Net, Tensor], object], kind: type) -> None:
    """Dictionaries, lists and tuples stay; containers of other classes become tuples of the same tensors."""
    net = Net(forward, a=nn.Linear(3, 2), b=nn.Linear(3, 4)).eval()
    x = torch.randn(2, 3)
    found = capture_graph(net, (torch.randn(2, 3),)).module(x)
    assert type(found) is kind
    pairs = zip(tree_leaves(found), tree_leaves(net(x)), strict=True)
    assert all(left is right is None or torch.equal(left, right) for left, right in pairs)


@pytest.mark.parametrize(
    ("net", "inputs"),
    [(Many(), 1), (Many(), 3), (Optional(), 1), (Net2(lambda m, x, y: m.a(x + y), a=nn.Linear(3, 2)), 2)],
    ids=["one of any number", "three of any number", "optional left out", "two"],
)
def test_inputs_of_every_kind(net: nn.Module, inputs: int) -> None:
    """Inputs are given as a tuple, one tensor each."""
    captured = capture_graph(net, tuple(torch.randn(2, 3) for _ in range(inputs)))
    given = tuple(torch.randn(4, 3) for _ in range(inputs))
    assert torch.equal(captured.module(*given), net(*given))


def with_parameter(name: str) -> Net:
    """Return two linear layers with a parameter of this name between them."""
    net = Net(lambda m, x: m.b(m.a(x) * getattr(m, name)), a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    setattr(net, name, nn.Parameter(torch.rand(4)))
    return net


@pytest.mark.parametrize("name", ["output", "x", "linear", "weight"])
def test_names_may_be_those_of_nodes(name: str) -> None:
    """A parameter may be called as an input, an operator or a keyword of the graph's code."""
    net = with_parameter(name)
    captured = capture_graph(net, (torch.randn(2, 3),))
    x = torch.randn(4, 3)
    assert torch.equal(captured.module(x), net(x))
    assert captured.stored[name] is getattr(net, name)


@pytest.mark.parametrize("name", ["code", "graph", "meta"])
def test_names_that_graphs_have_themselves_are_refused(name: str) -> None:
    """The message says which name to change."""
    with pytest.raises(InputError, match=f"calls a tensor or layer {name}: rename it"):
        capture_graph(with_parameter(name), (torch.randn(2, 3),))


def test_record_returns_values_by_node() -> None:
    """The values are those of the layers, gradients flow, and "output" is the first output."""
    net = Net(lambda m, x: (m.b(m.a(x).relu()), x), a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    captured = capture_graph(net, (torch.randn(2, 3),))
    x = torch.randn(5, 3)
    values = record_values(captured, ["relu", "linear"], (x,))
    assert set(values) == {"relu", "linear", "output"}
    assert torch.equal(values["linear"], net.a(x))
    assert torch.equal(values["relu"], net.a(x).relu())
    assert torch.equal(values["output"], net(x)[0])
    (gradient,) = torch.autograd.grad(values["output"].sum(), values["relu"])
    assert torch.allclose(gradient, net.b.weight.sum(0).expand(5, -1))
    with torch.no_grad():
        assert not record_values(captured, ["relu"], (x,))["relu"].requires_grad


def test_an_unknown_node_is_a_key_error() -> None:
    """The message names it."""
    captured = capture_graph(nn.Linear(3, 2), (torch.randn(2, 3),))
    with pytest.raises(KeyError, match="nowhere"):
        record_values(captured, ["nowhere"], (torch.randn(2, 3),))


@pytest.mark.parametrize(
    ("forward", "line"),
    [
        (lambda m, x: m.a(x) if x.sum() > 0 else x, "m.a(x) if x.sum() > 0 else x"),
        (lambda m, x: m.a(x) * float(x.mean()), "m.a(x) * float(x.mean())"),
    ],
    ids=["branch on a value", "number from a value"],
)
def test_what_cannot_be_exported_is_an_input_error(forward: Callable[[Net, Tensor], Tensor], line: str) -> None:
    """The message is one line with what torch.export said, the line of code, and what to write instead."""
    with pytest.raises(InputError, match=r"torch\.export says '\S.*Expected a forward of tensors without") as caught:
        trace_channels(capture_graph(Net(forward, a=conv(3, 3)).eval(), (torch.randn(2, 3, 4, 4),)))
    assert re.search(rf"at test_capture\.py:\d+ `.*{re.escape(line)}", str(caught.value))
    assert "\n" not in str(caught.value)


def test_an_example_of_one_is_refused() -> None:
    """torch.export would take a batch of one for a constant."""
    with pytest.raises(InputError, match="batch of 1; expected 2 or more"):
        capture_graph(
            Net2(lambda m, x, y: m.a(x + y), a=conv(3, 8)), (torch.randn(2, 3, 4, 4), torch.randn(1, 3, 4, 4))
        )


def test_a_fused_encoder_is_taken_apart() -> None:
    """The fast path of nn.TransformerEncoder would hide its products; it is switched on again afterwards."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.Sequential(nn.Linear(5, 8), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(8, 2))
    captured = capture_graph(net.eval(), (torch.randn(2, 3, 5),))
    names = {str(node.target) for node in captured.module.graph.nodes}
    assert "aten.scaled_dot_product_attention.default" in names
    assert torch.backends.mha.get_fastpath_enabled()


def test_dropout_is_not_in_effect_and_functional_calls_are_kept() -> None:
    """A network in training mode is captured as it evaluates."""
    net = Net(lambda m, x: F.dropout(m.a(x), 0.5, m.training), a=nn.Linear(3, 8)).train()
    captured = capture_graph(net, (torch.randn(2, 3),))
    x = torch.randn(4, 3)
    assert torch.equal(captured.module(x), net.a(x))


def logged(function: Callable[..., Any], *, wrap: bool) -> Callable[..., Any]:
    """Return a function behind a decorator, which tells its arguments or not."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return function(*args, **kwargs)

    return functools.wraps(function)(wrapper) if wrap else wrapper


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("kind", [Net, Net2, Many])
def test_a_forward_behind_a_decorator(kind: type[nn.Module], wrap: bool) -> None:  # noqa: FBT001
    """Its arguments are those of the function inside, or any number."""
    decorated = type("Decorated", (kind,), {"forward": logged(kind.forward, wrap=wrap)})
    net = decorated() if kind is Many else decorated(lambda m, x, y=0: m.a(x + y), a=nn.Linear(3, 2))
    inputs = tuple(torch.randn(2, 3) for _ in range(1 if kind is Net else 2))
    captured = capture_graph(net.eval(), inputs)
    more = tuple(torch.randn(5, 3) for _ in inputs)
    assert captured.dynamic
    assert torch.equal(captured.module(*more), net(*more))


@pytest.mark.parametrize(
    "count",
    [lambda x, rows: int(rows.shape[0] / (x.shape[2] / 3)), lambda x, _: len(x)],
    ids=["windows over those of an image", "len"],
)
def test_a_batch_that_is_computed_stays_free(count: Callable[[Tensor, Tensor], int]) -> None:
    """A run with a symbol for the batch would make a number of it."""

    def forward(net: Net, x: Tensor) -> Tensor:
        rows = net.a(x).permute(0, 2, 3, 1).reshape(-1, 3, 6, 8)
        return net.b(rows.view(count(x, rows), 6, 6, -1).permute(0, 3, 1, 2))  # type: ignore[no-any-return]

    net = Net(forward, a=conv(3, 8), b=conv(8, 4)).eval()
    captured = capture_graph(net, (torch.randn(2, 3, 6, 6),))
    assert captured.dynamic
    pruned = prune_channels(captured, trace_channels(captured), net, {"a": [0, 1, 2]}).model
    for model in (captured.module, pruned):
        assert [len(model(torch.randn(batch, 3, 6, 6))) for batch in (1, 2, 3)] == [1, 2, 3]


def test_a_batch_that_the_network_has_seen_is_not_the_only_one() -> None:
    """A grid that was kept for the last batch does not fix that batch, in the graph and in a rewritten network."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        if getattr(m, "shape", None) != y.shape:
            m.shape, m.grid = y.shape, torch.arange(6.0).expand(y.shape[0], 1, 6, 6)
        return m.b(y[:, :3]) + m.grid

    net = Net(forward, a=conv(3, 6), b=conv(3, 4)).eval()
    net(torch.randn(2, 3, 6, 6))
    captured = capture_graph(net, (torch.randn(2, 3, 6, 6),))
    assert captured.dynamic
    graph = trace_channels(captured)
    pruned = prune_channels(captured, graph, net, {group.name: range(2) for group in graph.groups})
    assert "y[:, :3]" in pruned.rewritten
    assert [len(pruned.model(torch.randn(batch, 3, 6, 6))) for batch in (1, 2, 3)] == [1, 2, 3]


@pytest.mark.parametrize("value", [0.5, 3])
def test_an_input_without_dimensions(value: float) -> None:
    """A time step is one number for all images."""
    net = Net2(lambda m, x, t: m.b(m.a(x) * t), a=nn.Linear(3, 4), b=nn.Linear(4, 2)).eval()
    example = (torch.randn(2, 3), torch.tensor(value))
    captured = capture_graph(net, example)
    assert captured.dynamic
    graph = trace_channels(captured)
    pruned = prune_channels(captured, graph, net, {"a": [0, 2]})
    assert pruned.certificate.scale > 0
    assert pruned.model(torch.randn(5, 3), torch.tensor(0.25)).shape == (5, 2)


@pytest.mark.parametrize("name", ["class", "in", "lambda", "None", "a b", "1", "self"])
def test_layers_by_any_name(name: str) -> None:
    """A keyword of Python is a name like any other: in the graph, and in a rewritten network and its file."""
    heads = nn.ModuleDict({name: nn.ModuleDict({name: conv(4, 2)})})
    net = Net(lambda m, x: m.heads[name][name](m.a(x)[:, :4]) * getattr(m, name), a=conv(3, 8), heads=heads)
    net.register_parameter(name, nn.Parameter(torch.ones(())))
    images = torch.randn(2, 3, 6, 6)
    captured = capture_graph(net.eval(), (images,))
    assert torch.equal(captured.module(images), net(images))
    graph = trace_channels(captured)
    pruned = prune_channels(captured, graph, net, {graph.groups[0].name: [0, 1]})
    assert "[:, :4]" in pruned.rewritten
    file: dict[str, Any] = {}
    exec(definition_source(pruned.model, "A network."), file)  # noqa: S102 - the file under test
    written = file["build"]()
    written.load_state_dict(pruned.model.state_dict())
    assert torch.equal(written(images), deepcopy(pruned.model)(images))


@pytest.mark.parametrize("name", ["graph", "code", "recompile", 'a"b'])
def test_names_that_graphs_cannot_have(name: str) -> None:
    """They are told before anything is exported."""
    net = nn.Sequential()
    net.add_module(name, nn.Linear(3, 2))
    with pytest.raises(InputError, match=re.escape(name)):
        capture_graph(net, (torch.randn(2, 3),))
