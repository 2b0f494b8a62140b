"""Feature maps: the values in which a group's channels can be seen are really those channels, and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph, record_values
from pipeline.compress.pruning.surgery import plan_for
from tests.unit.compress.pruning.networks import Net, conv, disturbed, zeroed

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGES = (2, 3, 6, 6)


def residual(m: Net, x: Tensor) -> Tensor:
    """Add two branches before the activation."""
    stem = m.stem(x)
    return m.head((m.bn(m.b(m.a(stem).relu())) + stem).relu())


def heads(m: Net, x: Tensor) -> Tensor:
    """Attend with two heads of four."""
    query, key, value = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (m.q, m.k, m.v))
    return m.proj(F.scaled_dot_product_attention(query, key, value, scale=0.5).transpose(1, 2).flatten(2))


#: Network, shape of its input, and for each group the layers that are seen and the positions of class 1 in them.
NETS: dict[str, tuple[Callable[[], Net], tuple[int, ...], dict[str, dict[str, list[int]]]]] = {
    "norm and activation": (
        lambda: Net(lambda m, x: m.b(m.n(m.a(x)).relu()), a=conv(3, 6), n=nn.BatchNorm2d(6), b=conv(6, 2)),
        IMAGES,
        {"a": {"a": [1]}},
    ),
    "residual": (
        lambda: Net(residual, stem=conv(3, 6), a=conv(6, 4), b=conv(4, 6), bn=nn.BatchNorm2d(6), head=conv(6, 2)),
        IMAGES,
        {"stem": {"stem": [1], "b": [1]}, "a": {"a": [1]}},
    ),
    "depthwise with multiplier": (
        lambda: Net(lambda m, x: m.c(m.b(m.a(x)).relu()), a=conv(3, 4), b=conv(4, 8, groups=4), c=conv(8, 2)),
        IMAGES,
        {"a": {"a": [1], "b": [2, 3]}},
    ),
    "pixel shuffle": (
        lambda: Net(lambda m, x: m.b(F.pixel_shuffle(m.a(x), 2)), a=conv(3, 16), b=conv(4, 2)),
        IMAGES,
        {"a": {"a": [4, 5, 6, 7]}},
    ),
    "chunks": (
        lambda: Net(lambda m, x: m.b(torch.mul(*m.a(x).chunk(2, 1))), a=conv(3, 8), b=conv(4, 2)),
        IMAGES,
        {"a": {"a": [1, 5]}},
    ),
    "tokens": (
        lambda: Net(
            lambda m, x: m.b(m.a(x.flatten(2).transpose(1, 2)).relu()).mean(1), a=nn.Linear(3, 6), b=nn.Linear(6, 2)
        ),
        IMAGES,
        {"a": {"a": [1]}},
    ),
    "attention": (
        lambda: Net(heads, q=nn.Linear(5, 8), k=nn.Linear(5, 8), v=nn.Linear(5, 8), proj=nn.Linear(8, 2)),
        (2, 3, 5),
        {"q": {"q": [1, 5], "k": [1, 5]}, "v": {"v": [1, 5]}},
    ),
    "a tensor in another order": (
        lambda: Net(lambda m, x: m.b(m.a(x).relu().permute(0, 2, 3, 1)), a=conv(3, 6), b=nn.Linear(6, 2)),
        IMAGES,
        {"a": {"a": [1]}},
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_maps_show_the_channels_of_their_group(name: str) -> None:
    """With zeros in all that a class owns, its positions of the map are zero and every other channel is not."""
    torch.manual_seed(0)
    build, shape, seen = NETS[name]
    example = (torch.randn(shape, dtype=torch.float64),)
    net = disturbed(build().eval())
    captured = capture_graph(net, example)
    graph = trace_channels(captured)
    found = {group.name: {each.layer: each for each in group.maps} for group in graph.groups}
    assert {
        group: {layer: each.positions[1].tolist() for layer, each in maps.items()} for group, maps in found.items()
    } == seen
    for group in graph.groups:
        kept = [index for index in range(group.width) if index != 1]
        silent = capture_graph(zeroed(net, plan_for(graph, {group.name: kept})), example)
        before = record_values(captured, [each.node for each in group.maps], example)
        after = record_values(silent, [each.node for each in group.maps], example)
        for each in group.maps:
            value = after[each.node].movedim(each.dim, 0)
            others = each.positions[kept].ravel()
            assert value.shape == before[each.node].movedim(each.dim, 0).shape
            assert each.positions.size == len(value)
            assert not value[each.positions[1]].any()
            assert all(row.any() for row in value[others])


def test_what_is_seen_is_after_norm_sum_and_activation() -> None:
    """The map of a residual stage is the activated sum, that of a layer inside is behind its own activation."""
    net = NETS["residual"][0]().eval()
    captured = capture_graph(net, (torch.randn(IMAGES),))
    stem, inner = trace_channels(captured).groups
    x = torch.randn(IMAGES)
    values = record_values(captured, [each.node for group in (stem, inner) for each in group.maps], (x,))
    hidden = net.stem(x)
    total = (net.bn(net.b(net.a(hidden).relu())) + hidden).relu()
    assert torch.allclose(values[stem.maps[-1].node], total, atol=1e-6)
    assert torch.allclose(values[inner.maps[0].node], net.a(hidden).relu(), atol=1e-6)


def test_a_group_without_a_layer_has_no_map() -> None:
    """The features of a table are seen in no layer's output."""
    net = Net(lambda m, x: m.fc(m.table(x)), table=nn.Embedding(5, 4), fc=nn.Linear(4, 2))
    (group,) = trace_channels(capture_graph(net, (torch.randint(5, (2, 3)),))).groups
    assert (group.name, group.maps) == ("table", ())
