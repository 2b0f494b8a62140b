"""A small vision transformer (Dosovitskiy et al. 2021) for small images; other arguments give DeiT-Tiny and its kind.

Pre-norm blocks, one linear layer for queries, keys and values, learned positions and a class token. Parameter names
follow the common layout (`patch_embed.proj`, `blocks.0.attn.qkv`, ..., `head`), so that public weights load.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

EPSILON = 1e-6


class PatchEmbedding(nn.Module):
    """Cut images into square patches and map each to a vector."""

    def __init__(self, channels: int, patch: int, width: int) -> None:
        """Take image channels, the side of a patch in pixels and the width of a token."""
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, channels, H, W] to tokens [N, patches, width]."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        """Take the width of a token and the number of heads."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [N, T, width] to [N, T, width]."""
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        mixed = scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, width))


class MLP(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        """Take the width of a token and of the hidden layer."""
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [N, T, width] to [N, T, width]."""
        return self.fc2(self.act(self.fc1(tokens)))


class Block(nn.Module):
    """Attention and MLP, each behind a layer norm and inside a residual connection."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        """Take the width of a token, the number of heads, and the MLP's hidden width as a multiple."""
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, EPSILON)
        self.mlp = MLP(width, ratio * width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [N, T, width] to [N, T, width]."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class VisionTransformer(nn.Module):
    """Patches, a class token, learned positions, blocks, and a linear classifier on the class token."""

    def __init__(self, classes: int, channels: int, size: int, patch: int, width: int, depth: int, heads: int) -> None:
        """Take what `build` takes."""
        super().__init__()
        self.patch_embed = PatchEmbedding(channels, patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads, ratio=4) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, EPSILON)
        self.head = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, channels, size, size] to logits [N, classes]."""
        tokens = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], 1)
        tokens = self.norm(self.blocks(tokens + self.pos_embed))
        return self.head(tokens[:, 0])


def build(
    classes: int = 10,
    channels: int = 3,
    size: int = 32,
    patch: int = 4,
    width: int = 192,
    depth: int = 6,
    heads: int = 3,
) -> nn.Module:
    """Return the network with random weights; size and patch are in pixels, width is that of a token."""
    if size % patch or width % heads:
        message = f"size {size} has to be a multiple of patch {patch}, and width {width} a multiple of heads {heads}"
        raise ValueError(message)
    return VisionTransformer(classes, channels, size, patch, width, depth, heads)
