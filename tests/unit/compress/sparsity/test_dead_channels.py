"""Dead channels: outputs stay, what can leave leaves, and nothing else does."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.importance.group_l2 import group_l2
from pipeline.compress.pruning.importance.l1 import l1
from pipeline.compress.pruning.importance.l2 import l2
from pipeline.compress.pruning.prune import prune_channels
from pipeline.compress.sparsity import dead_channels
from pipeline.compress.sparsity.constants import ConstantRun
from pipeline.compress.sparsity.dead_channels import any_empty, fold_dead_channels
from pipeline.compress.sparsity.layers import sparse_layers
from pipeline.core.errors import StageError
from tests.unit.compress.sparsity.dead_networks import IMAGE, NETWORKS, random_network

if TYPE_CHECKING:
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.sparsity.dead_channels import DeadChannels


@cache
def known(name: str) -> tuple[nn.Module, CapturedGraph, dict[str, Tensor]]:
    """Return a network, its graph and its state."""
    model = random_network(name)
    captured = capture_graph(model, (torch.randn(2, *IMAGE, dtype=torch.float64),))
    return model, captured, deepcopy(model.state_dict())


def sparse(name: str, seed: int, share: float) -> tuple[nn.Module, CapturedGraph]:
    """Return a network with weights at zero: some by chance, whole rows, and whole columns."""
    model, captured, state = known(name)
    model.load_state_dict(state)
    draw = np.random.default_rng(seed)
    with torch.no_grad():
        for each in sparse_layers(model):
            for dim in (0, 1):
                dead = torch.from_numpy(draw.random(each.weight.shape[dim]) < share)
                each.weight.movedim(dim, 0)[dead] = 0
            each.weight[torch.from_numpy(draw.random(each.weight.shape) < 0.3)] = 0
        for tensor in model.parameters():
            if tensor.dim() == 1:
                tensor.mul_(torch.from_numpy(draw.choice([-1.0, 1.0], len(tensor))))
    return model, captured


def folded(model: nn.Module, captured: CapturedGraph) -> DeadChannels:
    """Fold, and compare with the network before: outputs, weights that stay, and the count of those that do not."""
    before = deepcopy(model)
    found = fold_dead_channels(captured, sparse_layers(model))
    images = 3 * torch.randn(5, *IMAGE, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(model(images), before(images), rtol=1e-10, atol=1e-10)
    lost = 0
    for old, new in zip(sparse_layers(before), sparse_layers(model), strict=True):
        assert torch.equal(new.weight[new.weight != 0], old.weight[new.weight != 0])
        lost += int(old.weight.count_nonzero() - new.weight.count_nonzero())
    assert found.weights == lost
    return found


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.1, 0.3, 0.5]))
def test_outputs_stay_and_a_second_time_changes_nothing(name: str, seed: int, share: float) -> None:
    """In float64, for other inputs than those that the graph was captured with."""
    model, captured = sparse(name, seed, share)
    found = folded(model, captured)
    state = deepcopy(model.state_dict())
    again = fold_dead_channels(captured, sparse_layers(model))
    assert again == replace(found, weights=0)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def brute_force(model: nn.Sequential, layers: list[int]) -> list[Tensor]:
    """Return for each linear layer of a plain chain which weights matter, by paths from inputs to outputs."""
    weights = [model[at].weight != 0 for at in layers]
    fed, read = [torch.ones(weights[0].shape[1], dtype=torch.bool)], [torch.ones(len(weights[-1]), dtype=torch.bool)]
    for weight in weights:
        fed.append((weight & fed[-1]).any(1))
    for weight in reversed(weights):
        read.insert(0, (weight & read[0][:, None]).any(0))
    return [weight & ins & outs[:, None] for weight, ins, outs in zip(weights, fed, read[1:], strict=False)]


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_of_a_chain_stay_the_weights_on_paths_from_inputs_to_outputs(seed: int) -> None:
    """Those, and no others; a neuron that is on none has no bias either."""
    model, captured = sparse("mlp", seed, 0.3)
    assert isinstance(model, nn.Sequential)
    layers = [1, 3, 6, 8]
    expected = brute_force(model, layers)
    folded(model, captured)
    for at, mask in zip(layers, expected, strict=True):
        assert torch.equal(model[at].weight != 0, mask)
    assert not model[1].bias[~expected[1].any(0)].any()
    assert not model[4].bias[~expected[2].any(0)].any()
    assert not model[6].bias[~expected[3].any(0)].any()


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_marked_constant_does_not_vary_with_the_inputs(name: str) -> None:
    """At the input of every layer, whatever lies between."""
    _, captured = sparse(name, 3, 0.4)
    seen: list[list[tuple[Tensor, Tensor]]] = [[], []]
    for seed, found in enumerate(seen):
        images = torch.randn(2, *IMAGE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        keep = lambda _, value, marks, found=found: found.append((value.clone(), marks.clone()))  # noqa: E731
        ConstantRun(captured, keep).run(images, enable_io_processing=False)
    constant = 0
    for (first, marks), (second, others) in zip(*seen, strict=True):
        assert torch.equal(marks, others)
        assert torch.equal(first[marks == 0], second[marks == 0])
        constant += int((marks == 0).sum())
    assert constant > 0 or name in {"attending", "recurrent"}


def chain(*layers: nn.Module) -> tuple[nn.Sequential, CapturedGraph]:
    """Return layers one after the other, with the first filter of the first at zero, and their graph."""
    torch.manual_seed(0)
    model = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        model[0].weight[0] = 0
        model[0].bias[0] = 2
    return model, capture_graph(model, (torch.randn(2, *IMAGE, dtype=torch.float64),))


def test_a_constant_goes_into_the_bias_or_the_mean_behind() -> None:
    """By hand: twice the sum of the weights that read a channel of 2; of a norm the mean moves against it."""
    model, captured = chain(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 2, bias=False), nn.BatchNorm2d(4))
    sums = 2 * model[2].weight[:, 0].sum((1, 2)).detach()
    assert folded(model, captured).weights == 4 * 4
    torch.testing.assert_close(model[3].running_mean, -sums)
    model, captured = chain(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 2))
    expected = model[2].bias.detach() + 2 * model[2].weight[:, 0].sum((1, 2)).detach()
    found = folded(model, captured)
    assert (found.channels, found.weights, found.constant) == ({"0": 1}, 16, {})
    torch.testing.assert_close(model[2].bias.detach(), expected)
    assert model[0].bias[0].item() == 0


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(3, 4, 2, padding=1), nn.Conv2d(3, 4, 3, padding="same"), nn.ConvTranspose2d(3, 4, 2)],
    ids=["padding", "same", "transposed"],
)
def test_at_the_edges_only_a_constant_of_zero_can_leave(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """A channel of 2 keeps its weights, and they are told; below zero a ReLU makes it zero."""
    model, captured = chain(nn.Conv2d(1, 3, 3), nn.ReLU(), deepcopy(layer))
    size = 4 * layer.kernel_size[0] ** 2
    found = folded(model, captured)
    assert (found.channels, found.weights, found.constant) == ({}, 0, {"2.weight": size})
    assert model[0].bias[0].item() == 2
    with torch.no_grad():
        model[0].bias[0] = -2
    found = folded(model, captured)
    assert (found.channels, found.weights, found.constant) == ({"0": 1}, size, {})


def test_what_differs_at_the_edges_is_not_taken_for_a_constant_of_every_size() -> None:
    """The mean of a constant that was padded depends on how many edges there are: images of another size agree."""
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    model, captured = chain(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1), *pooled)
    with torch.no_grad():
        model[0].weight[:] = 0
        model[2].weight[1:, 1:] = 0
    before, images = deepcopy(model), torch.randn(2, 1, 20, 20, dtype=torch.float64)
    folded(model, captured)
    torch.testing.assert_close(model(images), before(images), rtol=1e-10, atol=1e-10)


def test_without_a_place_for_the_sum_weights_stay() -> None:
    """A convolution that has neither a bias nor a norm behind it."""
    model, captured = chain(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 2, bias=False), nn.ReLU())
    assert folded(model, captured).constant == {"2.weight": 16}


def test_what_cannot_be_followed_is_told_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of an operator that is run on marks does not end a training."""
    model, captured = sparse("lenet", 1, 0.3)
    before = deepcopy(model.state_dict())
    monkeypatch.setattr(ConstantRun, "_windowed", lambda *_: torch.zeros(1) @ torch.zeros(2))
    with pytest.raises(StageError, match=r"constants cannot be followed: .*size"):
        fold_dead_channels(captured, sparse_layers(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_layers_that_are_kept_stay_dense() -> None:
    """What they read and produce stays; what feeds nothing else but them as well."""
    model, captured = chain(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.Conv2d(4, 2, 1))
    before = deepcopy(model.state_dict())
    assert fold_dead_channels(captured, sparse_layers(model, ["2"])).weights == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_dead_channels_can_be_removed_without_a_difference() -> None:
    """They leave by the group that the record names; criteria that go by weights give them alone a score of zero."""
    model, captured = sparse("residual", 1, 0.2)
    found = folded(model, captured)
    graph = trace_channels(captured)
    kept = {}
    for name, count in found.channels.items():
        group = next(each for each in graph.groups if each.name == name)
        producing = [
            each
            for each in group.members
            if not each.consumes and each.tensor.endswith("weight") and captured.stored[each.tensor].dim() > 1
        ]
        alive = np.zeros(group.width, np.bool_)
        for each in producing:
            rows = captured.stored[each.tensor].detach().movedim(each.dim, 0).flatten(1).any(1).numpy()
            alive |= rows[each.positions].any(1)
        assert group.width - alive.sum() == count
        for criterion in (l1, l2, group_l2):
            assert np.array_equal(criterion(graph, dict(model.named_parameters()))[name].numpy() > 0, alive)
        kept[name] = np.flatnonzero(alive).tolist()
    assert sum(found.channels.values()) > 1
    pruned = prune_channels(captured, graph, model, kept).model
    images = torch.randn(4, *IMAGE, dtype=torch.float64)
    torch.testing.assert_close(pruned(images), model(images), rtol=1e-10, atol=1e-10)


def test_other_outputs_are_refused_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a rule be wrong, the network is as it was."""
    model, captured = sparse("lenet", 1, 0.3)
    before = deepcopy(model.state_dict())
    fold = dead_channels.fold_constants

    def wrong(given: CapturedGraph, names: set[str]) -> dict[str, Tensor]:
        found = fold(given, names)
        model[-1].bias.data += 0.1
        return found

    monkeypatch.setattr(dead_channels, "fold_constants", wrong)
    with pytest.raises(StageError, match=r"outputs differ by 0\.\d+ at a scale of .* once dead channels are folded"):
        fold_dead_channels(captured, sparse_layers(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("at", [0, 1])
def test_an_empty_row_or_column_is_seen_in_each_group(at: int) -> None:
    """Of a grouped convolution [6, 2, 1, 1] in two groups: input 1 of the second group, and output 4."""
    model = nn.Sequential(nn.Conv2d(4, 6, 1, groups=2))
    assert not any_empty(model, sparse_layers(model))
    with torch.no_grad():
        model[0].weight[(4, slice(None)) if at == 0 else (slice(3, 6), 1)] = 0
    assert any_empty(model, sparse_layers(model))
