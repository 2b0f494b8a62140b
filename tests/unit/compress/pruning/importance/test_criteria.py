"""What all criteria of the table have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.pruning.importance.criteria import CRITERIA, score_channels
from pipeline.compress.pruning.importance.names import CriterionName
from pipeline.compress.pruning.importance.request import ScoreRequest
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES = get_args(CriterionName)
DETERMINISTIC = [name for name in NAMES if name != "random"]


def network() -> nn.Sequential:
    """Return a convolution of four channels with its norm, one of three with its norm, and a classifier."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5)),
    )
    with torch.no_grad():
        for norm in (net[1], net[4]):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
    return net


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Yield three batches, the last one smaller."""
    generator = torch.Generator().manual_seed(1)
    for size in (4, 4, 2):
        yield torch.randn(size, 2, 6, 6, generator=generator), torch.arange(size)


def request(traced: Callable[..., tuple], net: nn.Module) -> ScoreRequest:
    """Return everything that any criterion needs."""
    return ScoreRequest(*traced(net, 2, 6, 6), batches, nn.functional.cross_entropy, seed=3)


def test_the_table_has_a_row_for_each_name() -> None:
    """A configuration can name what can be run, and nothing else."""
    assert set(CRITERIA) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_finite_and_not_negative(traced: Callable[..., tuple], name: CriterionName) -> None:
    """One float64 number for each channel of each group, the same on a second run."""
    wanted = request(traced, network())
    found = score_channels(name, wanted)
    assert {group: len(scores) for group, scores in found.scores.items()} == {"0": 4, "3": 3}
    for group, scores in found.scores.items():
        assert scores.dtype == torch.float64
        assert not scores.requires_grad
        assert bool((torch.isfinite(scores) & (scores >= 0)).all())
        assert torch.equal(scores, score_channels(name, wanted).scores[group])
    reads = CRITERIA[name].needs in {"data", "gradients"}
    assert found.details.get("samples") == (10 if reads else None)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_scores_move_with_their_channels(traced: Callable[..., tuple], name: CriterionName) -> None:
    """The same network with its hidden channels in another order has the same scores in that order."""
    net, order = network(), torch.tensor([2, 0, 3, 1])
    wanted = request(traced, net)
    before = score_channels(name, wanted).scores
    with torch.no_grad():
        for tensor in (net[0].weight, net[0].bias, net[1].weight, net[1].bias):
            tensor.copy_(tensor[order])
        net[3].weight.copy_(net[3].weight[:, order])
    after = score_channels(name, wanted).scores
    assert torch.allclose(after["0"], before["0"][order], rtol=1e-3)
    assert torch.allclose(after["3"], before["3"], rtol=1e-3)
    assert len(before["0"].unique()) == 4


@pytest.mark.parametrize("name", [name for name in NAMES if CRITERIA[name].needs in {"data", "gradients"}])
def test_dead_channels_matter_least(traced: Callable[..., tuple], name: CriterionName) -> None:
    """A channel that is zero on every image has the lowest score of its group: nothing but 0."""
    net = network()
    with torch.no_grad():
        net[1].weight[2], net[1].bias[2] = 0, 0
        net[3].weight[:, 2] = 0
        net[0].weight[2], net[0].bias[2] = 0, 0
    scores = score_channels(name, request(traced, net)).scores["0"]
    assert int(scores.argmin()) == 2
    assert float(scores[2]) == pytest.approx(0, abs=1e-6)
    assert float(scores.sort().values[1]) > 1e-6


def test_missing_data_and_loss_are_named(traced: Callable[..., tuple]) -> None:
    """A criterion that needs them says so; one of weights does not ask."""
    captured, graph = traced(network(), 2, 6, 6)
    with pytest.raises(InputError, match="at least one batch"):
        score_channels("hrank", ScoreRequest(captured, graph))
    with pytest.raises(InputError, match="at least one batch"):
        score_channels("apoz", ScoreRequest(captured, graph, lambda: iter(())))
    with pytest.raises(InputError, match="needs a loss"):
        score_channels("taylor", ScoreRequest(captured, graph, batches))
    assert score_channels("l1", ScoreRequest(captured, graph)).details == {}


def test_thinet_hands_over_its_products(traced: Callable[..., tuple]) -> None:
    """They are what rescaling the kept channels needs."""
    products = score_channels("thinet", request(traced, network())).products
    assert products is not None
    assert products["0"]["3.weight"].shape == (4, 4)


def test_networks_with_a_fixed_batch_are_scored(traced: Callable[..., tuple]) -> None:
    """Where the network fixes the batch, batches of that size give the same scores as where it does not."""
    captured, graph = traced(network(), 2, 6, 6)
    free = ScoreRequest(captured, graph, pairs, nn.functional.cross_entropy)
    fixed = replace(free, captured=replace(captured, dynamic=False))
    for name in DETERMINISTIC:
        assert torch.allclose(
            score_channels(name, fixed).scores["0"], score_channels(name, free).scores["0"], rtol=1e-4
        )


def pairs() -> Iterator[tuple[Tensor, Tensor]]:
    """Yield two batches of two."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(2):
        yield torch.randn(2, 2, 6, 6, generator=generator), torch.arange(2)
