"""Criteria of weights alone, worked out by hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.pruning.graph import ChannelGraph, Group, Member
from pipeline.compress.pruning.importance.bn_scale import bn_scale
from pipeline.compress.pruning.importance.fpgm import fpgm
from pipeline.compress.pruning.importance.group_l2 import group_l2
from pipeline.compress.pruning.importance.l1 import l1
from pipeline.compress.pruning.importance.l2 import l2
from pipeline.compress.pruning.importance.random import random
from pipeline.compress.pruning.importance.slices import summed
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable


def member(tensor: str, dim: int, positions: list[list[int]], *, consumes: bool = False) -> Member:
    """Return a member with these positions [width, k]."""
    return Member(tensor, dim, np.array(positions), consumes)


def graph_of(*members: Member) -> ChannelGraph:
    """Return a graph of one group, named g."""
    group = Group("g", len(members[0].positions), members)
    return ChannelGraph((group,), (), {}, {})


#: Two filters (3, -4) and (0, 1), their norm's scale, and a consumer that reads two positions of each.
GRAPH = graph_of(
    member("conv.weight", 0, [[0], [1]]),
    member("bn.weight", 0, [[0], [1]]),
    member("fc.weight", 1, [[0, 1], [2, 3]], consumes=True),
)
TENSORS = {
    "conv.weight": torch.tensor([[3.0, -4.0], [0.0, 1.0]]),
    "bn.weight": torch.tensor([2.0, -3.0]),
    "fc.weight": torch.tensor([[1.0, -1.0, 2.0, 0.0]]),
}


def test_filter_norms_read_the_producing_layer_alone() -> None:
    """|3| + |-4| = 7 and its root of squares 5; norms and consumers do not count."""
    assert l1(GRAPH, TENSORS)["g"].tolist() == [7, 1]
    assert l2(GRAPH, TENSORS)["g"].tolist() == [5, 1]
    assert l1(GRAPH, TENSORS)["g"].dtype == torch.float64


def test_group_norm_counts_everything_that_leaves() -> None:
    """9 + 16 + 4 + 1 + 1 and 0 + 1 + 9 + 4 + 0."""
    assert group_l2(GRAPH, TENSORS)["g"].tolist() == [31, 14]


def test_filters_of_several_layers_add_up() -> None:
    """A second layer of filters (1) and (-2) adds 1 and 2 to both norms; distances between filters add as well."""
    graph = graph_of(*GRAPH.groups[0].members, member("other.weight", 0, [[0], [1]]))
    tensors = {**TENSORS, "other.weight": torch.tensor([[1.0], [-2.0]])}
    assert l1(graph, tensors)["g"].tolist() == [8, 3]
    assert l2(graph, tensors)["g"].tolist() == [6, 3]
    distance = math.hypot(3, 5) + 3
    assert fpgm(graph, tensors)["g"].tolist() == pytest.approx([distance, distance])


def test_filters_of_one_class_are_joined() -> None:
    """A class that owns rows 0 and 2 has the filter (3, 4) of norm 5, not two of norms 3 and 4."""
    graph = graph_of(member("w", 0, [[0, 2], [1, 3]]))
    tensors = {"w": torch.tensor([[3.0], [0.0], [4.0], [2.0]])}
    assert l2(graph, tensors)["g"].tolist() == [5, 2]
    assert fpgm(graph, tensors)["g"].tolist() == pytest.approx([math.hypot(3, 2)] * 2)


def test_geometric_median_scores_the_middle_lowest() -> None:
    """Filters at 0, 1 and 5 on a line have distances of 1 + 5, 1 + 4 and 5 + 4."""
    graph = graph_of(member("w", 0, [[0], [1], [2]]))
    assert fpgm(graph, {"w": torch.tensor([[0.0], [1.0], [5.0]])})["g"].tolist() == [6, 5, 9]


def test_row_and_column_of_one_class_share_an_entry() -> None:
    """From a stream to itself, class 0 owns 1, 2 and 4 of [[1, 2], [4, 8]], class 1 owns 2, 4 and 8."""
    graph = graph_of(member("w", 0, [[0], [1]]), member("w", 1, [[0], [1]], consumes=True))
    found = summed(graph, {"w": torch.tensor([[1.0, 2.0], [4.0, 8.0]])}, lambda tensor: tensor)
    assert found["g"].tolist() == [7, 14]


def test_union_of_slices_equals_a_mask() -> None:
    """Three dimensions with two positions for each class, against a mask of what the class owns."""
    positions = [[0, 3], [1, 2]]
    graph = graph_of(*(member("w", dim, positions) for dim in range(3)))
    values = torch.rand(4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for own, score in zip(positions, summed(graph, {"w": values}, lambda tensor: tensor)["g"].tolist(), strict=True):
        mask = torch.zeros(4, 4, 4, dtype=torch.bool)
        mask[own], mask[:, own], mask[:, :, own] = True, True, True
        assert score == pytest.approx(float(values[mask].sum()))


def test_a_shared_tensor_counts_once(traced: Callable[..., tuple]) -> None:
    """Two layers with one weight score as that one weight, rows and columns."""
    net = nn.Sequential(nn.Linear(9, 4, bias=False), *(nn.Linear(4, 4, bias=False) for _ in range(2)), nn.Linear(4, 2))
    net[2].weight = net[1].weight
    captured, graph = traced(nn.Sequential(nn.Flatten(), net), 1, 3, 3)
    rows, shared, columns = (net[index].weight.detach().double().square() for index in (0, 1, 3))
    expected = rows.sum(1) + shared.sum(0) + shared.sum(1) - shared.diagonal() + columns.sum(0)
    assert torch.allclose(group_l2(graph, dict(captured.module.named_parameters()))["1.0"], expected)


def test_norm_scale_is_the_mean_of_coupled_norms(traced: Callable[..., tuple]) -> None:
    """Two batch norms on one stream: (|2| + |-4|) / 2 and (|-1| + |0|) / 2. A PReLU's slope is no scale."""
    net = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.PReLU(2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)
    )
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([2.0, -1.0]))
        net[3].weight.copy_(torch.tensor([-4.0, 0.0]))
    assert bn_scale(*traced(net, 1, 2, 2))["0"].tolist() == [3, 0.5]


def test_norm_scale_names_groups_without_one(traced: Callable[..., tuple]) -> None:
    """A group with no norm cannot be compared, so nothing is scored."""
    net = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 2)
    )
    with pytest.raises(InputError, match=r"found none for 1 of 2 groups of channels: 3\. Name them in `keep`"):
        bn_scale(*traced(net, 1, 2, 2))


@pytest.mark.parametrize("criterion", [l1, l2, fpgm])
def test_filter_criteria_name_groups_without_filters(
    criterion: Callable[[ChannelGraph, dict[str, Tensor]], dict[str, Tensor]],
) -> None:
    """A group of a scale and a consumer alone has no filter."""
    with pytest.raises(InputError, match=f"{criterion.__name__} needs weights of the layers.*: g"):
        criterion(graph_of(*GRAPH.groups[0].members[1:]), TENSORS)


def test_random_scores_follow_the_seed() -> None:
    """The same seed gives the same scores, another seed others."""
    assert torch.equal(random(GRAPH, 1)["g"], random(GRAPH, 1)["g"])
    assert not torch.equal(random(GRAPH, 1)["g"], random(GRAPH, 2)["g"])
    assert random(GRAPH, 1)["g"].shape == (2,)
