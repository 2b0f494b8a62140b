"""Recurrent cells, pooling undone, distances, Fourier transforms, and bins of a distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.unit.compress.pruning.networks import Net, Pattern, check, conv

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = ((2, 4, 5),)
ROWS = ((2, 6, 5),)


def cells(cell: nn.RNNCellBase, start: Callable[[Net, Tensor], Any] = lambda _m, _x: None) -> Net:
    """Return a linear layer, a cell in a loop, and a linear layer on its last state."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y, state = m.stem(x).relu(), start(m, x)
        for step in range(y.shape[1]):
            state = m.cell(y[:, step], state)
        return m.head(state[0] if isinstance(state, tuple) else state)

    return Net(forward, stem=nn.Linear(5, 8), cell=cell, head=nn.Linear(6, 3), init=nn.Linear(20, 6))


def pooled(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of every four pixels, and where they are."""
    return F.max_pool2d(x, 2, return_indices=True)


def zeros(_: Net, x: Tensor) -> Tensor:
    """Start from zeros of a width that the code states."""
    return x.new_zeros(x.shape[0], 6)


def bins(weigh: Callable[[Net, Tensor], Tensor], **fixed: Any) -> Net:  # noqa: ANN401
    """Return a convolution and a layer of bins, whose distribution is weighed with fixed numbers."""
    net = Net(lambda m, x: weigh(m, m.box(m.a(x)).mean((2, 3)).softmax(1)), a=conv(3, 8), box=conv(8, 6, 1))
    for name, value in fixed.items():
        if isinstance(value, Tensor):
            net.register_buffer(name, value)
        else:
            setattr(net, name, value)
    return net


def frozen_layer(layer: nn.Module) -> nn.Module:
    """Return a layer that is not trained."""
    return layer.requires_grad_(requires_grad=False)


BINS = ("has the bins of a distribution",)
NO_RULE = "mixes channels"

PATTERNS = {
    "gru cell": Pattern(lambda: cells(nn.GRUCell(8, 6)), {"stem": 8, "cell": 6}, ("not used",), STEPS),
    "gru cell from zeros": Pattern(
        lambda: cells(nn.GRUCell(8, 6), zeros), {"stem": 8, "cell": 6}, ("not used",), STEPS, rewritten="does not run"
    ),
    "gru cell without biases": Pattern(
        lambda: cells(nn.GRUCell(8, 6, bias=False)), {"stem": 8, "cell": 6}, ("not used",), STEPS
    ),
    "gru cell from a layer": Pattern(
        lambda: cells(nn.GRUCell(8, 6), lambda m, x: m.init(x.flatten(1))),
        {"init": 6, "stem": 8},
        ("in init meets a fixed",),
        STEPS,
    ),
    "lstm cell": Pattern(lambda: cells(nn.LSTMCell(8, 6)), {"stem": 8, "cell": 6}, ("not used",), STEPS),
    "rnn cell": Pattern(lambda: cells(nn.RNNCell(8, 6)), {"stem": 8, "cell": 6}, ("not used",), STEPS),
    "rnn cell with relu": Pattern(
        lambda: cells(nn.RNNCell(8, 6, nonlinearity="relu")), {"stem": 8, "cell": 6}, ("not used",), STEPS
    ),
    "pooling undone": Pattern(
        lambda: Net(
            lambda m, x: m.c(m.b(F.max_unpool2d(*pooled(m.a(x).relu()), 2)).relu()),
            a=conv(3, 8),
            b=conv(8, 6),
            c=conv(6, 2),
        ),
        {"a": 8, "b": 6},
    ),
    "pooling undone in one dimension": Pattern(
        lambda: Net(
            lambda m, x: m.b(F.max_unpool1d(*F.max_pool1d(m.a(x), 2, return_indices=True), 2)),
            a=nn.Conv1d(3, 8, 1),
            b=nn.Conv1d(8, 2, 1),
        ),
        {"a": 8},
        shapes=((2, 3, 8),),
    ),
    "pooling undone with other values": Pattern(
        lambda: Net(
            lambda m, x: m.c(
                F.max_unpool2d(m.b(F.max_pool2d(m.a(x), 2)), F.max_pool2d(m.a(x), 2, return_indices=True)[1], 2)
            ),
            a=conv(3, 8),
            b=conv(8, 8),
            c=conv(8, 2),
        ),
        {"a": 8},
    ),
    "distances of rows": Pattern(
        lambda: Net(
            lambda m, x: m.c(torch.cdist(m.a(x), m.b(x))), a=nn.Linear(5, 8), b=nn.Linear(5, 8), c=nn.Linear(6, 2)
        ),
        {"a": 8},
        (),
        ROWS,
        counted=False,
    ),
    "distances to stored rows": Pattern(
        lambda: Net(lambda m, x: torch.cdist(m.a(x), m.book), a=nn.Linear(5, 8), book=nn.Parameter(torch.randn(7, 8))),
        {"a": 8},
        (),
        ROWS,
        counted=False,
    ),
    "cosines to stored rows": Pattern(
        lambda: Net(
            lambda m, x: F.cosine_similarity(m.a(x)[:, :, None], m.book, dim=-1),
            a=nn.Linear(5, 8),
            book=nn.Parameter(torch.randn(7, 8)),
        ),
        {"a": 8},
        (),
        ROWS,
    ),
    "filter in frequency": Pattern(
        lambda: Net(
            lambda m, x: m.b(torch.fft.irfft2(torch.fft.rfft2(m.a(x)) * torch.view_as_complex(m.filter), s=(6, 6))),
            a=conv(3, 8),
            filter=nn.Parameter(torch.randn(8, 6, 4, 2)),
            b=conv(8, 2),
        ),
        {"a": 8},
    ),
    "mixing of tokens by transforms": Pattern(
        lambda: Net(lambda m, x: m.b(torch.fft.fft(m.a(x), dim=1).real), a=nn.Linear(5, 8), b=nn.Linear(8, 2)),
        {"a": 8},
        (),
        ROWS,
    ),
    "transform over channels": Pattern(
        lambda: Net(lambda m, x: m.b(torch.fft.fft2(m.a(x)).real), a=nn.Linear(5, 8), b=nn.Linear(8, 2)),
        {},
        (NO_RULE, "aten.linear in b meets a fixed tensor"),
        ROWS,
    ),
    "magnitude and phase": Pattern(
        lambda: Net(
            lambda m, x: m.b(torch.cat([(y := torch.fft.rfft(m.a(x))).abs(), torch.view_as_real(y).sum(-1)], 1)),
            a=conv(3, 8),
            b=conv(16, 2),
        ),
        {"a": 8},
    ),
    "bins by a frozen layer": Pattern(
        lambda: bins(lambda m, p: m.dfl(p), dfl=frozen_layer(nn.Linear(6, 1, bias=False))), {"a": 8}, BINS
    ),
    "bins by a constant": Pattern(lambda: bins(lambda _, p: (p * torch.arange(6.0)).sum(1)), {"a": 8}, BINS),
    "bins by a buffer": Pattern(lambda: bins(lambda m, p: p @ m.steps, steps=torch.rand(6, 1)), {"a": 8}, BINS),
    "bins of box sides": Pattern(
        lambda: bins(
            lambda m, p: m.dfl(p.view(-1, 1, 6).transpose(1, 2)[..., None]).flatten(1),
            dfl=frozen_layer(nn.Conv2d(6, 1, 1, bias=False)),
        ),
        {"a": 8},
        (*BINS, "in dfl meets a fixed"),
    ),
    "a softmax with trained weights": Pattern(
        lambda: bins(lambda m, p: m.fc(p), fc=nn.Linear(6, 2)),
        {"a": 8, "box": 6},
        statistics=("softmax in the network",),
    ),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", PATTERNS)
def test_signals(name: str) -> None:
    """Units and channels leave; frequencies and bins do not."""
    check(PATTERNS[name])
