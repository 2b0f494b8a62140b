"""Convolutions of all kinds, linear layers, and weights that are computed from weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from tests.unit.compress.pruning.networks import Net, Pattern, check, conv


def standardised(m: Net, x: Tensor) -> Tensor:
    """Convolve with a kernel of mean 0 and variance 1 per filter."""
    weight = m.a.weight
    mean, var = weight.mean((1, 2, 3), keepdim=True), weight.var((1, 2, 3), keepdim=True)
    return m.b(F.conv2d(m.stem(x), (weight - mean) / (var + 1e-5).sqrt(), m.a.bias, padding=1).relu())


def standardised_by_batch_norm(m: Net, x: Tensor) -> Tensor:
    """Standardise a kernel with the batch norm of filters as channels."""
    flat = m.a.weight.reshape(1, m.a.weight.shape[0], -1)
    weight = F.batch_norm(flat, None, None, training=True).reshape_as(m.a.weight)
    return m.b(F.conv2d(m.stem(x), weight, m.a.bias, padding=1).relu())


def parametrised(function: object) -> Net:
    """Return a network whose middle kernel is computed from other tensors."""
    return Net(lambda m, x: m.b(m.a(m.stem(x)).relu()), stem=conv(3, 8), a=function(conv(8, 6)), b=conv(6, 2))


def unfolded(m: Net, x: Tensor) -> Tensor:
    """Convolve as a matrix product over columns."""
    columns = F.unfold(m.a(x), 3, padding=1)
    return (m.matrix @ columns).unflatten(-1, (6, 6))


def folded(m: Net, x: Tensor) -> Tensor:
    """Lay channels out as pixels under a kernel and add them up."""
    return m.b(F.fold(m.a(x).flatten(2), (7, 7), 2))


def mixture(m: Net, x: Tensor) -> Tensor:
    """Mix two kernels by the input's mean, as conditional convolutions do for one image."""
    share = m.gate(x.mean((0, 2, 3))).sigmoid()
    return m.b(F.conv2d(m.a(x), share * m.first + (1 - share) * m.second))


def of_each_image(m: Net, x: Tensor) -> Tensor:
    """Mix two kernels for each image, all of which one grouped convolution applies."""
    share = m.gate(x.mean((2, 3))).softmax(-1)
    kernels = (share @ m.kernels.view(2, -1)).view(-1, 3, 3, 3)
    mixed = F.conv2d(x.reshape(1, -1, 6, 6), kernels, groups=x.shape[0], padding=1)
    return m.b(mixed.view(-1, 8, 6, 6))


def blurred(m: Net, x: Tensor) -> Tensor:
    """Halve the image by a stored kernel that all channels share."""
    hidden = m.a(x)
    kernel = m.kernel.expand(hidden.shape[1], -1, -1, -1)
    return m.b(F.conv2d(F.pad(hidden, (1, 1, 1, 1), "reflect"), kernel, stride=2, groups=hidden.shape[1]))


PATTERNS = {
    "plain with batch norm": Pattern(
        lambda: Net(lambda m, x: m.b(m.bn(m.a(x)).relu()), a=conv(3, 8), bn=nn.BatchNorm2d(8), b=conv(8, 2)),
        {"a": 8},
    ),
    "one dimension": Pattern(
        lambda: Net(
            lambda m, x: m.c(m.bn(m.b(m.a(x))).amax(2)),
            a=nn.Conv1d(3, 8, 3),
            b=nn.Conv1d(8, 6, 3, bias=False),
            bn=nn.BatchNorm1d(6),
            c=nn.Linear(6, 2),
        ),
        {"a": 8, "b": 6},
        shapes=((2, 3, 9),),
    ),
    "three dimensions": Pattern(
        lambda: Net(
            lambda m, x: m.c(m.bn(m.b(m.a(x))).mean((2, 3, 4))),
            a=nn.Conv3d(3, 8, 3, padding=1),
            b=nn.Conv3d(8, 6, 3, stride=2),
            bn=nn.BatchNorm3d(6),
            c=nn.Linear(6, 2),
        ),
        {"a": 8, "b": 6},
        shapes=((2, 3, 5, 5, 5),),
    ),
    "strided, dilated, padded with a mirror": Pattern(
        lambda: Net(
            lambda m, x: m.b(m.a(x)),
            a=nn.Conv2d(3, 8, 3, 2, 1, padding_mode="reflect"),
            b=nn.Conv2d(8, 2, 3, 1, "same", dilation=2, padding_mode="circular"),
        ),
        {"a": 8},
    ),
    "depthwise separable": Pattern(
        lambda: Net(lambda m, x: m.c(m.b(m.a(x)).relu()), a=conv(3, 8), b=conv(8, 8, groups=8), c=conv(8, 2)),
        {"a": 8},
    ),
    "depthwise with multiplier": Pattern(
        lambda: Net(lambda m, x: m.c(m.b(m.a(x)).relu()), a=conv(3, 8), b=conv(8, 16, groups=8), c=conv(16, 2)),
        {"a": 8},
    ),
    "depthwise in one dimension": Pattern(
        lambda: Net(
            lambda m, x: m.c(m.b(m.a(x)).relu()),
            a=nn.Conv1d(3, 8, 3),
            b=nn.Conv1d(8, 16, 3, groups=8),
            c=nn.Conv1d(16, 2, 1),
        ),
        {"a": 8},
        shapes=((2, 3, 9),),
    ),
    "few wide groups": Pattern(
        lambda: Net(lambda m, x: m.c(m.b(m.a(x)).relu()), a=conv(3, 16), b=conv(16, 12, groups=2), c=conv(12, 2)),
        {"a": 8, "b": 6},
    ),
    "many narrow groups": Pattern(
        lambda: Net(lambda m, x: m.c(m.b(m.a(x)).relu()), a=conv(3, 16), b=conv(16, 24, groups=8), c=conv(24, 2)),
        {"a": 8},
    ),
    "groups in three dimensions": Pattern(
        lambda: Net(
            lambda m, x: m.c(m.b(m.a(x)).relu()),
            a=nn.Conv3d(3, 8, 1),
            b=nn.Conv3d(8, 12, 3, groups=2),
            c=nn.Conv3d(12, 2, 1),
        ),
        {"a": 4, "b": 6},
        shapes=((2, 3, 4, 4, 4),),
        again={"a": 2},  # two inputs per group are as many as there are groups: now whole groups leave
    ),
    "grouped after grouped": Pattern(
        lambda: Net(
            lambda m, x: m.c(m.b(m.a(m.stem(x))).relu()),
            stem=conv(3, 8),
            a=conv(8, 16, groups=4),
            b=conv(16, 16, groups=2),
            c=conv(16, 2),
        ),
        {"stem": 2, "b": 8},
    ),
    "groups of the image": Pattern(
        lambda: Net(lambda m, x: m.b(m.a(x)), a=nn.Conv2d(4, 16, 3, groups=2), b=conv(16, 2)),
        {},
        shapes=((2, 4, 6, 6),),
    ),
    "concat into few groups": Pattern(
        lambda: Net(
            lambda m, x: m.c(m.g(torch.cat([m.a(x), m.b(x)], 1)).relu()),
            a=conv(3, 8),
            b=conv(3, 8),
            g=conv(16, 16, groups=2),
            c=conv(16, 2),
        ),
        {"a": 8, "g": 8},
    ),
    "concat into depthwise": Pattern(
        lambda: Net(
            lambda m, x: m.c(m.g(torch.cat([m.a(x), m.b(x)], 1)).relu()),
            a=conv(3, 8),
            b=conv(3, 6),
            g=conv(14, 14, groups=14),
            c=conv(14, 2),
        ),
        {"a": 8, "b": 6},
    ),
    "transposed": Pattern(
        lambda: Net(
            lambda m, x: m.b(m.bn(m.up(m.a(x)))),
            a=conv(3, 8),
            up=nn.ConvTranspose2d(8, 6, 2, stride=2),
            bn=nn.BatchNorm2d(6),
            b=conv(6, 2),
        ),
        {"a": 8, "up": 6},
    ),
    "transposed in one and three dimensions": Pattern(
        lambda: Net(
            lambda m, x: m.c(m.b(m.a(x).unflatten(2, (2, 2, 3)))),
            a=nn.ConvTranspose1d(3, 8, 4),
            b=nn.ConvTranspose3d(8, 6, 2, bias=False),
            c=nn.Conv3d(6, 2, 1),
        ),
        {"a": 8, "b": 6},
        shapes=((2, 3, 9),),
    ),
    "transposed depthwise": Pattern(
        lambda: Net(
            lambda m, x: m.b(m.up(m.a(x))), a=conv(3, 8), up=nn.ConvTranspose2d(8, 8, 2, 2, groups=8), b=conv(8, 2)
        ),
        {"a": 8},
    ),
    "transposed in groups": Pattern(
        lambda: Net(
            lambda m, x: m.b(m.up(m.a(x))), a=conv(3, 16), up=nn.ConvTranspose2d(16, 24, 2, 2, groups=8), b=conv(24, 2)
        ),
        {"a": 8},
    ),
    "linear": Pattern(
        lambda: Net(
            lambda m, x: m.c(m.b(m.a(x).relu()).relu()),
            a=nn.Linear(5, 8),
            b=nn.Linear(8, 6, bias=False),
            c=nn.Linear(6, 2),
        ),
        {"a": 8, "b": 6},
        shapes=((2, 5),),
    ),
    "linear over channels last": Pattern(
        lambda: Net(
            lambda m, x: m.d(m.c(m.b(m.a(x).permute(0, 2, 3, 1)).relu()).permute(0, 3, 1, 2)),
            a=conv(3, 8),
            b=nn.Linear(8, 12),
            c=nn.Linear(12, 6),
            d=conv(6, 2),
        ),
        {"a": 8, "b": 12, "c": 6},
    ),
    "bilinear of one input": Pattern(
        lambda: Net(lambda m, x: m.b(F.bilinear(x, x, m.w)), w=nn.Parameter(torch.randn(8, 5, 5)), b=nn.Linear(8, 2)),
        {},
        shapes=((2, 5),),
        frozen=("aten.bilinear in the network has no rule", "aten.linear in b meets a fixed tensor"),
        counted=False,
    ),
    "weight standardisation": Pattern(
        lambda: Net(standardised, stem=conv(3, 8), a=conv(8, 6), b=conv(6, 2)),
        {"stem": 8, "baked_weight": 6},
        rewritten="computes baked_weight itself",
    ),
    "weight standardisation by batch norm": Pattern(
        lambda: Net(standardised_by_batch_norm, stem=conv(3, 8), a=conv(8, 6), b=conv(6, 2)),
        {"stem": 8, "baked_weight": 6},
        rewritten="computes baked_weight itself",
    ),
    "weight norm": Pattern(
        lambda: parametrised(weight_norm), {"stem": 8, "a": 6}, rewritten="computes a.baked_weight itself"
    ),
    "spectral norm": Pattern(
        lambda: parametrised(spectral_norm), {"stem": 8, "a": 6}, rewritten="computes a.baked_weight itself"
    ),
    "orthogonal kernel": Pattern(
        lambda: Net(
            lambda m, x: m.b(m.a(m.stem(x)).relu()),
            stem=nn.Linear(5, 8),
            a=orthogonal(nn.Linear(8, 8)),
            b=nn.Linear(8, 2),
        ),
        {"stem": 8, "a": 8},
        shapes=((2, 5),),
        rewritten="computes a.baked_weight itself",
        counted=False,
    ),
    "kernel times a stored gain": Pattern(
        lambda: Net(
            lambda m, x: m.b(F.conv2d(m.a(x), m.w * m.gain, padding=1).relu()),
            a=conv(3, 8),
            w=nn.Parameter(torch.randn(6, 8, 3, 3)),
            gain=nn.Parameter(torch.rand(6, 1, 1, 1)),
            b=conv(6, 2),
        ),
        {"a": 8, "w": 6},
    ),
    "kernel that the input mixes": Pattern(
        lambda: Net(
            mixture,
            a=conv(3, 8),
            gate=nn.Linear(3, 1),
            first=nn.Parameter(torch.randn(6, 8, 3, 3)),
            second=nn.Parameter(torch.randn(6, 8, 3, 3)),
            b=conv(6, 2),
        ),
        {"a": 8, "first": 6},
    ),
    "kernel of each image": Pattern(
        lambda: Net(
            of_each_image, gate=nn.Linear(3, 2), kernels=nn.Parameter(torch.randn(2, 8, 3, 3, 3)), b=conv(8, 2)
        ),
        {"gate": 2},
        statistics=("softmax in the network",),
        rewritten="does not run",
        frozen=("aten.conv2d in", "aten.view in the network merges channels with another dimension"),
        counted=False,
        again={},
    ),
    "blur before a stride": Pattern(
        lambda: Net(blurred, a=conv(3, 8), kernel=nn.Parameter(torch.rand(1, 1, 3, 3)), b=conv(8, 2)), {"a": 8}
    ),
    "convolution by columns": Pattern(
        lambda: Net(unfolded, a=conv(3, 8), matrix=nn.Parameter(torch.randn(2, 72))), {"a": 8}
    ),
    "fold": Pattern(lambda: Net(folded, a=conv(3, 32), b=conv(8, 2)), {"a": 8}),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", PATTERNS)
def test_convolutions(name: str) -> None:
    """Half of every group leaves exactly, at the predicted cost; what stays whole has its reason."""
    check(PATTERNS[name])
