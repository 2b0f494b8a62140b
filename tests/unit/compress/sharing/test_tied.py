"""Weights that share a value are trained as one: by the chain rule, with any optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pipeline.compress.sharing.codebooks import SharingRule, find_codebook, make_codebook
from pipeline.compress.sharing.tied import TiedWeights
from pipeline.core.errors import InputError

NAME = "weight"


def tied_layer(grid: Any, gradient: Any = "sum") -> tuple[nn.Linear, TiedWeights, SharingRule]:  # noqa: ANN401
    """Return a layer with shared weights, a quarter of them zero, and what keeps them."""
    torch.manual_seed(0)
    layer = nn.Linear(12, 5)
    rule = SharingRule(6, "layer", grid, gradient)
    with torch.no_grad():
        layer.weight.masked_fill_(torch.rand(5, 12) < 0.25, 0)
        layer.weight.copy_(make_codebook(layer.weight, rule, "linear", 0).weight())
    book = find_codebook(layer.weight, rule)
    return layer, TiedWeights({NAME: (book, gradient)}), rule


@pytest.mark.parametrize("grid", ["float", "int8"])
@pytest.mark.parametrize("gradient", ["sum", "mean"])
def test_plain_descent_moves_centroids_by_their_own_gradient(grid: str, gradient: str) -> None:
    """As autograd finds it for weight = factor * value[place]: summed over members, or over their number."""
    layer, tied, _ = tied_layer(grid, gradient)
    book = tied.books[NAME][0]
    samples, targets = torch.randn(20, 12), torch.randn(20, 5)
    values = book.values.clone().requires_grad_()
    weight = book.factors * values[book.places]
    loss = ((samples.double() @ weight.T + layer.bias.double() - targets.double()) ** 2).mean()
    loss.backward()
    assert values.grad is not None
    counts = torch.bincount(book.places.flatten(), minlength=values.numel())
    moves = values.grad / counts if gradient == "mean" else values.grad
    expected = torch.where(book.fixed, book.values, book.values - 0.1 * moves)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    ((layer(samples) - targets) ** 2).mean().backward()
    tied.share_gradients(layer)
    optimizer.step()
    free = (book.factors * expected[book.places]).float()
    assert torch.allclose(layer.weight.detach(), free, atol=1e-6)  # before anything is taken back
    tied.project([layer])
    assert torch.allclose(layer.weight.detach(), free, atol=1e-6)


@pytest.mark.parametrize("grid", ["float", "int8"])
@pytest.mark.parametrize("kind", ["momentum", "adamw"])
def test_with_any_optimizer_clusters_last_and_the_loss_falls(grid: str, kind: str) -> None:
    """Thirty steps with weight decay: as few values as before, the same zeros, the ends of the grid where they were."""
    layer, tied, rule = tied_layer(grid)
    before = layer.weight.detach().clone()
    made: dict[str, Any] = {
        "momentum": lambda: torch.optim.SGD(layer.parameters(), lr=0.005, momentum=0.9, weight_decay=0.01),
        "adamw": lambda: torch.optim.AdamW(layer.parameters(), lr=0.02, weight_decay=0.01),
    }
    optimizer = made[kind]()
    samples, targets = torch.randn(40, 12), torch.randn(40, 5)
    losses = []
    for _ in range(30):
        loss = ((layer(samples) - targets) ** 2).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        tied.share_gradients(layer)
        optimizer.step()
        tied.project([layer])
    assert losses[-1] < 0.95 * losses[0]
    assert not torch.equal(layer.weight.detach(), before)
    found = find_codebook(layer.weight, rule)
    assert found.values.numel() <= 6
    assert torch.equal(layer.weight == 0, before == 0)
    if grid == "int8":
        assert torch.equal(layer.weight.abs().amax(1), before.abs().amax(1))


def test_what_does_not_fit_is_refused() -> None:
    """A parameter of another shape, or none."""
    _, tied, _ = tied_layer("float")
    with pytest.raises(InputError, match=r"there is no parameter weight of shape \(5, 12\)"):
        tied.require_fit(nn.Linear(3, 5))
    tied.require_fit(nn.Linear(12, 5))
