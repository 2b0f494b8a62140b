"""Operators that move numbers: reshapes, concatenations, splits, slices, shuffles, paddings."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.unit.compress.pruning.networks import Net, Pattern, check, conv


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Shuffle channels by view and transpose, as ShuffleNet does."""
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(batch, -1, height, width)


def shuffle_unit(m: Net, x: Tensor) -> Tensor:
    """Transform one half of the channels, then shuffle both."""
    first, second = m.stem(x).chunk(2, 1)
    return m.head(shuffled(torch.cat([first, m.a(second)], 1), 2))


def option_a(x: Tensor, extra: int) -> Tensor:
    """Halve the image and pad the channels, as the first ResNet for CIFAR does."""
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra // 2, extra // 2))


def split_gate(m: Net, x: Tensor) -> Tensor:
    """Split by a size that is taken from the tensor."""
    hidden = m.a(x)
    first, second = hidden.split(hidden.shape[1] // 2, 1)
    return m.b(first * second)


def slice_gate(m: Net, x: Tensor) -> Tensor:
    """Split by slices that are taken from the tensor."""
    hidden = m.a(x)
    half = hidden.shape[1] // 2
    return m.b(hidden[:, :half] * hidden[:, half:])


def part_transformed(m: Net, x: Tensor) -> Tensor:
    """Convolve a quarter of the channels and leave the others, as FasterNet does."""
    first, rest = m.a(x).split([4, 12], 1)
    return m.c(torch.cat([m.b(first), rest], 1))


def cross_stage(m: Net, x: Tensor) -> Tensor:
    """Keep all intermediate maps of one half, as C2f of YOLOv8 does."""
    maps = list(m.a(x).chunk(2, 1))
    maps.append(m.b(maps[-1]))
    maps.append(m.c(maps[-1]))
    return m.head(torch.cat(maps, 1))


def dense(m: Net, x: Tensor) -> Tensor:
    """Give every layer all maps before it."""
    first = m.a(x)
    second = torch.cat([first, m.b(first).relu()], 1)
    return m.head(torch.cat([second, m.c(second).relu()], 1))


def multi_scale(m: Net, x: Tensor) -> Tensor:
    """Add each part to the next before it is convolved, as Res2Net does."""
    first, second, third = m.a(x).split(4, 1)
    second = m.b(second)
    return m.d(torch.cat([first, second, m.c(third + second)], 1))


def u_net(m: Net, x: Tensor) -> Tensor:
    """Go down and up by pooling, a transposed convolution and interpolation."""
    hidden = m.a(x)
    coarse = F.interpolate(F.avg_pool2d(hidden, 2), scale_factor=2.0, mode="bilinear")
    return m.head(torch.cat([m.up(F.max_pool2d(hidden, 2)), hidden, coarse], 1))


def space_to_depth(m: Net, x: Tensor) -> Tensor:
    """Move 2x2 pixels into channels by view and permute, the channels last among them."""
    hidden = m.a(x)
    batch, channels, height, width = hidden.shape
    blocks = hidden.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return m.b(blocks.reshape(batch, channels * 4, height // 2, width // 2))


def patch_merging(m: Net, x: Tensor) -> Tensor:
    """Put 2x2 tokens side by side, as Swin does between stages."""
    tokens = m.a(x).permute(0, 2, 3, 1)
    parts = [tokens[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    return m.b(torch.cat(parts, -1))


def windows(m: Net, x: Tensor) -> Tensor:
    """Cut the image into windows of 3x3 and put it together again."""
    tokens = m.a(x).permute(0, 2, 3, 1)
    batch, height, width, channels = tokens.shape
    cut = tokens.view(batch, height // 3, 3, width // 3, 3, channels).permute(0, 1, 3, 2, 4, 5)
    cut = m.b(cut.reshape(-1, 9, channels)).view(batch, height // 3, width // 3, 3, 3, -1)
    return m.c(cut.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, height, width))


def stacked(m: Net, x: Tensor) -> Tensor:
    """Choose between branches by their own sum."""
    return m.c(torch.stack([m.a(x), m.b(x)], 1).mean(1))


def pair(forward: object, inner: int = 8, outer: int = 8) -> Net:
    """Return two convolutions with something in between."""
    return Net(forward, a=conv(3, inner), b=conv(outer, 2))


FIXED = "aten.conv2d in b meets a fixed tensor"
PATTERNS = {
    "flatten": Pattern(
        lambda: Net(lambda m, x: m.fc(m.a(x).flatten(1)), a=conv(3, 8), fc=nn.Linear(8 * 36, 2)), {"a": 8}
    ),
    "flatten channels last": Pattern(
        lambda: Net(lambda m, x: m.fc(m.a(x).permute(0, 2, 3, 1).flatten(1)), a=conv(3, 8), fc=nn.Linear(8 * 36, 2)),
        {"a": 8},
    ),
    "flatten of a literal size": Pattern(
        lambda: Net(lambda m, x: m.fc(m.a(x).view(-1, 288)), a=conv(3, 8), fc=nn.Linear(288, 2)),
        {"a": 8},
        rewritten="does not run",
    ),
    "flatten and back": Pattern(lambda: pair(lambda m, x: m.b(m.a(x).flatten(1).unflatten(1, (-1, 6, 6)))), {"a": 8}),
    "flatten and back by literals": Pattern(
        lambda: pair(lambda m, x: m.b(m.a(x).flatten(1).unflatten(1, (8, 6, 6)))), {"a": 8}, rewritten="does not run"
    ),
    "movedim": Pattern(
        lambda: Net(lambda m, x: m.b(m.a(x).movedim(1, -1)).movedim(-1, 1), a=conv(3, 8), b=nn.Linear(8, 2)), {"a": 8}
    ),
    "inception": Pattern(
        lambda: Net(
            lambda m, x: m.head(torch.cat([m.a(x), m.b(x), x], 1)), a=conv(3, 8), b=conv(3, 6), head=conv(17, 2)
        ),
        {"a": 8, "b": 6},
    ),
    "dense": Pattern(
        lambda: Net(dense, a=conv(3, 8), b=conv(8, 4), c=conv(12, 4), head=conv(16, 2)), {"a": 8, "b": 4, "c": 4}
    ),
    "same map twice": Pattern(
        lambda: Net(lambda m, x: m.b(torch.cat([m.a(x), m.a(x).relu()], 1)), a=conv(3, 8), b=conv(16, 2)), {"a": 8}
    ),
    "option A": Pattern(
        lambda: Net(
            lambda m, x: m.head(m.a(m.stem(x)) + option_a(m.stem(x), 8)),
            stem=conv(3, 8),
            a=conv(8, 16, stride=2),
            head=conv(16, 2),
        ),
        {"stem": 8},
        frozen=("meets a fixed position",),
    ),
    "shuffle": Pattern(lambda: pair(lambda m, x: m.b(shuffled(m.a(x), 2)), 16, 16), {"a": 8}),
    "shuffle of three groups": Pattern(
        lambda: pair(lambda m, x: m.b(shuffled(m.a(x), 3)), 12, 12),
        {"a": 4},
        again={"a": 3},  # 6 channels are viewed as [3, 2]: of the two axes, atoms go on the larger
    ),
    "shuffle module": Pattern(
        lambda: Net(lambda m, x: m.b(m.s(m.a(x))), a=conv(3, 16), s=nn.ChannelShuffle(2), b=conv(16, 2)), {"a": 8}
    ),
    "shuffle unit": Pattern(lambda: Net(shuffle_unit, stem=conv(3, 16), a=conv(8, 8), head=conv(16, 2)), {"stem": 8}),
    "chunk gate": Pattern(lambda: pair(lambda m, x: m.b(torch.mul(*m.a(x).chunk(2, 1))), 16), {"a": 8}),
    "chunks that nothing couples": Pattern(
        lambda: Net(
            lambda m, x: m.c(m.a(x).chunk(2, 1)[0]) + m.d(m.a(x).chunk(2, 1)[1]),
            a=conv(3, 16),
            c=conv(8, 2),
            d=conv(8, 2),
        ),
        {"a": 8},
    ),
    "split gate": Pattern(lambda: pair(split_gate, 16), {"a": 8}),
    "slice gate": Pattern(lambda: pair(slice_gate, 16), {"a": 8}),
    "unbind gate": Pattern(
        lambda: pair(lambda m, x: m.b(torch.mul(*m.a(x).unflatten(1, (2, -1)).unbind(1))), 16), {"a": 8}
    ),
    "gated linear unit": Pattern(lambda: pair(lambda m, x: m.b(F.glu(m.a(x), 1)), 16), {"a": 8}),
    "unequal split": Pattern(
        lambda: Net(
            lambda m, x: sum(f(part) for f, part in zip((m.b, m.c), m.a(x).split([5, 3], 1), strict=True)),
            a=conv(3, 8),
            b=conv(5, 2),
            c=conv(3, 2),
        ),
        {"a": 5, "a:2": 3},
        rewritten="does not run",
    ),
    "unequal split with an unused part": Pattern(
        lambda: pair(lambda m, x: m.b(m.a(x).split([5, 3], 1)[0]), outer=5),
        {"a": 5, "a:2": 3},
        rewritten="does not run",
    ),
    "slices of unequal parts": Pattern(
        lambda: Net(lambda m, x: m.b(m.a(x)[:, :5]) + m.c(m.a(x)[:, -3:]), a=conv(3, 8), b=conv(5, 2), c=conv(3, 2)),
        {"a": 5, "a:2": 3},
        rewritten="does not run",
    ),
    "overlapping slices": Pattern(
        lambda: Net(
            lambda m, x: m.b(m.a(x)[:, :6]) + m.c(m.a(x).narrow(1, 3, 5)), a=conv(3, 8), b=conv(6, 2), c=conv(5, 2)
        ),
        {"a": 3, "a:2": 3, "a:3": 2},
        rewritten="does not run",
    ),
    "every other channel": Pattern(lambda: pair(lambda m, x: m.b(m.a(x)[:, ::2]), outer=4), {"a": 4}),
    "part of the channels transformed": Pattern(
        lambda: Net(part_transformed, a=conv(3, 16), b=conv(4, 6), c=conv(18, 2)),
        {"a": 4, "a:2": 12, "b": 6},
        rewritten="does not run",
    ),
    "cross stage": Pattern(
        lambda: Net(cross_stage, a=conv(3, 16), b=conv(8, 8), c=conv(8, 6), head=conv(30, 2)), {"a": 8, "b": 8, "c": 6}
    ),
    "multi-scale": Pattern(
        lambda: Net(multi_scale, a=conv(3, 12), b=conv(4, 4), c=conv(4, 6), d=conv(14, 2)),
        {"a": 4, "c": 6},
        rewritten="does not run",
    ),
    "u-net": Pattern(
        lambda: Net(u_net, a=conv(3, 8), up=nn.ConvTranspose2d(8, 6, 2, stride=2), head=conv(22, 2)), {"a": 8, "up": 6}
    ),
    "pixel shuffle": Pattern(lambda: pair(lambda m, x: m.b(F.pixel_shuffle(m.a(x), 2)), 32), {"a": 8}),
    "pixel unshuffle": Pattern(lambda: pair(lambda m, x: m.b(F.pixel_unshuffle(m.a(x), 2)), 8, 32), {"a": 8}),
    "space to depth": Pattern(lambda: pair(space_to_depth, 8, 32), {"a": 8}),
    "patch merging": Pattern(lambda: Net(patch_merging, a=conv(3, 8), b=nn.Linear(32, 2)), {"a": 8}),
    "windows": Pattern(lambda: Net(windows, a=conv(3, 8), b=nn.Linear(8, 10), c=conv(10, 2)), {"a": 8, "b": 10}),
    "stack": Pattern(lambda: Net(stacked, a=conv(3, 8), b=conv(3, 8), c=conv(8, 2)), {"a": 8}),
    "repeated channels": Pattern(lambda: pair(lambda m, x: m.b(m.a(x).repeat(1, 2, 1, 1)), 8, 16), {"a": 8}),
    "interleaved channels": Pattern(lambda: pair(lambda m, x: m.b(m.a(x).repeat_interleave(2, 1)), 8, 16), {"a": 8}),
    "vector expanded over pixels": Pattern(
        lambda: Net(
            lambda m, x: m.b(m.a(x.mean((2, 3)))[..., None, None].expand(-1, -1, 6, 6)), a=nn.Linear(3, 8), b=conv(8, 2)
        ),
        {"a": 8},
    ),
    "vector expanded to a literal size": Pattern(
        lambda: Net(
            lambda m, x: m.b(m.a(x.mean((2, 3)))[..., None, None].expand(-1, 8, 6, 6)), a=nn.Linear(3, 8), b=conv(8, 2)
        ),
        {"a": 8},
        rewritten="does not run",
    ),
    "map expanded over channels": Pattern(
        lambda: Net(lambda m, x: m.b(m.a(x) * m.c(x).expand(-1, 8, -1, -1)), a=conv(3, 8), c=conv(3, 1), b=conv(8, 2)),
        {"a": 8},
        rewritten="does not run",
    ),
    "channels padded by zeros": Pattern(
        lambda: pair(lambda m, x: m.b(F.pad(m.a(x), (0, 0, 0, 0, 2, 2))), 8, 12),
        {"a": 8},
        frozen=("aten.conv2d in b meets a fixed position",),
    ),
    "zeros next to channels": Pattern(
        lambda: pair(lambda m, x: m.b(torch.cat([m.a(x), torch.zeros_like(x)], 1)), 8, 11), {"a": 8}
    ),
    "channels turned around": Pattern(
        lambda: pair(lambda m, x: m.b(m.a(x).flip(1))), {}, frozen=("aten.flip in the network mixes or picks", FIXED)
    ),
    "channels rolled": Pattern(
        lambda: pair(lambda m, x: m.b(m.a(x).roll(2, 1))), {}, frozen=("aten.roll in the network mixes or picks", FIXED)
    ),
    "pixels rolled and turned": Pattern(lambda: pair(lambda m, x: m.b(m.a(x).roll((1, 1), (2, 3)).flip(-1))), {"a": 8}),
    "one channel selected": Pattern(
        lambda: Net(lambda m, x: m.b(m.a(x)) * m.a(x)[:, 1:2], a=conv(3, 8), b=conv(8, 2)),
        {"a": 7},
        frozen=("leaves a single channel",),
    ),
    "channels permuted by an index": Pattern(
        lambda: pair(lambda m, x: m.b(m.a(x)[:, [3, 1, 0, 2, 7, 6, 5, 4]])),
        {},
        frozen=("aten.index in the network looks entries up", FIXED),
    ),
    "channels into the batch": Pattern(lambda: pair(lambda m, x: m.b(m.a(x).view(-1, 1, 6, 6)), outer=1), {}),
    "channels into the batch and back": Pattern(
        lambda: Net(
            lambda m, x: m.c(m.b(m.a(x).view(-1, 1, 6, 6)).view(len(x), -1, 4, 6, 6).flatten(1, 2)),
            a=conv(3, 8),
            b=conv(1, 4),
            c=conv(32, 2),
        ),
        {"a": 8},
        frozen=("aten.flatten in the network merges channels",),
        again={"b": 4},  # of two merged dimensions, the wider is free
    ),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", PATTERNS)
def test_layouts(name: str) -> None:
    """Half of every group leaves exactly, wherever its numbers went; what stays whole has its reason."""
    check(PATTERNS[name])
