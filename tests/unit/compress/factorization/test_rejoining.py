"""Legs that a graph calls one by one become one nn.Sequential again, or stay as they are."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from pipeline.compress.factorization.rejoining import rejoin_legs
from pipeline.compress.pruning.definition import definition_source


class Factored(nn.Module):
    """Layers in legs: two of a convolution, three, two linear ones, and three pairs that are none any more."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv = nn.Sequential(nn.Conv2d(2, 3, (3, 1), padding=(1, 0), bias=False), nn.Conv2d(3, 4, (1, 3)))
        self.tucker = nn.Sequential(
            nn.Conv2d(4, 2, 1, bias=False), nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.Conv2d(3, 4, 1)
        )
        self.active = nn.Sequential(nn.Conv2d(4, 2, 1, bias=False), nn.Conv2d(2, 4, 1))
        self.read = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1))
        self.biased = nn.Sequential(nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1))
        self.fc = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 3))

    def forward(self, x):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201 - a graph would keep the types
        """Call every leg by itself."""
        x = self.stem.conv[1](self.stem.conv[0](x))
        x = self.tucker[2](self.tucker[1](self.tucker[0](x)))
        x = self.active[1](self.active[0](x).relu())
        half = self.read[0](x)
        x = self.biased[1](self.biased[0](self.read[1](half) + half))
        return self.fc[1](self.fc[0](x.mean((2, 3))))


JOINED = ["stem.conv", "tucker", "fc"]


@pytest.fixture
def graph() -> fx.GraphModule:
    """Return the graph, with its legs below plain modules as a rewritten network has them."""
    torch.manual_seed(0)
    traced = fx.symbolic_trace(Factored().eval())
    return fx.GraphModule(
        {str(n.target): traced.get_submodule(str(n.target)) for n in traced.graph.nodes if n.op == "call_module"},
        traced.graph,
    )


def test_legs_that_follow_one_another_are_one_layer_again(graph: fx.GraphModule) -> None:
    """The same outputs, gradients and names; what is between, used twice, biased or gone stays as it is."""
    image = torch.randn(2, 2, 5, 5)
    before, names = graph(image), [name for name, _ in graph.named_parameters()]
    found = rejoin_legs(graph, ["stem.conv", "gone", "tucker", "active", "read", "biased", "fc", "stem"])
    assert found == JOINED
    assert torch.equal(graph(image), before)
    assert sorted(name for name, _ in graph.named_parameters()) == sorted(names)
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    assert called == [
        "stem.conv",
        "tucker",
        *(f"{name}.{leg}" for name in ("active", "read", "biased") for leg in (0, 1)),
        "fc",
    ]
    assert rejoin_legs(graph, found) == []


def test_a_plain_file_has_them(graph: fx.GraphModule) -> None:
    """Its network has the same layers, to which the tensors are loaded."""
    rejoin_legs(graph, JOINED)
    file: dict[str, object] = {}
    exec(definition_source(graph, "A network."), file)  # noqa: S102 - the file under test
    network = file["build"]()  # type: ignore[operator]
    network.load_state_dict(graph.state_dict())
    image = torch.randn(2, 2, 5, 5)
    assert torch.equal(network(image), graph(image))
    assert isinstance(network.stem.conv, nn.Sequential)
    assert [type(leg) for leg in network.fc] == [nn.Linear, nn.Linear]
