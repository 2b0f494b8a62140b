"""Residual sums, shared layers, several inputs and outputs, and what the engine has to leave alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.unit.compress.pruning.networks import Net, Net2, Pattern, check, conv


def tied() -> Net:
    """Return two convolutions that share one weight."""
    net = Net(
        lambda m, x: m.head(m.b(m.a(m.stem(x)).relu())), stem=conv(3, 8), a=conv(8, 8), b=conv(8, 8), head=conv(8, 2)
    )
    net.b.weight = net.a.weight
    return net


def overlapping() -> Net:
    """Return two linear layers, one of whose weights is a part of the other's memory."""
    net = Net(lambda m, x: m.b(m.a(x)) + m.c(x), a=nn.Linear(5, 8), b=nn.Linear(8, 2), c=nn.Linear(5, 2))
    net.c.weight = nn.Parameter(net.a.weight.data[:2])
    return net


def in_place(m: Net, x: Tensor) -> Tensor:
    """Add and activate in place."""
    hidden = m.a(x)
    hidden += m.b(x)
    hidden.mul_(2.0).relu_()
    return m.c(F.dropout(hidden, 0.3, m.training))


def written(m: Net, x: Tensor) -> Tensor:
    """Write one map over a part of another."""
    hidden = m.a(x)
    hidden[:, :4] = m.b(x)
    return m.c(hidden)


def pyramid(m: Net, x: Tensor) -> list[Tensor]:
    """Give two maps of different size to one head, as detectors do."""
    fine = m.a(x)
    coarse = m.b(F.max_pool2d(fine, 2))
    fine = m.side(fine) + F.interpolate(coarse, scale_factor=2.0)
    return [m.head(each) for each in (fine, coarse)]


def auxiliary(m: Net, x: Tensor) -> dict[str, object]:
    """Return classes, and in a tuple a map and its mean."""
    hidden = m.a(x)
    return {"classes": m.c(m.b(hidden).mean((2, 3))), "maps": (hidden, hidden.mean((2, 3)))}


def detections(m: Net, x: Tensor) -> Tensor:
    """Put the boxes and classes of two maps one after another."""
    hidden = m.a(x)
    maps = [m.fine(hidden).flatten(2), m.coarse(F.max_pool2d(hidden, 2)).flatten(2)]
    boxes, classes = torch.cat(maps, 2).transpose(1, 2).split([4, 3], -1)
    return torch.cat([boxes.sigmoid(), classes], -1)


def unpooled(m: Net, x: Tensor) -> Tensor:
    """Put maxima back where they were."""
    hidden, places = F.max_pool2d(m.a(x), 2, return_indices=True)
    return m.c(F.max_unpool2d(m.b(hidden), places, 2))


PATTERNS = {
    "residual": Pattern(
        lambda: Net(
            lambda m, x: m.head(m.b(m.a(m.stem(x)).relu()) + m.stem(x)),
            stem=conv(3, 8),
            a=conv(8, 6),
            b=conv(6, 8),
            head=conv(8, 2),
        ),
        {"stem": 8, "a": 6},
    ),
    "residual with a projection": Pattern(
        lambda: Net(
            lambda m, x: m.head(m.b(m.a(x).relu()) + m.side(x)),
            a=conv(3, 6),
            b=conv(6, 8, stride=2),
            side=conv(3, 8, 1, 2),
            head=conv(8, 2),
        ),
        {"a": 6, "b": 8},
    ),
    "image residual": Pattern(lambda: Net(lambda m, x: x + m.b(m.a(x).relu()), a=conv(3, 8), b=conv(8, 3)), {"a": 8}),
    "image next to maps": Pattern(
        lambda: Net(lambda m, x: m.b(m.a(x) + x.repeat(1, 2, 1, 1)), a=conv(3, 6), b=conv(6, 2)), {}
    ),
    "one image channel broadcast": Pattern(
        lambda: Net(lambda m, x: m.b(m.a(x) + x[:, :1]), a=conv(3, 8), b=conv(8, 2)), {"a": 8}
    ),
    "tied convolutions": Pattern(tied, {"stem": 8}),
    "tied autoencoder": Pattern(
        lambda: Net(lambda m, x: F.linear(m.a(x.flatten(1)).relu(), m.a.weight.t()), a=nn.Linear(108, 8)),
        {"a": 8},
        frozen=("aten.linear in a meets a fixed tensor",),
    ),
    "used twice": Pattern(
        lambda: Net(lambda m, x: m.b(m.a(m.a(m.stem(x)))), stem=conv(3, 8), a=conv(8, 8), b=conv(8, 2)), {"stem": 8}
    ),
    "used on two maps": Pattern(
        lambda: Net(
            lambda m, x: m.c(m.n(m.a(x)).relu()) + m.d(m.n(m.b(x)).relu()),
            a=conv(3, 8),
            b=conv(3, 8),
            n=nn.BatchNorm2d(8),
            c=conv(8, 2),
            d=conv(8, 2),
        ),
        {"a": 8},
    ),
    "overlapping memory": Pattern(
        overlapping, {}, shapes=((2, 5),), frozen=("shares memory with a tensor",), again={"a": 8}
    ),
    "unused layer": Pattern(
        lambda: Net(lambda m, x: m.b(m.a(x)), a=conv(3, 8), aside=conv(8, 8), b=conv(8, 2)),
        {"a": 8},
        frozen=("not used in evaluation",),
    ),
    "unknown operator": Pattern(
        lambda: Net(lambda m, x: m.c(torch.cummax(m.b(m.a(x)), 1)[0]), a=conv(3, 8), b=conv(8, 8), c=conv(8, 2)),
        {"a": 8},
        frozen=("aten.cummax in the network has no rule (networks.py:", "aten.conv2d in c meets a fixed tensor"),
    ),
    "in place": Pattern(lambda: Net(in_place, a=conv(3, 8), b=conv(3, 8), c=conv(8, 2)), {"a": 8}),
    "written over": Pattern(
        lambda: Net(written, a=conv(3, 8), b=conv(3, 4), c=conv(8, 2)), {"a": 4}, rewritten="does not run"
    ),
    "two inputs": Pattern(
        lambda: Net2(
            lambda m, x, y: m.c(m.a(x) + m.b(y)[..., None, None]), a=conv(3, 8), b=nn.Linear(4, 8), c=conv(8, 2)
        ),
        {"a": 8},
        shapes=((2, 3, 6, 6), (2, 4)),
    ),
    "one network for two images": Pattern(
        lambda: Net2(lambda m, x, y: m.b(m.a(x)).amax((2, 3)) - m.b(m.a(y)).amax((2, 3)), a=conv(3, 8), b=conv(8, 2)),
        {"a": 8},
        shapes=((2, 3, 6, 6), (2, 3, 5, 5)),
    ),
    "two outputs": Pattern(
        lambda: Net(lambda m, x: (m.b(m.a(x)), m.c(m.a(x))), a=conv(3, 8), b=conv(8, 4), c=conv(8, 2)), {"a": 8}
    ),
    "inner map among the outputs": Pattern(
        lambda: Net(auxiliary, a=conv(3, 8), b=conv(8, 6), c=nn.Linear(6, 2)), {"b": 6}
    ),
    "one head for two maps": Pattern(
        lambda: Net(pyramid, a=conv(3, 8), b=conv(8, 6), side=conv(8, 6, 1), head=conv(6, 2)), {"a": 8, "b": 6}
    ),
    "detections of two maps": Pattern(
        lambda: Net(detections, a=conv(3, 8), fine=conv(8, 7), coarse=conv(8, 7)), {"a": 8}
    ),
    "places of maxima": Pattern(lambda: Net(unpooled, a=conv(3, 8), b=conv(8, 8), c=conv(8, 2)), {"a": 8}),
    "directions compared": Pattern(
        lambda: Net(
            lambda m, x: F.linear(F.normalize(m.a(x)), F.normalize(m.w)),
            a=nn.Linear(12, 8),
            w=nn.Parameter(torch.randn(3, 8)),
        ),
        {"a": 8},
        shapes=((2, 12),),
        rewritten="computes baked_weight itself",
    ),
    "whole network is one layer": Pattern(lambda: Net(lambda m, x: m.a(x), a=conv(3, 8)), {}),
    "sequential": Pattern(
        lambda: nn.Sequential(conv(3, 8), nn.Sequential(nn.ReLU(), conv(8, 6)), nn.Flatten(), nn.Linear(216, 2)),
        {"0": 8, "1.1": 6},
    ),
    "branches of where": Pattern(
        lambda: Net(
            lambda m, x: m.c(torch.where(x.mean((1, 2, 3), keepdim=True) > 0, m.a(x), m.b(x))),
            a=conv(3, 8),
            b=conv(3, 8),
            c=conv(8, 2),
        ),
        {"a": 8},
    ),
    "resampled by a flow": Pattern(
        lambda: Net(
            lambda m, x: m.c(F.grid_sample(m.a(x), m.b(x).permute(0, 2, 3, 1).tanh(), align_corners=False)),
            a=conv(3, 8),
            b=conv(3, 2),
            c=conv(8, 2),
        ),
        {"a": 8},
        frozen=("samples positions",),
    ),
    "tokens chosen by a mask": Pattern(
        lambda: Net(lambda m, x: m.c(m.a(x)[x.sum(-1) > 0]), a=nn.Linear(12, 8), c=nn.Linear(8, 2)),
        {"a": 8},
        shapes=((2, 5, 12),),
        counted=False,
    ),
    "order of values": Pattern(
        lambda: Net(lambda m, x: m.c(m.a(x).flatten(2).topk(4)[0].mean(2)), a=conv(3, 8), c=nn.Linear(8, 2)),
        {"a": 8},
    ),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", PATTERNS)
def test_wiring(name: str) -> None:
    """What meets in a sum leaves together; inputs, outputs and what no rule knows stay, and it is said why."""
    check(PATTERNS[name])
