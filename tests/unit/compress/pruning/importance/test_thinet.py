"""ThiNet: sampled outputs of the consuming layers, the greedy order, and the scales of what stays."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.compress.pruning.importance.reconstruction import consumer_products, factors, rescale_consumers
from pipeline.compress.pruning.importance.thinet import thinet
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable


def identity(net: nn.Sequential, channels: int) -> nn.Sequential:
    """Make the first layer, a convolution of 1x1, pass its input on."""
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(channels).view(channels, channels, 1, 1))
    return net


def contributions_net() -> nn.Sequential:
    """Return y = 1 a + 2 b + 4 c of one pixel with three channels a, b, c, plus a bias."""
    net = identity(nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Flatten(), nn.Linear(3, 1)), 3)
    with torch.no_grad():
        net[2].weight.copy_(torch.tensor([[1.0, 2.0, 4.0]]))
    return net


#: Contributions (a, 2 b, 4 c) to be: rows (1, 2, 4), (1, -2, 8).
INPUTS = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 2.0]]).view(2, 3, 1, 1)
PRODUCT = torch.tensor([[2.0, 0.0, 12.0], [0.0, 8.0, -8.0], [12.0, -8.0, 80.0]], dtype=torch.float64)


def test_products_of_the_only_output(traced: Callable[..., tuple]) -> None:
    """With one output all samples are of it; without the bias y = 7 for both rows, so y^2 sums to 98."""
    found = consumer_products(*traced(contributions_net(), 3, 1, 1), [(INPUTS, torch.zeros(2))], points=3)
    assert torch.allclose(found["0"]["2.weight"], PRODUCT / 98, atol=1e-7)


def test_errors_are_relative_to_the_whole_output(traced: Callable[..., tuple]) -> None:
    """A layer on two concatenated groups: y = (1 + 2) + (3 + 4), of which the first group's products are 1, 2, 2, 4."""

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(1, 2, 1, bias=False)
            self.out = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.cat([self.left(x), self.right(x)], 1).flatten(1))

    net = Joined()
    with torch.no_grad():
        net.left.weight.fill_(1)
        net.right.weight.fill_(1)
        net.out.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    found = consumer_products(*traced(net, 1, 1, 1), [(torch.ones(2, 1, 1, 1), torch.zeros(2))], points=1)
    assert found["left"]["out.weight"].flatten().tolist() == pytest.approx([0.01, 0.02, 0.02, 0.04])
    assert found["right"]["out.weight"].flatten().tolist() == pytest.approx([0.09, 0.12, 0.12, 0.16])


def test_greedy_order_by_hand() -> None:
    """First a (error 2), then b: 2 + 8 = 10 against 2 + 80 + 24 for c; at last all, 98."""
    scores = thinet({"g": {"w": PRODUCT / 98}})["g"]
    assert scores.tolist() == pytest.approx([2 / 98, 10 / 98, 1])


def test_scores_keep_the_order_of_leaving_where_the_error_falls() -> None:
    """Channels 0 and 1 cancel: after 0 (error 4) leaving 1 as well brings the error to 0, but 1 left later."""
    product = torch.tensor([[4.0, -4.0, 0.0], [-4.0, 4.0, 0.0], [0.0, 0.0, 9.0]], dtype=torch.float64)
    first, second, third = thinet({"g": {"w": product}})["g"].tolist()
    assert first == 4
    assert 4 < second < 4.001
    assert third == 9


def test_greedy_order_equals_brute_force() -> None:
    """On random contributions of three channels, each step takes the subset of least error that has the last one."""
    rows = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def error(left: tuple[int, ...]) -> float:
        return float(rows[:, list(left)].sum(1).square().sum())

    order = min(permutations(range(3)), key=lambda order: [error(order[:1]), error(order[:2]), error(order)])
    assert tuple(thinet({"g": {"w": rows.T @ rows}})["g"].argsort().tolist()) == order


def test_consumers_add_relative_errors() -> None:
    """A layer whose outputs are a hundred times larger counts the same."""
    first, second = torch.diag(torch.tensor([0.2, 0.8])), torch.diag(torch.tensor([0.7, 0.3]))
    scores = thinet({"g": {"a": first.double(), "b": second.double()}})["g"]
    assert scores.tolist() == pytest.approx([0.9, 2])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 3, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, 3, padding="same", dilation=2),
        nn.ConvTranspose2d(4, 3, 2, stride=2),
        nn.Conv2d(4, 1, 3),
    ],
)
def test_contributions_equal_the_layer_on_one_channel(traced: Callable[..., tuple], layer: nn.Module) -> None:
    """The products are those of the layer's outputs, without bias, for each channel alone, at the same places."""
    net = identity(nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 4)
    images = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    captured, graph = traced(net, 4, 6, 6)
    found = consumer_products(captured, graph, [(images, torch.zeros(3))], points=7, seed=5)["0"]["1.weight"]
    bias = layer.bias.detach().view(1, -1, 1, 1)
    parts = torch.stack([(layer(images * (torch.arange(4) == c).view(1, 4, 1, 1)) - bias).flatten(1) for c in range(4)])
    places = (torch.rand(7, 3, generator=torch.Generator().manual_seed(5)) * parts.shape[2]).long()
    rows = parts[:, torch.arange(3), places].flatten(1).T.detach().double()
    expected = rows.T @ rows
    assert torch.allclose(found, expected / expected.sum(), atol=1e-5)


def test_grouped_convolutions_take_the_same_channel_of_every_group(traced: Callable[..., tuple]) -> None:
    """Two groups of four inputs: class c owns channels c and c + 4."""
    layer = nn.Conv2d(8, 2, 1, groups=2, bias=False)
    net = identity(nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), layer, nn.Flatten()), 8)
    captured, graph = traced(net, 8, 1, 1)
    images = torch.randn(4, 8, 1, 1, generator=torch.Generator().manual_seed(0))
    found = consumer_products(captured, graph, [(images, torch.zeros(4))], points=6, seed=2)["0"]["1.weight"]
    places = (torch.rand(6, 4, generator=torch.Generator().manual_seed(2)) * 2).long()
    weights = layer.weight.detach().view(2, 4)
    parts = images.view(4, 2, 4) * weights
    rows = parts[torch.arange(4), places].flatten(0, 1).double()
    expected = rows.T @ rows
    assert found.shape == (4, 4)
    assert torch.allclose(found, expected / expected.sum(), atol=1e-6)


def test_factors_are_least_squares() -> None:
    """Against the least squares solution on the contributions themselves."""
    rows = torch.randn(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kept = [0, 2, 3]
    expected = torch.linalg.lstsq(rows[:, kept], rows.sum(1, keepdim=True)).solution[:, 0]
    assert torch.allclose(factors(rows.T @ rows, kept), expected)


def test_dead_channels_keep_their_scale() -> None:
    """Contributions 2 h, 3 h and 0: the first takes over 5/2, the dead one stays as it is."""
    contribution = torch.tensor([2.0, 3.0, 0.0], dtype=torch.float64)
    assert factors(torch.outer(contribution, contribution), [0, 2]).tolist() == pytest.approx([2.5, 1])


def test_equal_channels_share_what_is_lost() -> None:
    """Rounding of single precision between two equal channels is no direction to fit: both take over one half."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(100, 1, generator=generator).repeat(1, 3)
    rows[:, 1] *= 1 + 1e-7 * torch.randn(100, generator=generator)
    product = (rows.T @ rows).double()
    assert factors(product, [0, 1]).tolist() == pytest.approx([1.5, 1.5], abs=1e-4)


def test_rescaling_restores_the_output(traced: Callable[..., tuple]) -> None:
    """Channels 0 and 1 have equal maps: without channel 1 the rescaled network gives the same as before."""
    net = nn.Sequential(
        nn.Conv2d(2, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 2, 2, bias=False), nn.Flatten(), nn.Linear(8, 2)
    )
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).view(3, 2, 1, 1))
        net[2].weight[:, 1] = 2 * net[2].weight[:, 0]
    captured, graph = traced(net, 2, 3, 3)
    images = torch.rand(16, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    products = consumer_products(captured, graph, [(images, torch.zeros(16))])
    before = net[:3](images).detach()
    rescale_consumers(graph, dict(net.named_parameters()), products, {"0": (0, 2), "2": (0, 1)})
    without = torch.relu(F.conv2d(images, net[0].weight)) * torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1, 1)
    assert torch.allclose(net[2](without), before, atol=1e-4)


def test_products_of_activations_are_refused(traced: Callable[..., tuple]) -> None:
    """Queries and keys are consumed by their product, not by a layer."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2)
            weights = (self.q(tokens) @ self.k(tokens).transpose(1, 2)).softmax(-1)
            return self.out(weights @ self.v(tokens)).mean(1)

    captured, graph = traced(Attention(), 4, 2, 2)
    assert {group.name for group in graph.groups} == {"q", "v"}
    with pytest.raises(InputError, match=r"thinet needs convolutions or linear layers .* 1 of 2 groups of channels: q"):
        consumer_products(captured, graph, [(torch.ones(2, 4, 2, 2), torch.zeros(2))])
