"""Norms, and other operators that take statistics: over pixels, over groups, over channels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.unit.compress.pruning.networks import Net, Pattern, check, conv, halved, masked_error


def between(norm: nn.Module, width: int = 16) -> Net:
    """Return a network with a norm between two convolutions."""
    return Net(lambda m, x: m.b(m.n(m.a(x)).relu()), a=conv(3, width), n=norm, b=conv(width, 2))


def between_linear(norm: nn.Module, width: int = 16) -> Net:
    """Return a network with a norm between two linear layers."""
    return Net(lambda m, x: m.b(m.n(m.a(x))), a=nn.Linear(5, width), n=norm, b=nn.Linear(width, 2))


def channels_first(m: Net, x: Tensor) -> Tensor:
    """Normalise over channels by hand, as ConvNeXt does before its convolutions."""
    hidden = m.a(x)
    mean = hidden.mean(1, keepdim=True)
    variance = (hidden - mean).pow(2).mean(1, keepdim=True)
    return m.b((hidden - mean) / (variance + 1e-6).sqrt() * m.weight[:, None, None] + m.bias[:, None, None])


def global_response(m: Net, x: Tensor) -> Tensor:
    """Compare each channel's norm with the mean of all, as ConvNeXt v2 does."""
    hidden = m.a(x)
    norm = hidden.norm(p=2, dim=(2, 3), keepdim=True)
    return m.b(hidden + m.gamma * hidden * (norm / (norm.mean(1, keepdim=True) + 1e-6)))


def frozen_batch_norm(m: Net, x: Tensor) -> Tensor:
    """Scale and shift by constants that stand in buffers."""
    return m.b(m.a(x) * m.scale.view(1, -1, 1, 1) + m.shift.view(1, -1, 1, 1))


def with_buffers(net: Net, **buffers: Tensor) -> Net:
    """Return a network with these buffers."""
    for name, tensor in buffers.items():
        net.register_buffer(name, tensor)
    return net


LAYER_NORM = Pattern(
    lambda: between_linear(nn.LayerNorm(16)), {"a": 16}, shapes=((2, 5),), statistics=("layer_norm in n",)
)
PATTERNS = {
    "batch norm without affine": Pattern(lambda: between(nn.BatchNorm2d(16, affine=False)), {"a": 16}),
    "batch norm of a vector": Pattern(lambda: between_linear(nn.BatchNorm1d(16)), {"a": 16}, shapes=((4, 5),)),
    "batch norm of the batch": Pattern(lambda: between(nn.BatchNorm2d(16, track_running_stats=False)), {"a": 16}),
    "batch norm in buffers": Pattern(
        lambda: with_buffers(
            Net(frozen_batch_norm, a=conv(3, 8), b=conv(8, 2)), scale=torch.rand(8) + 1, shift=torch.randn(8)
        ),
        {"a": 8},
    ),
    "layer norm": LAYER_NORM,
    "layer norm without affine": Pattern(
        lambda: between_linear(nn.LayerNorm(16, elementwise_affine=False)),
        {"a": 16},
        shapes=((2, 5),),
        statistics=("layer_norm in n",),
        rewritten="does not run",
    ),
    "layer norm of channels and pixels": Pattern(
        lambda: between(nn.LayerNorm((16, 6, 6))), {"a": 16}, statistics=("layer_norm in n",)
    ),
    "layer norm as a function": Pattern(
        lambda: Net(
            lambda m, x: m.b(F.layer_norm(m.a(x), (16,), m.scale)),
            a=nn.Linear(5, 16),
            scale=nn.Parameter(torch.rand(16)),
            b=nn.Linear(16, 2),
        ),
        {"a": 16},
        shapes=((2, 5),),
        statistics=("layer_norm in the network",),
        rewritten="does not run",
    ),
    "layer norm of channels last": Pattern(
        lambda: Net(
            lambda m, x: m.b(m.n(m.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
            a=conv(3, 16),
            n=nn.LayerNorm(16, bias=False),
            b=conv(16, 2),
        ),
        {"a": 16},
        statistics=("layer_norm in n",),
    ),
    "layer norm by hand": Pattern(
        lambda: Net(
            channels_first,
            a=conv(3, 8),
            weight=nn.Parameter(torch.rand(8)),
            bias=nn.Parameter(torch.randn(8)),
            b=conv(8, 2),
        ),
        {"a": 8},
        statistics=("mean in the network",),
    ),
    "RMS norm": Pattern(
        lambda: between_linear(nn.RMSNorm(16)), {"a": 16}, shapes=((2, 5),), statistics=("rms_norm in n",)
    ),
    "RMS norm by hand": Pattern(
        lambda: Net(
            lambda m, x: m.b(m.a(x) * (m.a(x).pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * m.scale),
            a=nn.Linear(5, 16),
            scale=nn.Parameter(torch.rand(16)),
            b=nn.Linear(16, 2),
        ),
        {"a": 16},
        shapes=((2, 5),),
        statistics=("mean in the network",),
    ),
    "group norm of many groups": Pattern(lambda: between(nn.GroupNorm(8, 16)), {"a": 8}),
    "group norm of few groups": Pattern(
        lambda: between(nn.GroupNorm(2, 16)), {"a": 8}, statistics=("group_norm in n",)
    ),
    "group norm of one group": Pattern(
        lambda: between(nn.GroupNorm(1, 16)), {"a": 16}, statistics=("group_norm in n",)
    ),
    "group norm of each channel": Pattern(lambda: between(nn.GroupNorm(16, 16)), {"a": 16}),
    "group norm of few wide groups after a concat": Pattern(
        lambda: Net(
            lambda m, x: m.c(m.n(torch.cat([m.a(x), m.b(x)], 1))),
            a=conv(3, 8),
            b=conv(3, 8),
            n=nn.GroupNorm(2, 16),
            c=conv(16, 2),
        ),
        {"a": 8},
        statistics=("group_norm in n",),
    ),
    "instance norm": Pattern(lambda: between(nn.InstanceNorm2d(16, affine=True)), {"a": 16}),
    "instance norm without affine": Pattern(
        lambda: between(nn.InstanceNorm2d(16)), {"a": 16}, rewritten="Layer n states its width"
    ),
    "instance norm with running statistics": Pattern(
        lambda: between(nn.InstanceNorm2d(16, affine=True, track_running_stats=True)), {"a": 16}
    ),
    "instance norm in one dimension": Pattern(
        lambda: Net(
            lambda m, x: m.b(m.n(m.a(x))),
            a=nn.Conv1d(3, 8, 3),
            n=nn.InstanceNorm1d(8, affine=True),
            b=nn.Conv1d(8, 2, 3),
        ),
        {"a": 8},
        shapes=((2, 3, 9),),
    ),
    "PReLU of each channel": Pattern(lambda: between(nn.PReLU(16)), {"a": 16}),
    "PReLU of all channels": Pattern(lambda: between(nn.PReLU()), {"a": 16}),
    "local response norm": Pattern(
        lambda: between(nn.LocalResponseNorm(3)), {}, frozen=("aten.avg_pool3d in n mixes channels",)
    ),
    "vectors of length 1": Pattern(
        lambda: Net(lambda m, x: m.b(F.normalize(m.a(x), dim=-1)), a=nn.Linear(5, 8), b=nn.Linear(8, 2)),
        {"a": 8},
        shapes=((2, 5),),
    ),
    "softmax over channels": Pattern(
        lambda: Net(lambda m, x: m.b(m.a(x).softmax(1)), a=conv(3, 8), b=conv(8, 2)),
        {"a": 8},
        statistics=("softmax in the network",),
    ),
    "global response norm": Pattern(
        lambda: Net(global_response, a=conv(3, 8), gamma=nn.Parameter(torch.rand(1, 8, 1, 1)), b=conv(8, 2)),
        {"a": 8},
        statistics=("mean in the network",),
    ),
    "maximum over channels": Pattern(
        lambda: Net(lambda m, x: m.b(m.a(x) * m.a(x).amax(1, keepdim=True)), a=conv(3, 8), b=conv(8, 2)),
        {"a": 8},
        statistics=("amax in the network",),
    ),
    "sum over channels": Pattern(
        lambda: Net(lambda m, x: m.b(m.a(x) * m.a(x).sum(1, keepdim=True)), a=conv(3, 8), b=conv(8, 2)), {"a": 8}
    ),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", PATTERNS)
def test_norms(name: str) -> None:
    """Half of every group leaves; statistics over channels go over those that stay, and the certificate says so."""
    check(PATTERNS[name])


@pytest.mark.parametrize("name", [name for name, pattern in PATTERNS.items() if pattern.statistics])
def test_statistics_can_be_frozen(name: str) -> None:
    """With statistics="freeze", what changes them is kept whole, with the operator as reason."""
    pattern = PATTERNS[name]
    operators = {statistic.partition(" ")[0] for statistic in pattern.statistics}
    check(
        replace(
            pattern,
            groups={},
            statistics=(),
            rewritten="",
            frozen=tuple(f"aten.{operator} in " for operator in operators),
            options={"statistics": "freeze"},
        )
    )


def test_a_layer_norm_goes_over_the_channels_that_stay() -> None:
    """The pruned network is the layer norm of what is left, worked out by hand."""
    model, pruned = check(LAYER_NORM)
    x = torch.randn(4, 5)
    rows = list(pruned.plan.keep["a.weight"][0])
    hidden = model.a(x)[:, rows]
    mean, variance = hidden.mean(1, keepdim=True), hidden.var(1, keepdim=True, correction=0)
    expected = ((hidden - mean) / (variance + 1e-5).sqrt()) @ model.b.weight[:, rows].T + model.b.bias
    assert torch.allclose(pruned.model(x), expected, atol=1e-6)


def test_the_certificate_names_no_statistic_that_stays() -> None:
    """Removing whole groups of a group norm, or nothing under a layer norm, changes no statistic."""
    net = Net(
        lambda m, x: m.c(m.n(m.b(m.a(x)))), a=nn.Linear(5, 8), b=nn.Linear(8, 6), n=nn.LayerNorm(6), c=nn.Linear(6, 2)
    )
    example = (torch.randn(2, 5),)
    _, _, both = halved(net.eval(), example)
    assert both.certificate.statistics == ("layer_norm in n",)
    _, graph, frozen = halved(net, example, statistics="freeze")
    assert [group.name for group in graph.groups] == ["a"]
    assert frozen.certificate.statistics == ()
    assert masked_error(net, frozen, example) < 1e-10
