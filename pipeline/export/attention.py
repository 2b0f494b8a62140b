"""Attention that torch's ONNX exporter does not take: with a mask, or of windows (more than four dimensions).

Its translation wants four dimensions, and views the result in a layout that masked kernels do not have. While a
network is exported, such calls are the products and the softmax that they stand for; all others stay as they are.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest import mock

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

FUSED = torch.nn.functional.scaled_dot_product_attention
#: Batch, heads, tokens, dimensions of a head.
_DIMENSIONS = 4


@contextmanager
def spelled_out() -> Iterator[None]:
    """Within the block, masked attention and attention of windows runs as matrix products and a softmax.

    Limits: code that imported the function by name keeps the fused one; so do causal and grouped-query attention.
    """
    with mock.patch("torch.nn.functional.scaled_dot_product_attention", attention):
        yield


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002 - as above
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute softmax(query key^T * scale + mask) value over the last two dimensions.

    `query` [..., L, E], `key` [..., S, E], `value` [..., S, V]; the mask is added, or where it is boolean says which
    keys are seen. The scale is 1/sqrt(E) unless it is given.
    """
    plain = attn_mask is None and query.dim() == _DIMENSIONS
    if plain or dropout_p or is_causal or enable_gqa:
        return FUSED(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.matmul(scores.softmax(-1), value)
