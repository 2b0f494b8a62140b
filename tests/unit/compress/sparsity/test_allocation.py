"""Which weights stay: by layer, over all layers, by shape, in patterns; against numbers worked out by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.compress.sparsity.allocation import SparsityAim, chosen_masks, erk_densities, top_mask
from pipeline.compress.sparsity.layers import sparse_layers
from pipeline.compress.sparsity.patterns import Pattern, block_scores, n_of_m_mask, spread_blocks
from pipeline.compress.sparsity.scores import magnitude_scores, random_scores
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from pipeline.compress.sparsity.names import SparsityScope


class Small(nn.Module):
    """One of each kind of layer, a tied one, an embedding, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 4, 2)
        self.fc = nn.Linear(4, 8)
        self.tied = nn.Linear(4, 8)
        self.tied.weight = self.fc.weight
        self.words = nn.Embedding(10, 4)
        self.cell = nn.GRU(8, 4)
        self.attention = nn.MultiheadAttention(8, 2)


def network() -> Small:
    """Return it with the same weights each time."""
    torch.manual_seed(0)
    return Small()


def test_weights_of_layers_are_found_once() -> None:
    """Matrices of recurrent cells and attention count; embeddings, norms and biases do not."""
    layers = {each.name: each for each in sparse_layers(network())}
    recurrent = ["cell.weight_ih_l0", "cell.weight_hh_l0", "attention.in_proj_weight", "attention.out_proj.weight"]
    assert list(layers) == ["conv.weight", "up.weight", "fc.weight", *recurrent]
    assert (layers["up.weight"].outputs, layers["up.weight"].inputs) == (1, 0)
    assert layers["attention.in_proj_weight"].layer == "attention"
    kept = sparse_layers(network(), ["attention*", "up.weight"])
    assert [each.layer for each in kept] == ["conv", "fc", "cell", "cell"]


def test_patterns_that_match_nothing_and_nothing_left_are_refused() -> None:
    """The layers that there are stand in the message."""
    with pytest.raises(InputError, match=r"keep: stem\* matches no layer with weights; there are conv, up, fc and 4"):
        sparse_layers(network(), ["conv", "stem*"])
    with pytest.raises(InputError, match="keep names every layer"):
        sparse_layers(network(), ["*"])
    with pytest.raises(InputError, match="has no convolution, linear or recurrent layer"):
        sparse_layers(nn.BatchNorm2d(3))


def flat(*sizes: tuple[int, ...]) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return linear layers of these sizes [outputs, inputs], and scores 0, 1, 2, ... over all of them."""
    model = nn.Sequential(*(nn.Linear(inputs, outputs, bias=False) for outputs, inputs in sizes))
    scores, start = {}, 0
    for layer in sparse_layers(model):
        count = layer.weight.numel()
        scores[layer.name] = torch.arange(start, start + count).float().reshape(layer.weight.shape)
        start += count
    return model, scores


def counts(density: float, scope: SparsityScope, *sizes: tuple[int, ...]) -> list[int]:
    """Return how many weights of each layer stay."""
    model, scores = flat(*sizes)
    masks = chosen_masks(scores, sparse_layers(model), SparsityAim(density, scope))
    return [int(mask.sum()) for mask in masks.values()]


def test_densities_by_layer_and_over_all() -> None:
    """The same share of each, to the nearest; or the best of all, here those of the last layers."""
    assert counts(0.3, "layer", (4, 5), (5, 2), (2, 4)) == [6, 3, 2]
    assert counts(0.6, "global", (4, 5), (5, 2), (2, 4)) == [5, 10, 8]  # 23 of 38
    with pytest.raises(InputError, match=r"density: 0\.3 with scope global leaves 0\.weight empty"):
        counts(0.3, "global", (4, 5), (5, 2), (2, 4))
    with pytest.raises(InputError, match=r"0\.04 leaves 1 empty, which has 8 .* at least 0\.062"):
        counts(0.04, "layer", (4, 5), (2, 4))


def test_erk_by_hand() -> None:
    """(2 + 2) / 4 and (8 + 8) / 64: the small layer would keep 2.3 times what it has, so it is dense."""
    densities = erk_densities({"small": (2, 2), "large": (8, 8)}, 0.5)
    assert densities["small"] == 1
    assert densities["large"] == pytest.approx((34 - 4) / 64)
    free = erk_densities({"small": (4, 4), "large": (8, 8)}, 0.25)
    assert free["small"] / free["large"] == pytest.approx((8 / 16) / (16 / 64))
    assert counts(0.25, "erk", (4, 4), (8, 8)) == [round(free["small"] * 16), round(free["large"] * 64)]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=5), st.floats(0.01, 0.99))
def test_erk_keeps_the_density(shapes: list[tuple[int, int]], density: float) -> None:
    """Whatever became dense; and no density passes 1."""
    named = {str(index): shape for index, shape in enumerate(shapes)}
    found = erk_densities(named, density)
    sizes = {name: shape[0] * shape[1] for name, shape in named.items()}
    assert max(found.values()) <= 1 + 1e-9
    assert sum(found[name] * sizes[name] for name in named) == pytest.approx(density * sum(sizes.values()))


def test_ties_go_to_the_first_and_dead_weights_never_stay() -> None:
    """-inf marks what is zero for good."""
    assert top_mask(torch.ones(5), 2).tolist() == [True, True, False, False, False]
    model, scores = flat((2, 4))
    scores["0.weight"][1, 3] = -torch.inf
    mask = chosen_masks(scores, sparse_layers(model), SparsityAim(0.5, "layer"))["0.weight"]
    assert mask.tolist() == [[False, False, False, True], [True, True, True, False]]


@pytest.mark.parametrize(("kept", "of"), [(2, 4), (1, 4), (1, 2)])
def test_n_of_m_is_along_input_channels_at_each_place_of_the_kernel(kept: int, of: int) -> None:
    """Against a loop over outputs, kernel positions and runs, for layouts with inputs second and first."""
    scores = torch.rand(6, 8, 3, 2, generator=torch.Generator().manual_seed(0))
    mask = n_of_m_mask(scores, kept, of, 1)
    for output in range(6):
        for row, column in ((r, c) for r in range(3) for c in range(2)):
            for start in range(0, 8, of):
                run = scores[output, start : start + of, row, column]
                best = set(run.topk(kept).indices.tolist())
                assert {int(i) for i in mask[output, start : start + of, row, column].nonzero()} == best
    turned = n_of_m_mask(scores.transpose(0, 1), kept, of, 0)
    assert torch.equal(turned.transpose(0, 1), mask)


def test_blocks_are_whole_kernels_of_consecutive_outputs() -> None:
    """Against a loop; a transposed convolution has its channels the other way round."""
    scores = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    means = block_scores(scores, 2, 0, 1)
    assert means.shape == (2, 3)
    assert float(means[1, 2]) == pytest.approx(float(scores[2:4, 2].mean()))
    mask = top_mask(means, 2)
    spread = spread_blocks(mask, scores.shape, 2, 0, 1)
    assert spread.shape == scores.shape
    for block, channel in ((b, c) for b in range(2) for c in range(3)):
        assert bool((spread[2 * block : 2 * block + 2, channel] == mask[block, channel]).all())
    turned = scores.transpose(0, 1)
    assert torch.equal(
        spread_blocks(top_mask(block_scores(turned, 2, 1, 0), 2), turned.shape, 2, 1, 0), spread.transpose(0, 1)
    )


def test_patterns_on_layers_and_what_does_not_divide() -> None:
    """The message names the layers for `keep`."""
    model = network()
    layers = sparse_layers(model, ["conv"])
    masks = chosen_masks(magnitude_scores(layers), layers, SparsityAim(0.5, "layer", Pattern(2, 4)))
    assert all(float(mask.float().mean()) == 0.5 for mask in masks.values())
    blocks = chosen_masks(magnitude_scores(layers), layers, SparsityAim(0.25, "layer", Pattern(block=4)))
    total = sum(mask.numel() for mask in blocks.values())
    assert sum(int(mask.sum()) for mask in blocks.values()) == total / 4
    with pytest.raises(InputError, match=r"2:3 needs input channels that are multiples of 3; found up \(8\), fc \(4\)"):
        chosen_masks(magnitude_scores(layers), layers, SparsityAim(2 / 3, "layer", Pattern(2, 3)))
    with pytest.raises(
        InputError, match=r"1x5 needs output channels that are multiples of 5; found up \(4\), fc \(8\)"
    ):
        chosen_masks(magnitude_scores(layers), layers, SparsityAim(0.5, "layer", Pattern(block=5)))


def test_random_is_by_the_seed_alone() -> None:
    """And has nothing to do with the weights."""
    layers = sparse_layers(network())
    first, second, third = (random_scores(layers, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["conv.weight"], third["conv.weight"])
