"""Networks with auxiliary heads train on the output that evaluation returns, wherever it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.training.main_output import MainOutput
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

RETURNS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "tensor": lambda main, _: main,
    "tuple": lambda main, aux: (main, aux),
    "auxiliary first": lambda main, aux: [aux, main],
    "dictionary": lambda main, aux: {"aux": aux, "out": main},
    "nested, with features": lambda main, aux: {"features": aux[:, :2], "heads": (aux, main)},
    "with nothing": lambda main, _: (None, main),
}
REFUSED: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "a loss": (lambda main: [main.sum()], r"returns list of \(\); expected the logits \(6, 3\)"),
    "nothing": (lambda _: None, "returns NoneType of no tensor"),
    "other classes": (lambda main: (main[:, :2], main[:, :1]), r"returns tuple of \(6, 2\), \(6, 1\)"),
}


class Network(nn.Module):
    """Returns what `training` makes of its two heads while it trains; dropout and norm differ between the modes."""

    def __init__(self, training: Callable[..., object]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.main, self.aux, self.returned = nn.Linear(8, 3), nn.Linear(8, 3), training
        self.heads: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> object:
        """Return the logits, or what training returns."""
        x = self.stem(x)
        main = self.main(x)
        if not self.training:
            return main
        self.heads = main, self.aux(x)
        return self.returned(*self.heads) if len(self.heads) == 2 else None


@pytest.mark.parametrize("case", RETURNS)
def test_the_output_of_evaluation_is_found(case: str) -> None:
    """The logits are the main head's of this very call, so that gradients flow; modes and statistics stay."""
    torch.manual_seed(0)
    network = Network(RETURNS[case]).train()
    output = MainOutput(classes=3)
    for _ in range(2):
        logits = output.logits(network, torch.randn(6, 5))
        logits.sum().backward()
        assert network.main.weight.grad is not None
        assert network.aux.weight.grad is None
    assert all(module.training for module in network.modules())
    assert int(network.stem[1].num_batches_tracked) == 2


@pytest.mark.parametrize("case", REFUSED)
def test_outputs_without_logits_are_refused(case: str) -> None:
    """What was found and what is needed are said with their shapes."""
    made, expected = REFUSED[case]
    with pytest.raises(InputError, match=expected):
        MainOutput(classes=3).logits(Network(lambda main, _: made(main)).train(), torch.randn(6, 5))
