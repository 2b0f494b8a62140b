"""A small encoder of text from plain layers: token ids and a mask to logits, or to a vector of length 1.

Pre-norm blocks of attention and a two-layer perceptron (Vaswani et al. 2017), learned positions, the mean over the
positions that the mask keeps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize

#: What a logit of attention to a position outside the mask becomes; finite, so that int8 ranges stay so.
CLOSED = -1e4


class Block(nn.Module):
    """Attention of several heads and a perceptron, each after a norm and with a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def _split(self, features: Tensor) -> Tensor:
        count, length, width = features.shape
        return features.view(count, length, self.heads, width // self.heads).transpose(1, 2)

    def forward(self, features: Tensor, closed: Tensor) -> Tensor:
        """Map [N, T, width] to the same shape; `closed` [N, 1, 1, T] is added to the logits of attention."""
        normed = self.norm1(features)
        query, key, value = (self._split(each(normed)) for each in (self.query, self.key, self.value))
        attention = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + closed).softmax(dim=-1)
        features = features + self.out((attention @ value).transpose(1, 2).flatten(2))
        return features + self.fc2(gelu(self.fc1(self.norm2(features))))


class TextEncoder(nn.Module):
    """Embedded tokens and positions, blocks, the mean over what the mask keeps, and a linear layer for classes."""

    def __init__(self, classes: int, vocabulary: int, length: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes) if classes else None

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map ids and mask (1: a token, 0: filled up), int64 [N, T], to logits [N, classes] or vectors [N, width]."""
        kept = mask.to(self.positions.dtype)
        features = self.tokens(ids) + self.positions[: ids.shape[1]]
        closed = ((1 - kept) * CLOSED)[:, None, None, :]
        for block in self.blocks:
            features = block(features, closed)
        weights = (kept / kept.sum(1, keepdim=True).clamp(min=1))[:, :, None]
        pooled = (self.norm(features) * weights).sum(1)
        return normalize(pooled, dim=1) if self.head is None else self.head(pooled)


def build(
    classes: int = 2, vocabulary: int = 4096, length: int = 64, width: int = 128, depth: int = 2, heads: int = 4
) -> nn.Module:
    """Return the encoder with random weights; without classes (0) it gives vectors of length 1."""
    return TextEncoder(classes, vocabulary, length, width, depth, heads)
