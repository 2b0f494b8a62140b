"""Small networks as tables: what to build, which channels are coupled in it, and a proof that does without the engine.

The tests of the graph are rows of such tables, by family of operators (test_graph_*.py).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pipeline.compress.pruning.cost import count_cost, macs_model, parameters_model
from pipeline.compress.pruning.graph import ChannelGraph, trace_channels
from pipeline.compress.pruning.graph.capture import CapturedGraph, capture_graph
from pipeline.compress.pruning.prune import PrunedNetwork, prune_channels
from pipeline.compress.pruning.surgery import PrunePlan
from pipeline.compress.pruning.tensors import shared_names, sliced, stored_tensors
from pipeline.compress.training.inference import forward_outputs

if TYPE_CHECKING:
    from collections.abc import Callable

Example = tuple[Tensor, ...]
IMAGE: tuple[tuple[int, ...], ...] = ((2, 3, 6, 6),)


class Net(nn.Module):
    """Layers and parameters by name, and a function of (layers, inputs)."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:  # noqa: ANN401 - whatever the function returns
        """Apply the function."""
        return self.function(self, x)


class Net2(Net):
    """The same with two inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]  # noqa: ANN401
        """Apply the function."""
        return self.function(self, x, y)


def conv(width_in: int, width: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the image size but for its stride."""
    return nn.Conv2d(width_in, width, kernel, stride, kernel // 2, groups=groups)


@dataclass(frozen=True)
class Pattern:
    """One way of wiring, and all that the engine has to find out about it.

    Attributes:
        build: returns the network.
        groups: the width of each group by its name, in order.
        frozen: a part of every reason but "input of the network" and "output of the network".
        shapes: the sizes of the inputs; of integers below `entries` where that is not 0.
        statistics: operators whose statistics change, as the certificate says it.
        rewritten: a part of the reason why the network's own forward cannot be kept; empty if it can.
        options: keyword arguments of `trace`.
        counted: whether every sum of products of this network is one that `count` counts.
        again: the groups of the pruned network where those are not the same of half the width.
    """

    build: Callable[[], nn.Module]
    groups: dict[str, int]
    frozen: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = IMAGE
    entries: int = 0
    statistics: tuple[str, ...] = ()
    rewritten: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    counted: bool = True
    again: dict[str, int] | None = None

    def example(self) -> Example:
        """Return one tensor per input."""
        if self.entries:
            return tuple(torch.randint(self.entries, shape) for shape in self.shapes)
        return tuple(torch.randn(shape) for shape in self.shapes)


def halves(graph: ChannelGraph, seed: int = 0) -> dict[str, list[int]]:
    """Return a random half, rounded up, of the classes of every group."""
    generator = torch.Generator().manual_seed(seed)
    return {
        group.name: sorted(torch.randperm(group.width, generator=generator)[: (group.width + 1) // 2].tolist())
        for group in graph.groups
    }


def halved(model: nn.Module, example: Example, **options: Any) -> tuple[CapturedGraph, ChannelGraph, PrunedNetwork]:  # noqa: ANN401
    """Capture a network, trace it and keep a random half of every group."""
    captured = capture_graph(model, example)
    graph = trace_channels(captured, **options)
    return captured, graph, prune_channels(captured, graph, model, halves(graph))


def disturbed(model: nn.Module) -> nn.Module:
    """Return a float64 copy with a value of its own at each position, so that no two channels are alike."""
    copy = deepcopy(model).double()
    with torch.no_grad():
        for names in shared_names(stored_tensors(copy)):
            tensor = stored_tensors(copy)[names[0]]
            if tensor.is_floating_point():
                tensor.copy_(tensor + torch.rand_like(tensor) / 4)
    return copy


def zeroed(model: nn.Module, plan: PrunePlan) -> nn.Module:
    """Return a copy with zeros in all slices that a plan removes."""
    copy = deepcopy(model)
    with torch.no_grad():
        for name, tensor in stored_tensors(copy).items():
            for dim, indices in plan.keep.get(name, {}).items():
                removed = [index for index in range(tensor.shape[dim]) if index not in indices]
                tensor.index_fill_(dim, torch.tensor(removed), 0.0)
    return copy


def filled(smaller: nn.Module, original: nn.Module, plan: PrunePlan) -> nn.Module:
    """Return a float64 copy of a pruned network with what a plan keeps of another original's values."""
    copy = deepcopy(smaller).double()
    values = stored_tensors(original)
    with torch.no_grad():
        for name, tensor in stored_tensors(copy).items():
            tensor.copy_(sliced(values[name], plan.keep.get(name, {})))
    return copy


def masked_error(model: nn.Module, pruned: PrunedNetwork, example: Example) -> float:
    """Return how far a pruned network is from the original with zeros in what was removed, relative to its outputs.

    Both have the same disturbed values and run in float64 by themselves: nothing of the engine takes part.
    """
    original = disturbed(model)
    alias = {name: names[0] for names in shared_names(stored_tensors(model)) for name in names}
    plan = PrunePlan({name: pruned.plan.keep.get(first, {}) for name, first in alias.items()})
    wide = tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in example)
    expected = forward_outputs(zeroed(original, plan), wide)
    found = forward_outputs(filled(pruned.model, original, plan), wide)
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in expected]
    scale = max(float(tensor.abs().max()) for tensor in expected)
    assert scale > 0
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) / scale


def check(pattern: Pattern) -> tuple[nn.Module, PrunedNetwork]:
    """Prune half of a pattern and compare all that is known about it; return the network and the pruned one."""
    model, example = pattern.build().eval(), pattern.example()
    captured, graph, pruned = halved(model, example, **pattern.options)
    assert {group.name: group.width for group in graph.groups} == pattern.groups
    check_reasons(pattern, graph)
    assert pruned.certificate.relative_error <= 1e-9
    assert set(pruned.certificate.statistics) == set(pattern.statistics)
    assert pattern.rewritten in pruned.rewritten
    assert bool(pattern.rewritten) == bool(pruned.rewritten), pruned.rewritten
    check_cost(pattern, model, graph, pruned)
    shapes = [[tensor.shape for tensor in forward_outputs(each, example)] for each in (model, pruned.model)]
    assert shapes[0] == shapes[1]
    if not captured.foreign & pruned.plan.keep.keys():
        assert (masked_error(model, pruned, example) <= 1e-9) == (not pattern.statistics)
    check_training(pruned.model, example)
    _, smaller, _ = halved(pruned.model, example, **pattern.options)
    narrower = {name: (width + 1) // 2 for name, width in pattern.groups.items()}
    assert {group.name: group.width for group in smaller.groups} == (
        narrower if pattern.again is None else pattern.again
    )
    return model, pruned


def check_reasons(pattern: Pattern, graph: ChannelGraph) -> None:
    """Compare the reasons for what is kept whole."""
    told = {frozen.reason for frozen in graph.frozen} - {"input of the network", "output of the network"}
    assert all(any(part in reason for reason in told) for part in pattern.frozen), told
    assert all(any(part in reason for part in pattern.frozen) for reason in told), told


def check_cost(pattern: Pattern, model: nn.Module, graph: ChannelGraph, pruned: PrunedNetwork) -> None:
    """Compare the predicted operations and parameters with those of the networks that are there."""
    names = dict(model.named_parameters())
    example = pattern.example()
    kept = {name: len(classes) for name, classes in halves(graph).items()}
    for each, widths in ((model, {}), (pruned.model, kept)):
        cost = count_cost(each, example)
        if pattern.counted:
            assert macs_model(graph).cost(widths) == cost.macs
        if names.keys() == dict(pruned.model.named_parameters()).keys():
            assert parameters_model(graph, names).cost(widths) == cost.parameters


def check_training(pruned: nn.Module, example: Example) -> None:
    """Train a copy for two steps: gradients are finite, and the mean square of the outputs falls."""
    model = deepcopy(pruned).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        torch.manual_seed(0)
        leaves = [leaf for leaf in tree_leaves(model(*example)) if isinstance(leaf, Tensor)]
        loss = sum((leaf.square().mean() for leaf in leaves), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert gradients
        assert all(gradient.isfinite().all() for gradient in gradients)
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0], losses
