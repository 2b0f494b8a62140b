"""Hessians of layers' inputs, against layers that are run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.sparsity import layer_inputs
from pipeline.compress.sparsity.layer_inputs import (
    channels_last,
    hessian_bytes,
    input_hessians,
    matrix_layers,
    unfolded_inputs,
    weight_matrix,
)
from pipeline.compress.sparsity.obs import output_loss
from pipeline.core.errors import InputError

LAYERS = {
    "linear": (nn.Linear(5, 3), (5,)),
    "linear on tokens": (nn.Linear(5, 3, bias=False), (4, 5)),
    "plain": (nn.Conv2d(3, 4, 3), (3, 6, 6)),
    "strided, padded, dilated": (nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 1)), (2, 7, 6)),
    "same": (nn.Conv2d(2, 4, (3, 5), padding="same"), (2, 5, 6)),
    "reflected": (nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), (2, 5, 6)),
    "circular": (nn.Conv2d(2, 4, 3, padding=(1, 2), padding_mode="circular"), (2, 5, 6)),
    "grouped": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 5, 5)),
    "sequence": (nn.Conv1d(4, 6, 3, padding=1, stride=2, groups=2), (4, 9)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_loss_by_the_hessian_is_the_change_of_outputs(name: str) -> None:
    """Every kind of window: d^T H d / 2 against outputs of the layer with changed weights."""
    layer, shape = LAYERS[name]
    model = nn.Sequential(layer).double()
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(count, *shape, dtype=torch.float64, generator=generator),) for count in (3, 2)]
    layers = matrix_layers(model, ["0"])
    hessian = input_hessians(model, layers, batches)["0"]
    change = torch.randn(layer.weight.shape, dtype=torch.float64, generator=generator)
    before = [model(*batch).detach() for batch in batches]
    with torch.no_grad():
        layer.weight += change
    differences = sum(
        float((model(*batch).detach() - old).square().sum()) for batch, old in zip(batches, before, strict=True)
    )
    assert output_loss(weight_matrix(layer, change), hessian) == pytest.approx(differences / 5, rel=1e-9)
    assert hessian_bytes(layers) == hessian.numel() * 8


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samples at a time give what all give."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3)).double()
    x = torch.randn(7, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    layers = matrix_layers(model, ["0"])
    whole = input_hessians(model, layers, [(x,)])["0"]
    monkeypatch.setattr(layer_inputs, "CHUNK", 2 * 72 * 9)
    torch.testing.assert_close(input_hessians(model, layers, [(x,)])["0"], whole)


def test_a_layer_that_runs_twice_sees_both_inputs() -> None:
    """The sum over calls, the mean over samples."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3, bias=False).double()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(self.layer(x))
            return out

    model, x = Twice(), torch.eye(3, dtype=torch.float64)
    second = model.layer(x).detach()
    found = input_hessians(model, matrix_layers(model, ["layer"]), [(x,)])["layer"][0]
    torch.testing.assert_close(found, (2 / 3) * (torch.eye(3, dtype=torch.float64) + second.T @ second))


def test_rows_of_the_matrix_are_filters_in_the_order_of_patches() -> None:
    """Matrix times patches is the convolution, group by group."""
    layer = nn.Conv2d(4, 6, (2, 3), groups=2).double()
    x = torch.randn(1, 4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    outputs = weight_matrix(layer) @ unfolded_inputs(layer, x)[0]
    torch.testing.assert_close(outputs.reshape(-1) + layer.bias.detach(), layer(x).detach().reshape(-1))


def test_channels_run_fastest_in_the_order_for_patterns() -> None:
    """Torch stores a channel as a whole; patterns run over channels."""
    order = channels_last(nn.Conv2d(4, 1, (1, 2)))
    assert order.tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert channels_last(nn.Linear(3, 1)).tolist() == [0, 1, 2]


def test_what_has_no_matrix_or_never_runs_is_refused() -> None:
    """By the name of the layer."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ConvTranspose2d(1, 1, 2))
    with pytest.raises(InputError, match="Layer 1 is a ConvTranspose2d"):
        matrix_layers(model, ["0", "1"])

    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.one(x)
            return out

    unused = Unused()
    with pytest.raises(InputError, match="never calls layer two"):
        input_hessians(unused, matrix_layers(unused, ["one", "two"]), [(torch.ones(1, 2),)])
    with pytest.raises(InputError, match="at least one batch"):
        input_hessians(unused, matrix_layers(unused, ["one"]), [])
