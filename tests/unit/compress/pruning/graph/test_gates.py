"""Gates: one branch of a network multiplies another, by channel, by pixel or both."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.unit.compress.pruning.networks import Net, Pattern, check, conv


def squeeze_excite(m: Net, x: Tensor) -> Tensor:
    """Weigh channels by two layers on their means."""
    hidden = m.a(x)
    return m.head(hidden * m.up(m.down(hidden.mean((2, 3), keepdim=True)).relu()).sigmoid())


def efficient_channel_attention(m: Net, x: Tensor) -> Tensor:
    """Weigh channels by a convolution over the vector of their means (ECA)."""
    hidden = m.a(x)
    means = hidden.mean((2, 3)).unsqueeze(1)
    return m.head(hidden * m.slide(means).sigmoid().transpose(1, 2).unsqueeze(-1))


def block_attention(m: Net, x: Tensor) -> Tensor:
    """Weigh channels by their mean and maximum, then pixels by mean and maximum over channels (CBAM)."""
    hidden = m.a(x)
    mean, peak = (pool.flatten(1) for pool in (hidden.mean((2, 3)), hidden.amax((2, 3))))
    hidden = hidden * (m.up(m.down(mean).relu()) + m.up(m.down(peak).relu())).sigmoid()[..., None, None]
    pixels = torch.cat([hidden.mean(1, keepdim=True), hidden.amax(1, keepdim=True)], 1)
    return m.head(hidden * m.gate(pixels).sigmoid())


def selective_kernel(m: Net, x: Tensor) -> Tensor:
    """Choose between two kernels for each channel by a softmax over branches (SK)."""
    branches = torch.stack([m.a(x), m.b(x)], 1)
    shared = m.down(branches.sum(1).mean((2, 3))).relu()
    weights = torch.stack([m.first(shared), m.second(shared)], 1).softmax(1)
    return m.head((branches * weights[..., None, None]).sum(1))


def split_attention(m: Net, x: Tensor) -> Tensor:
    """Choose between two halves of one convolution by a softmax over them (ResNeSt)."""
    hidden = m.a(x)
    parts = hidden.view(hidden.shape[0], 2, hidden.shape[1] // 2, *hidden.shape[2:])
    weights = m.up(m.down(parts.sum(1).mean((2, 3), keepdim=True)).relu())
    weights = weights.view(hidden.shape[0], 2, -1, 1, 1).softmax(1)
    return m.head((parts * weights).sum(1))


def coordinate_attention(m: Net, x: Tensor) -> Tensor:
    """Weigh rows and columns of each channel by their means."""
    hidden = m.a(x)
    rows, columns = hidden.mean(3, keepdim=True), hidden.mean(2, keepdim=True).transpose(2, 3)
    both = m.down(torch.cat([rows, columns], 2)).relu()
    first, second = both.split([6, 6], 2)
    return m.head(hidden * m.up(first).sigmoid() * m.left(second).transpose(2, 3).sigmoid())


def global_context(m: Net, x: Tensor) -> Tensor:
    """Add to every pixel a mean of all that a map of one channel weighs (GCNet)."""
    hidden = m.a(x)
    weights = m.mask(hidden).flatten(2).softmax(-1)
    context = hidden.flatten(2) @ weights.transpose(1, 2)
    return m.head(hidden + m.up(m.down(context.unsqueeze(-1)).relu()))


def dynamic_relu(m: Net, x: Tensor) -> Tensor:
    """Take the larger of two linear functions whose slopes the input decides."""
    hidden = m.a(x)
    slopes = m.up(hidden.mean((2, 3))).unflatten(1, (-1, 2))[:, :, None, None]
    return m.head((hidden.unsqueeze(-1) * slopes).amax(-1))


def gated_linear(m: Net, x: Tensor) -> Tensor:
    """Multiply two projections, one of them through SiLU (SwiGLU)."""
    return m.down(m.gate(x) * m.up(x).sigmoid())


def conditioned(m: Net, x: Tensor) -> Tensor:
    """Scale and shift channels by what another layer says, of which half are scales (FiLM)."""
    style = m.style(x.mean((2, 3))).view(-1, 2, 8, 1, 1)
    return m.b(m.a(x) * style[:, 0] + style[:, 1])


def experts(m: Net, x: Tensor) -> Tensor:
    """Weigh two layers by a softmax over them."""
    both = torch.stack([m.first(x), m.second(x)], -1)
    return m.b((both * m.route(x).softmax(-1).unsqueeze(-2)).sum(-1))


PATTERNS = {
    "squeeze-excite": Pattern(
        lambda: Net(squeeze_excite, a=conv(3, 8), down=conv(8, 4, 1), up=conv(4, 8, 1), head=conv(8, 2)),
        {"a": 8, "down": 4},
    ),
    "spatial gate": Pattern(
        lambda: Net(lambda m, x: m.b(m.a(x) * m.gate(m.a(x)).sigmoid()), a=conv(3, 8), gate=conv(8, 1), b=conv(8, 2)),
        {"a": 8},
    ),
    "efficient channel attention": Pattern(
        lambda: Net(efficient_channel_attention, a=conv(3, 8), slide=nn.Conv1d(1, 1, 3, padding=1), head=conv(8, 2)),
        {"a": 8},
        statistics=("conv1d in slide",),
    ),
    "block attention": Pattern(
        lambda: Net(
            block_attention,
            a=conv(3, 8),
            down=nn.Linear(8, 4),
            up=nn.Linear(4, 8),
            gate=conv(2, 1),
            head=conv(8, 2),
        ),
        {"a": 8, "down": 4},
        statistics=("mean in the network", "amax in the network"),
        frozen=("aten.conv2d in gate meets a fixed tensor",),
    ),
    "selective kernel": Pattern(
        lambda: Net(
            selective_kernel,
            a=conv(3, 8),
            b=conv(3, 8, 5),
            down=nn.Linear(8, 4),
            first=nn.Linear(4, 8),
            second=nn.Linear(4, 8),
            head=conv(8, 2),
        ),
        {"a": 8, "down": 4},
    ),
    "split attention": Pattern(
        lambda: Net(split_attention, a=conv(3, 16), down=conv(8, 4, 1), up=conv(4, 16, 1), head=conv(8, 2)),
        {"a": 8, "down": 4},
    ),
    "coordinate attention": Pattern(
        lambda: Net(
            coordinate_attention,
            a=conv(3, 8),
            down=conv(8, 4, 1),
            up=conv(4, 8, 1),
            left=conv(4, 8, 1),
            head=conv(8, 2),
        ),
        {"a": 8, "down": 4},
    ),
    "global context": Pattern(
        lambda: Net(
            global_context, a=conv(3, 8), mask=conv(8, 1, 1), down=conv(8, 4, 1), up=conv(4, 8, 1), head=conv(8, 2)
        ),
        {"a": 8, "down": 4},
    ),
    "dynamic ReLU": Pattern(lambda: Net(dynamic_relu, a=conv(3, 8), up=nn.Linear(8, 16), head=conv(8, 2)), {"a": 8}),
    "gated linear layer": Pattern(
        lambda: Net(gated_linear, gate=nn.Linear(5, 12), up=nn.Linear(5, 12), down=nn.Linear(12, 2)),
        {"gate": 12},
        shapes=((2, 5),),
    ),
    "scale and shift from another layer": Pattern(
        lambda: Net(conditioned, style=nn.Linear(3, 16), a=conv(3, 8), b=conv(8, 2)),
        {"style": 8},
        rewritten="does not run",
    ),
    "mixture of experts": Pattern(
        lambda: Net(experts, route=nn.Linear(5, 2), first=nn.Linear(5, 8), second=nn.Linear(5, 8), b=nn.Linear(8, 3)),
        {"first": 8},
        shapes=((2, 5),),
        frozen=("aten.mul in the network meets a fixed tensor",),
    ),
    "scale of each channel": Pattern(
        lambda: Net(
            lambda m, x: (m.a(x) * m.scale).mean((2, 3)) @ m.matrix,
            a=conv(3, 8),
            scale=nn.Parameter(torch.rand(1, 8, 1, 1)),
            matrix=nn.Parameter(torch.randn(8, 2)),
        ),
        {"a": 8},
    ),
    "scale of each channel and pixel": Pattern(
        lambda: Net(
            lambda m, x: m.b(m.a(x) + m.position),
            a=conv(3, 8),
            position=nn.Parameter(torch.rand(1, 8, 6, 6)),
            b=conv(8, 2),
        ),
        {"a": 8},
    ),
    "layer scale in a residual": Pattern(
        lambda: Net(
            lambda m, x: m.b(m.stem(x) + m.gamma[:, None, None] * m.a(m.stem(x))),
            stem=conv(3, 8),
            a=conv(8, 8),
            gamma=nn.Parameter(torch.rand(8)),
            b=conv(8, 2),
        ),
        {"stem": 8},
    ),
    "product of neighbours": Pattern(
        lambda: Net(lambda m, x: m.c(m.a(x) * m.b(x)), a=conv(3, 8), b=conv(3, 8), c=conv(8, 2)), {"a": 8}
    ),
    "constant of each channel": Pattern(
        lambda: Net(lambda m, x: m.b(m.a(x) * torch.arange(8.0).view(8, 1, 1)), a=conv(3, 8), b=conv(8, 2)),
        {},
        frozen=("aten.mul in the network meets a fixed tensor",),
    ),
    "gate by the image": Pattern(
        lambda: Net(lambda m, x: m.b(m.a(x) * x.mean(1, keepdim=True)), a=conv(3, 8), b=conv(8, 2)), {"a": 8}
    ),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", PATTERNS)
def test_gates(name: str) -> None:
    """Gate and gated channels leave together, whatever the gate is computed from."""
    check(PATTERNS[name])
