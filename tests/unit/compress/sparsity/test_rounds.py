"""Rounds of cutting and training: the scan, thresholds by layer, the penalty, and dropout that shrinks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.sparsity.allocation import SparsityAim, chosen_masks
from pipeline.compress.sparsity.layers import sparse_layers
from pipeline.compress.sparsity.rounds import (
    QUALITIES,
    L1Penalty,
    live_deviation,
    quality_scores,
    rescale_dropout,
    round_density,
    scan_qualities,
)


def network() -> nn.Sequential:
    """Return three layers whose weights are 1 to 16, each next one ten times as large, with dropout before two."""
    layers = [
        nn.Linear(4, 4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4, 4),
        nn.Dropout(0.4),
        nn.Dropout(0.2),
        nn.Linear(4, 4),
    ]
    model = nn.Sequential(*layers, nn.Dropout(0.3))
    with torch.no_grad():
        for power, each in enumerate(sparse_layers(model)):
            each.weight.copy_(10.0**power * torch.arange(1, 17).reshape(4, 4))
    return model


def ones(model: nn.Module) -> dict[str, Tensor]:
    """Return masks that keep everything."""
    return {each.name: torch.ones_like(each.weight, dtype=torch.bool) for each in sparse_layers(model)}


def test_the_deviation_is_that_of_live_weights() -> None:
    """Over the population; of what a mask keeps."""
    weight = torch.tensor([1.0, 3.0, 100.0])
    assert live_deviation(weight, torch.tensor([True, True, False])) == 1
    assert live_deviation(weight, torch.tensor([False] * 3)) == 0


def test_a_scan_finds_what_each_layer_bears() -> None:
    """The first may lose four weights, the second none, the third all: the score says so. Weights are put back."""
    model = network()
    layers = sparse_layers(model)
    before = [each.weight.detach().clone() for each in layers]
    bears = (4, 0, 16)

    def score() -> float:
        lost = [int((each.weight == 0).sum()) for each in layers]
        assert sum(count > 0 for count in lost) <= 1  # one layer at a time
        return 0.8 if all(count <= most for count, most in zip(lost, bears, strict=True)) else 0.7

    found = scan_qualities(layers, ones(model), score, 0.1)
    assert all(torch.equal(each.weight, weight) for each, weight in zip(layers, before, strict=True))
    deviation = float(torch.arange(1.0, 17).std(correction=0))
    largest = max(quality for quality in QUALITIES if math.ceil(quality * deviation) - 1 <= 4)
    assert list(found.values()) == [largest, 0.125, QUALITIES[-1]]
    generous = scan_qualities(layers, ones(model), score, 0.13)  # 0.7 is 12.5 % less
    assert list(generous.values()) == [QUALITIES[-1]] * 3


def test_one_ranking_cuts_each_layer_at_its_own_threshold() -> None:
    """What stays are weights above quality times deviation times one number, and the largest of each layer."""
    model = network()
    layers, masks = sparse_layers(model), ones(model)
    qualities = dict(zip(masks, (1.0, 2.0, 0.5), strict=True))
    found = chosen_masks(quality_scores(layers, masks, qualities), layers, SparsityAim(0.5, "global"))
    deviation = float(torch.arange(1.0, 17).std(correction=0))
    ranked = sorted(value / (quality * deviation) for quality in qualities.values() for value in range(1, 17))
    threshold = ranked[24]
    for power, (each, quality) in enumerate(zip(layers, qualities.values(), strict=True)):
        expected = each.weight >= threshold * quality * deviation * 10.0**power * (1 - 1e-6)
        assert int((found[each.name] ^ expected).sum()) <= 1  # two weights with one score
    few = chosen_masks(
        quality_scores(layers, masks, {**qualities, layers[1].name: 100.0}), layers, SparsityAim(0.1, "global")
    )
    assert few[layers[1].name].nonzero().tolist() == [[3, 3]]
    masks[layers[0].name][3, 3] = False
    assert not bool(
        chosen_masks(quality_scores(layers, masks, qualities), layers, SparsityAim(0.5, "global"))[layers[0].name][3, 3]
    )


def test_densities_fall_by_the_same_fraction() -> None:
    """To the last one exactly."""
    assert [round_density(0.8, 0.1, number, 3) for number in (1, 2, 3)] == pytest.approx([0.4, 0.2, 0.1])


def test_the_penalty_adds_the_sign() -> None:
    """Of these parameters alone."""
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1))
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.tensor([[-3.0, 0.0]]))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    L1Penalty(["0.weight"], 0.25).add_gradients(model, 0)
    assert model.get_parameter("0.weight").grad.tolist() == [[0.75, 1.0]]  # type: ignore[union-attr]
    assert model.get_parameter("1.weight").grad.tolist() == [[1.0]]  # type: ignore[union-attr]


def test_dropout_shrinks_with_the_layer_that_it_feeds() -> None:
    """Rates times the square root of a density; the last feeds nothing and keeps its own. Modes are restored."""
    model = network().train()
    layers = sparse_layers(model)
    densities = dict(zip((each.name for each in layers), (0.01, 0.25, 0.04), strict=True))
    found = rescale_dropout(model, (torch.zeros(1, 4),), densities, layers)
    assert found == pytest.approx({"2": 0.5 * 0.5, "4": 0.4 * 0.2, "5": 0.2 * 0.2})
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == pytest.approx(
        [0.25, 0.08, 0.04, 0.3]
    )
    assert model.training
