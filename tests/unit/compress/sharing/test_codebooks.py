"""Codebooks: few values, zeros of their own, found again in the weights, and integers that survive a quantizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.compress.sharing.codebooks import SharingRule, find_codebook, make_codebook
from pipeline.core.errors import InputError

GRIDS = {"int8": 127, "int7": 64}


def rule(clusters: int = 8, scope: Any = "layer", grid: Any = "float", outputs: int = 0) -> SharingRule:  # noqa: ANN401
    """Return a rule."""
    return SharingRule(clusters, scope, grid, "sum", outputs)


def weights(seed: int, zeros: float, shape: tuple[int, ...] = (6, 5, 3)) -> Tensor:
    """Return random weights, a share of them zero."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(shape, generator=generator)
    return found.masked_fill(torch.rand(shape, generator=generator) < zeros, 0)


def integers(weight: Tensor, levels: int, outputs: int = 0) -> Tensor:
    """Return what a quantizer makes of weights: symmetric, with the largest weight of each channel as its scale."""
    rows = weight.movedim(outputs, 0).flatten(1).double()
    scale = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / levels
    return torch.round(rows / scale).long()


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.5, 0.8]), st.sampled_from(["layer", "channel"]))
def test_few_values_and_zeros_stay_what_they_are(seed: int, zeros: float, scope: str) -> None:
    """In each codebook; no weight becomes zero, no zero another weight; the codebook is found again in the weights."""
    weight = weights(seed, zeros, (4, 30, 3))
    asked = rule(6, scope)
    book = make_codebook(weight, asked, "linear", seed)
    shared = book.weight()
    parts = [shared] if scope == "layer" else list(shared)
    assert max(each.unique().numel() for each in parts) <= 6
    assert torch.equal(shared == 0, weight == 0)
    again = find_codebook(shared, asked)
    assert torch.equal(again.weight(), shared)
    assert bool(again.fixed[again.values == 0].all())
    assert not bool(again.fixed[again.values != 0].any())


@settings(deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.6]),
    st.sampled_from(list(GRIDS)),
    st.sampled_from([0, 1]),
    st.sampled_from(["", "positive", "any"]),
)
def test_on_a_grid_the_quantizer_finds_the_codebook(
    seed: int, zeros: float, grid: str, outputs: int, folded: str
) -> None:
    """With a scale for each output channel, whatever a norm that is folded in multiplies each channel by, but signs."""
    weight = weights(seed, zeros)
    asked, levels = rule(9, "layer", grid, outputs), GRIDS[grid]
    book = make_codebook(weight, asked, "density", seed)
    shared = book.weight()
    wanted = (book.values * levels).round().long()
    if folded:
        factors = torch.randn(weight.shape[outputs], generator=torch.Generator().manual_seed(seed))
        factors = factors.abs() + 0.1 if folded == "positive" else factors
        shape = [-1 if dim == outputs else 1 for dim in range(weight.ndim)]
        shared = shared * factors.reshape(shape)
    found = integers(shared, levels, outputs)
    allowed = torch.cat([wanted, -wanted]) if folded == "any" else wanted
    assert set(found.unique().tolist()) <= set(allowed.tolist())
    assert found.abs().unique().numel() <= 9
    assert wanted.unique().numel() <= 9
    assert torch.equal(found == 0, integers(weight, 10**9, outputs) == 0) or zeros == 0
    again = find_codebook(book.weight(), asked)
    assert torch.allclose(again.weight(), book.weight(), rtol=1e-6)
    assert bool(again.fixed[again.values.abs() == 1].all())
    assert again.values.abs().max() == 1


def test_turned_channels_have_the_same_codebook() -> None:
    """Found again with a factor below zero for each channel that a norm has turned: as many values as before."""
    asked = rule(7, "layer", "int8")
    book = make_codebook(weights(3, 0.3, (9, 8, 2)), asked, "linear", 0)
    signs = torch.tensor([1.0, -1, 1, -1, -1, 1, 1, -1, 1])[:, None, None]
    turned = book.weight() * signs * 1.7
    found = find_codebook(turned, asked)
    assert found.values.numel() == book.values.numel()
    assert torch.allclose(found.weight(), turned, rtol=1e-5)


def test_values_that_round_to_zero_stay_beside_it() -> None:
    """A weight of 0.001 of its channel's largest is no zero: its integer is one."""
    weight = torch.tensor([[1.0, 0.5, 0.3, 0.001, -0.001, 0.0, 0.7, -0.4]])
    shared = make_codebook(weight, rule(7, "layer", "int8"), "linear", 0).weight()
    assert torch.equal(shared == 0, weight == 0)


def test_clusters_that_a_layer_cannot_have_are_refused() -> None:
    """More than weights, of a channel where each has its own; too few for a grid; weights that share nothing."""
    weight = weights(0, 0.0, (2, 4))
    with pytest.raises(InputError, match="found 9 clusters for 8 weights"):
        make_codebook(weight, rule(9), "linear", 0)
    with pytest.raises(InputError, match="found 5 clusters for 4 weights"):
        make_codebook(weight, rule(5, "channel"), "linear", 0)
    with pytest.raises(InputError, match="found 3 clusters, allowed with grid int8: 4 or more"):
        make_codebook(weight, rule(3, "layer", "int8"), "linear", 0)
    with pytest.raises(InputError, match="found 8 values, allowed: the 4 of its codebook"):
        find_codebook(weight, rule(4))


def test_few_weights_that_are_not_zero_keep_their_values() -> None:
    """Three of them for seven values."""
    weight = torch.zeros(4, 5)
    weight[0, :3] = torch.tensor([0.3, -0.2, 0.1])
    assert torch.equal(make_codebook(weight, rule(7), "linear", 0).weight(), weight)


def test_a_layer_of_zeros_and_one_of_equal_weights() -> None:
    """Nothing to choose: they stay."""
    for weight in (torch.zeros(3, 4), torch.full((3, 4), 0.5)):
        for grid in ("float", "int8"):
            assert torch.equal(make_codebook(weight, rule(4, "layer", grid), "kmeans++", 0).weight(), weight)
