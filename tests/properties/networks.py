"""Random small networks: blocks of many families in any order, between a stem and a head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

SIZE = 4  # pixels of a side


class Plain(nn.Module):
    """Convolve, normalise, activate; the variants have other kernels, groups and norms."""

    def __init__(self, inner: int, width: int, variant: int) -> None:
        super().__init__()
        kernel = 3 if variant % 2 else 1
        groups = 1 if variant < 2 else (2 if inner % 2 == 0 else 1)
        self.conv = nn.Conv2d(inner, width, kernel, padding=kernel // 2, groups=groups, bias=variant != 1)
        self.norm = (nn.BatchNorm2d(width), nn.BatchNorm2d(width), nn.GroupNorm(1, width), nn.Identity())[variant]

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inner, H, W] to [N, width, H, W]."""
        return F.leaky_relu(self.norm(self.conv(x)), 0.1)


class Depthwise(nn.Module):
    """A depthwise convolution, with a multiplier in half of the variants, and a pointwise one."""

    def __init__(self, inner: int, width: int, variant: int) -> None:
        super().__init__()
        middle = inner * (1 + variant % 2)
        self.deep = nn.Conv2d(inner, middle, 3, padding=1, groups=inner)
        self.norm = nn.BatchNorm2d(middle)
        self.point = nn.Conv2d(middle, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inner, H, W] to [N, width, H, W]."""
        return self.point(F.silu(self.norm(self.deep(x))))


class Residual(nn.Module):
    """A bottleneck around which the input goes, as it is or projected."""

    def __init__(self, inner: int, width: int, variant: int) -> None:
        super().__init__()
        out = inner if variant % 2 else width
        self.side = nn.Identity() if out == inner else nn.Conv2d(inner, out, 1)
        self.a, self.n, self.b = nn.Conv2d(inner, width, 1), nn.BatchNorm2d(width), nn.Conv2d(width, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inner, H, W] to [N, out, H, W]."""
        return self.side(x) + self.b(F.leaky_relu(self.n(self.a(x)), 0.1))


class Concat(nn.Module):
    """Two branches next to the input (dense), or next to each other (inception)."""

    def __init__(self, inner: int, width: int, variant: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(inner, width, 1), nn.Conv2d(width, 3, 3, padding=1)
        self.dense = bool(variant % 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inner, H, W] to [N, inner or width, and three more, H, W]."""
        first = self.a(x).relu()
        return torch.cat([x if self.dense else first, self.b(first)], 1)


class Split(nn.Module):
    """One part of a convolution goes through another: by chunks, by sizes, by literals, by slices."""

    def __init__(self, inner: int, width: int, variant: int) -> None:
        super().__init__()
        self.part = width // 2 if variant < 3 else width - 3
        self.a, self.b = nn.Conv2d(inner, width, 1), nn.Conv2d(self.part, 4, 3, padding=1)
        self.variant = variant

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inner, H, W] to [N, width - part + 4, H, W]."""
        hidden = self.a(x)
        match self.variant:
            case 0:
                first, second = hidden.chunk(2, 1)
            case 1:
                first, second = hidden.split(hidden.shape[1] // 2, 1)
            case _:
                first, second = hidden[:, : self.part], hidden[:, self.part :]
        return torch.cat([self.b(first), second], 1)


class Gate(nn.Module):
    """Squeeze-excite, a gate of one channel, GLU, or a product of two convolutions."""

    def __init__(self, inner: int, width: int, variant: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(inner, 2 * width if variant == 2 else width, 1)
        self.down = nn.Conv2d(width, 4, 1)
        self.up = nn.Conv2d(4, 1 if variant == 1 else width, 1)
        self.variant = variant

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inner, H, W] to [N, width, H, W]."""
        hidden = F.glu(self.a(x), 1) if self.variant == 2 else self.a(x)
        seen = hidden.mean((2, 3), keepdim=True) if self.variant == 0 else hidden
        return hidden * self.up(F.silu(self.down(seen))).sigmoid()


class Shuffle(nn.Module):
    """Channels in another order: by view and transpose, by the module, by pixel shuffle there and back."""

    def __init__(self, inner: int, width: int, variant: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(inner, width, 1)
        self.mix = nn.ChannelShuffle(2)
        self.variant = variant

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inner, H, W] to [N, width, H, W], or to pixels in channels."""
        hidden = self.a(x)
        if self.variant == 0:
            batch, channels, height, width = hidden.shape
            return hidden.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(hidden.shape)
        if self.variant == 1:
            return self.mix(hidden)
        if self.variant == 2:
            return F.interpolate(F.pixel_shuffle(hidden, 2), size=(SIZE, SIZE))
        return F.interpolate(F.pixel_unshuffle(hidden, 2), size=(SIZE, SIZE))


class Attention(nn.Module):
    """Two heads over pixels as tokens, around which the tokens go; layer norm before in half of the variants."""

    def __init__(self, inner: int, width: int, variant: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inner) if variant % 2 else nn.Identity()
        self.q, self.k, self.v = (nn.Linear(inner, width) for _ in range(3))
        self.proj = nn.Linear(width, inner)
        self.fused = variant < 2

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inner, H, W] to the same shape."""
        tokens = x.flatten(2).transpose(1, 2)
        hidden = self.norm(tokens)
        query, key, value = (layer(hidden).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.fused:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            mixed = (query @ key.transpose(-2, -1) * 0.3).softmax(-1) @ value
        tokens = tokens + self.proj(mixed.transpose(1, 2).flatten(2))
        return tokens.transpose(1, 2).unflatten(2, (SIZE, SIZE))


class Tokens(nn.Module):
    """Two linear layers with channels last, as ConvNeXt has them, and a scale of each channel."""

    def __init__(self, inner: int, width: int, variant: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inner) if variant % 2 else nn.Identity()
        self.up, self.down = nn.Linear(inner, width), nn.Linear(width, inner)
        self.gamma = nn.Parameter(torch.rand(inner) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inner, H, W] to the same shape."""
        hidden = self.down(F.gelu(self.up(self.norm(x.permute(0, 2, 3, 1))))) * self.gamma
        return x + hidden.permute(0, 3, 1, 2)


BLOCKS: dict[str, type[nn.Module]] = {
    each.__name__: each for each in (Plain, Depthwise, Residual, Concat, Split, Gate, Shuffle, Attention, Tokens)
}
HEADS = ("pooled", "flattened", "channels last", "two outputs", "literal")


@dataclass(frozen=True)
class Block:
    """One block of a network: its family, width and variant."""

    family: str
    width: int
    variant: int


class Network(nn.Module):
    """A stem, blocks one after another, and a head with two classes."""

    def __init__(self, blocks: list[Block], head: str) -> None:
        """Make the layers; widths between blocks are those that come out."""
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential()
        width = 8
        for block in blocks:
            layer = BLOCKS[block.family](width, block.width, block.variant)
            self.blocks.append(layer)
            width = layer.eval()(torch.zeros(2, width, SIZE, SIZE)).shape[1]
        self.width, self.kind = width, head
        self.fc = nn.Linear(width * SIZE**2 if head in {"flattened", "channels last", "literal"} else width, 2)

    def forward(self, x: Tensor) -> Any:  # noqa: ANN401 - one tensor, or several
        """Map [N, 3, H, W] to [N, 2]."""
        hidden = self.blocks(self.stem(x))
        match self.kind:
            case "flattened":
                return self.fc(hidden.flatten(1))
            case "channels last":
                return self.fc(hidden.permute(0, 2, 3, 1).flatten(1))
            case "literal":
                return self.fc(hidden.reshape(-1, self.width * SIZE**2))
            case "two outputs":
                return {"classes": self.fc(hidden.mean((2, 3))), "energy": hidden.square().mean((1, 2, 3))}
            case _:
                return self.fc(hidden.mean((2, 3)))


def networks() -> st.SearchStrategy[Network]:
    """Return a strategy of networks of one to four blocks. Statistics are random, so that no two channels are alike."""
    blocks = st.builds(Block, st.sampled_from(sorted(BLOCKS)), st.sampled_from((4, 8, 12)), st.integers(0, 3))
    return st.builds(_seeded, st.lists(blocks, min_size=1, max_size=4), st.sampled_from(HEADS))


def _seeded(blocks: list[Block], head: str) -> Network:
    torch.manual_seed(0)
    network = Network(blocks, head)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.uniform_(-0.5, 0.5)
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.uniform_(-0.5, 0.5)
                layer.running_var.uniform_(0.5, 1.5)
                layer.num_batches_tracked.fill_(7)
    return network.eval()
