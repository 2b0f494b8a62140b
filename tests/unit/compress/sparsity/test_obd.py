"""The diagonal of second derivatives, against autograd's Hessian."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, mse_loss

from pipeline.compress.sparsity import obd
from pipeline.compress.sparsity.layer_inputs import matrix_layers
from pipeline.compress.sparsity.obd import curvature_diagonal, weight_saliency
from pipeline.core.errors import InputError, StageError


def network() -> nn.Sequential:
    """Return a small network of everything that obd has to see through."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 3, 3, stride=2, bias=False),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(3, 4),
    ).double().eval()  # fmt: skip


def samples(count: int, *shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers."""
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def hessian_diagonal(model: nn.Module, name: str, x: Tensor, loss: object) -> Tensor:
    """Return the diagonal of autograd's Hessian of a loss of the outputs."""
    weight = model.get_parameter(name).detach()

    def value(flat: Tensor) -> Tensor:
        return loss(functional_call(model, {name: flat.reshape(weight.shape)}, (x,)))  # type: ignore[operator]

    return torch.autograd.functional.hessian(value, weight.reshape(-1)).diagonal().reshape(weight.shape)


@pytest.mark.parametrize("name", ["0", "3", "7"])
def test_it_is_the_diagonal_of_the_hessian_of_a_network_of_relus(name: str) -> None:
    """Groups, strides, norms and writing in place included."""
    model, x, targets = network(), samples(5, 2, 6, 6), torch.tensor([0, 3, 1, 2, 2])
    batches = [((x[:2],), targets[:2]), ((x[2:],), targets[2:])]
    found = curvature_diagonal(model, matrix_layers(model, ["0", "3", "7"]), batches, cross_entropy)[name]
    expected = hessian_diagonal(model, f"{name}.weight", x, lambda z: cross_entropy(z, targets))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)
    assert float(expected.max()) > 1e-4


def test_any_loss_of_single_samples_will_do_and_tokens_are_summed_before_they_are_squared() -> None:
    """Squared error of outputs by token."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double().eval()
    x, targets = samples(4, 5, 3), samples(4, 5, 2, seed=1)
    found = curvature_diagonal(model, matrix_layers(model, ["0", "2"]), [((x,), targets)], mse_loss)
    for name in ("0", "2"):
        expected = hessian_diagonal(model, f"{name}.weight", x, lambda z: mse_loss(z, targets))
        torch.testing.assert_close(found[name], expected)


def test_a_layer_that_is_called_twice_counts_with_the_sum_of_its_gradients() -> None:
    """Not with the sum of their squares."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2, bias=False).double()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x[:, :3]) + self.layer(x[:, 3:])
            return out

    model, x, targets = Twice().eval(), samples(4, 6), samples(4, 2, seed=1)
    found = curvature_diagonal(model, matrix_layers(model, ["layer"]), [((x,), targets)], mse_loss)["layer"]
    expected = hessian_diagonal(model, "layer.weight", x, lambda z: mse_loss(z, targets))
    torch.testing.assert_close(found, expected)


def test_many_outputs_are_mixed_at_random_and_right_in_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two mixtures of four outputs."""
    model, x, targets = network(), samples(5, 2, 6, 6), torch.tensor([0, 3, 1, 2, 2])
    layers = matrix_layers(model, ["7"])
    exact = curvature_diagonal(model, layers, [((x,), targets)], cross_entropy)["7"]
    monkeypatch.setattr(obd, "COLUMNS", 2)
    drawn = [curvature_diagonal(model, layers, [((x,), targets)], cross_entropy, seed=seed)["7"] for seed in range(200)]
    mean = torch.stack(drawn).mean(0)
    assert float((mean - exact).norm() / exact.norm()) < 0.1
    assert not torch.equal(drawn[0], drawn[1])


def test_saliency_predicts_the_loss_of_removing_one_weight() -> None:
    """Exactly, where the loss is a parabola at its minimum."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 2, bias=False)).double().eval()
    x = samples(8, 4)
    targets = model(x).detach()  # the minimum: no first derivative
    curvature = curvature_diagonal(model, matrix_layers(model, ["0"]), [((x,), targets)], mse_loss)["0"]
    weight = model[0].weight.detach().clone()
    predicted = weight_saliency(weight, curvature)
    with torch.no_grad():
        for place in ((0, 1), (1, 3)):
            model[0].weight.copy_(weight)
            model[0].weight[place] = 0
            assert float(mse_loss(model(x), targets)) == pytest.approx(float(predicted[place]))


def test_the_network_is_as_it_was() -> None:
    """Frozen weights, statistics, gradients and hooks."""
    model = network()
    model[0].weight.requires_grad_(False)  # noqa: FBT003 - torch's own
    before = {name: value.clone() for name, value in model.state_dict().items()}
    curvature_diagonal(
        model, matrix_layers(model, ["0"]), [((samples(3, 2, 6, 6),), torch.tensor([0, 1, 2]))], cross_entropy
    )
    assert not model[0].weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_other_outputs_are_refused() -> None:
    """With what to use instead."""
    model = nn.Sequential(nn.Linear(2, 3000)).eval()
    batch = [((torch.ones(1, 2),), torch.zeros(1, 3000))]
    with pytest.raises(StageError, match="at most 2,048 outputs for a sample, this network has 3,000"):
        curvature_diagonal(model, matrix_layers(model, ["0"]), batch, mse_loss)
    with pytest.raises(InputError, match="at least one batch"):
        curvature_diagonal(model, matrix_layers(model, ["0"]), [], mse_loss)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(x), x * math.pi

    two = Two().eval()
    with pytest.raises(StageError, match="a network with one output"):
        curvature_diagonal(two, matrix_layers(two, ["layer"]), [((torch.ones(1, 2),), None)], mse_loss)
