"""In double precision nothing narrows: casts, divisions of integers, literals; and noise is constant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.compress.pruning.wide import double_precision

if TYPE_CHECKING:
    from collections.abc import Callable

INPUT = torch.rand(8, 32, dtype=torch.float64)  # so many that noise does not fall the same twice

CASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "float": Tensor.float,
    "half": Tensor.half,
    "to": lambda x: x.to(torch.bfloat16),
    "type": lambda x: x.type(torch.FloatTensor),
    "integers divided": lambda x: (x * 255).to(torch.uint8) / 255.0,
    "softmax of another type": lambda x: x.softmax(1, dtype=torch.float32),
    "sum of another type": lambda x: x.sum(dtype=torch.float32),
    "zeros": lambda _: torch.zeros(2, dtype=torch.float32),
    "range": lambda x: torch.arange(len(x), dtype=torch.float32),
    "literal": lambda _: torch.tensor([0.1]),
    "transform": lambda x: torch.fft.rfft(x.float()).abs(),
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
def test_nothing_is_narrow(cast: Callable[[Tensor], Tensor]) -> None:
    """Whatever a network casts to, and afterwards everything is as before."""
    with double_precision():
        assert cast(INPUT).dtype is torch.float64
    assert torch.get_default_dtype() is torch.float32
    assert INPUT.float().dtype is torch.float32


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda: torch.tensor([0.1]), float(torch.tensor(0.1))),
        (lambda: torch.tensor([0.1], dtype=torch.float32), float(torch.tensor(0.1))),
        (lambda: torch.tensor([0.1], dtype=torch.float64), 0.1),
        (lambda: INPUT.new_tensor([0.1]), float(torch.tensor(0.1))),
        (lambda: torch.as_tensor(0.1), float(torch.tensor(0.1))),
        (lambda: INPUT[0, :1] * 0 + 0.1, 0.1),
    ],
    ids=["tensor", "single", "double", "new", "as", "factor"],
)
def test_literals_are_the_networks(make: Callable[[], Tensor], value: float) -> None:
    """A tensor of numbers is rounded to single precision, as in the network; a factor is not."""
    with double_precision():
        assert float(make()) == value


RANDOM: dict[str, Callable[[], Tensor]] = {
    "rand": lambda: torch.rand(64),
    "randn": lambda: torch.randn(64),
    "like": lambda: torch.randn_like(INPUT) + torch.rand_like(INPUT),
    "uniform": lambda: torch.empty(64).uniform_(2, 4),
    "normal": lambda: torch.empty(64).normal_(1, 2),
    "normal of tensors": lambda: torch.normal(INPUT, torch.ones_like(INPUT)),
    "bernoulli": lambda: torch.bernoulli(INPUT),
    "bernoulli in place": lambda: torch.empty(64).bernoulli_(0.3) + torch.empty(64).bernoulli_(),
    "dropout": lambda: F.dropout(INPUT, 0.3),
    "dropout of channels": lambda: F.dropout2d(INPUT[:, :, None, None], 0.3),
    "alpha dropout": lambda: F.alpha_dropout(INPUT, 0.3, training=True),
    "attention with dropout": lambda: F.scaled_dot_product_attention(*(INPUT[None, None],) * 3, dropout_p=0.5),
}


@pytest.mark.parametrize("make", RANDOM.values(), ids=RANDOM)
def test_noise_is_constant(make: Callable[[], Tensor]) -> None:
    """Two runs give the same; outside they do not."""
    with double_precision():
        assert torch.equal(make(), make())
    assert not torch.equal(make(), make())


def test_dropout_drops_nothing_and_generators_stay_random() -> None:
    """Dropout is the identity; who brings a generator wants its numbers."""
    with double_precision():
        assert torch.allclose(F.dropout(INPUT, 0.3), INPUT, rtol=1e-15)
        found = torch.rand(9, generator=torch.Generator().manual_seed(0))
    assert len(found.unique()) == 9
