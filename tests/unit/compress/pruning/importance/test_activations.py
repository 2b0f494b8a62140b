"""Criteria of activations, worked out on maps that are the network's input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.pruning.importance.apoz import apoz
from pipeline.compress.pruning.importance.chip import chip, independence
from pipeline.compress.pruning.importance.hrank import hrank
from pipeline.compress.pruning.importance.mean_activation import mean_activation

if TYPE_CHECKING:
    from collections.abc import Callable

#: Of rank 1, 4 and 0.
COLUMN = torch.outer(torch.ones(4), torch.tensor([1.0, 2.0, 3.0, 4.0]))
IMAGE = torch.stack([COLUMN, torch.eye(4), torch.zeros(4, 4)])
#: Of rank 2, 4 and 0.
OTHER = torch.stack([torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0])), torch.eye(4), torch.zeros(4, 4)])


def batches(*images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the images in one batch."""
    return [(torch.stack(images), torch.zeros(len(images)))]


def test_open_share_and_mean_activation(traced: Callable[..., tuple], maps_net: nn.Sequential) -> None:
    """All, 4 of 16 and none of the pixels are positive, and sum to 40, 4 and 0; minus the image is closed."""
    captured, graph = traced(maps_net, 3, 4, 4)
    assert apoz(captured, graph, batches(IMAGE))["0"].tolist() == [1, 0.25, 0]
    assert mean_activation(captured, graph, batches(IMAGE))["0"].tolist() == [2.5, 0.25, 0]
    assert apoz(captured, graph, [*batches(IMAGE), *batches(-IMAGE)])["0"].tolist() == [0.5, 0.125, 0]


def test_mean_rank_over_images_and_batches(traced: Callable[..., tuple], maps_net: nn.Sequential) -> None:
    """Ranks 1, 1, 2 of channel 0 have the mean 4/3."""
    found = hrank(*traced(maps_net, 3, 4, 4), [*batches(IMAGE, IMAGE), *batches(OTHER)])
    assert found.mean_rank["0"].tolist() == pytest.approx([4 / 3, 4, 0])
    assert found.tie_share == {"0": 0}
    assert found.scores["0"].argsort().tolist() == [2, 0, 1]


def test_equal_ranks_are_decided_by_the_filters_norm(traced: Callable[..., tuple], maps_net: nn.Sequential) -> None:
    """Two channels of rank 4: the one of the larger filter scores higher, but below any higher mean rank."""
    with torch.no_grad():
        maps_net[0].weight.copy_(torch.diag(torch.tensor([1.0, 2.0, 3.0])).view(3, 3, 1, 1))
    image = torch.stack([torch.eye(4), torch.eye(4), COLUMN])
    found = hrank(*traced(maps_net, 3, 4, 4), batches(image, image))
    assert found.mean_rank["0"].tolist() == [4, 4, 1]
    assert found.tie_share["0"] == pytest.approx(2 / 3)
    first, second, third = found.scores["0"].tolist()
    assert 1 < third < 1.5
    assert 4 < first < second < 4.5


def test_ranks_follow_the_definition(traced: Callable[..., tuple]) -> None:
    """Against singular values above max(h, w) * eps * the largest, one map at a time, on maps that are not square."""
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 6 * 3, 2))
    images = torch.randn(5, 1, 8, 5, generator=torch.Generator().manual_seed(0))
    images[0] = torch.outer(torch.arange(8.0), torch.ones(5))
    found = hrank(*traced(net, 1, 8, 5), [(images, torch.zeros(5))])
    maps = net[:2](images).detach()
    ranks = torch.zeros(5, 6)
    for n, c in torch.cartesian_prod(torch.arange(5), torch.arange(6)).tolist():
        values = torch.linalg.svdvals(maps[n, c])
        ranks[n, c] = (values > 6 * torch.finfo(torch.float32).eps * values[0]).sum()
    assert len(ranks.unique()) > 2
    assert found.mean_rank["0"].tolist() == pytest.approx(ranks.mean(0).tolist())


def test_maps_of_one_pixel_have_rank_one_or_zero(traced: Callable[..., tuple]) -> None:
    """Behind a linear layer the rank says in what share of samples the channel is not dead."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(2))
    inputs = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-2.0, 3.0], [-1.0, -1.0]]).view(4, 1, 1, 2)
    assert hrank(*traced(net, 1, 1, 2), [(inputs, torch.zeros(4))]).mean_rank["1"].tolist() == [0.25, 0.75]


def nuclear(matrix: Tensor) -> float:
    """Return the sum of singular values."""
    return float(torch.linalg.svdvals(matrix).sum())


def without_each(rows: Tensor) -> list[float]:
    """Return the fall of the nuclear norm by its definition, with one SVD for each class."""
    expected = []
    for channel in range(len(rows)):
        zeroed = rows.clone()
        zeroed[channel] = 0
        expected.append(nuclear(rows.flatten(0, 1)) - nuclear(zeroed.flatten(0, 1)))
    return expected


@pytest.mark.parametrize(("width", "k", "pixels"), [(5, 1, 12), (9, 1, 4), (6, 1, 6), (3, 2, 10), (4, 2, 3), (4, 1, 1)])
def test_independence_equals_one_svd_for_each_channel(width: int, k: int, pixels: int) -> None:
    """More pixels than rows and fewer, one or two rows for each class."""
    rows = torch.randn(width, k, pixels, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert independence(rows).tolist() == pytest.approx(without_each(rows), abs=1e-7)
    assert (independence(1000 * rows) / 1000).tolist() == pytest.approx(without_each(rows), abs=1e-7)


@pytest.mark.parametrize("pixels", [3, 20])
def test_independence_of_dependent_rows(pixels: int) -> None:
    """Rows that are zero, equal, tiny, and combinations of others."""
    rows = torch.randn(6, 1, pixels, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    rows[0], rows[2], rows[3], rows[4] = 0, rows[1], 1e-6 * rows[1], rows[1] + rows[5]
    assert independence(rows).tolist() == pytest.approx(without_each(rows), abs=1e-6)
    assert independence(torch.zeros(3, 1, pixels)).tolist() == [0, 0, 0]


def test_chip_of_orthogonal_and_equal_channels(traced: Callable[..., tuple], maps_net: nn.Sequential) -> None:
    """Rows 2 e1, e2, e2: orthogonal to all others a channel is worth its norm, one of two equal ones sqrt(2) - 1.

    A second image without channel 1 and 2 halves the mean of those.
    """
    first = torch.zeros(3, 16)
    first[0, 0], first[1, 1], first[2, 1] = 2, 1, 1
    second = torch.zeros(3, 16)
    second[0, 0] = 2
    found = chip(*traced(maps_net, 3, 4, 4), batches(first.view(3, 4, 4), second.view(3, 4, 4)))["0"]
    assert found.tolist() == pytest.approx([2, (2**0.5 - 1) / 2, (2**0.5 - 1) / 2], abs=1e-6)
