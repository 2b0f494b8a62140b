"""Attention that the exporter does not take is spelled out, to the same numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.export.attention import FUSED, attention, spelled_out
from pipeline.export.onnx import FILE_NAME, export_onnx
from pipeline.onnx_graph.execution import onnx_outputs
from tests.feeds import fed, image_input

if TYPE_CHECKING:
    from pathlib import Path

MASKS = {
    "none": None,
    "added": torch.randn(5, 5),
    "boolean": torch.eye(5, dtype=torch.bool) | (torch.arange(5) < 2),
}


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 6, 3, 5, 4)])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_it_is_what_torch_computes(shape: tuple[int, ...], mask: str, scale: float | None) -> None:
    """For four and five dimensions, both kinds of mask and any scale."""
    query, key, value = torch.randn(3, *shape, dtype=torch.float64)
    given = MASKS[mask]
    added = given.double() if given is not None and given.is_floating_point() else given
    found = attention(query, key, value, attn_mask=added, scale=scale)
    torch.testing.assert_close(found, FUSED(query, key, value, attn_mask=added, scale=scale))


def test_causal_attention_stays_torch_s() -> None:
    """What is not spelled out is passed on."""
    query, key, value = torch.randn(3, 2, 3, 5, 4)
    torch.testing.assert_close(attention(query, key, value, is_causal=True), FUSED(query, key, value, is_causal=True))
    assert functional.scaled_dot_product_attention is FUSED
    with spelled_out():
        assert functional.scaled_dot_product_attention is attention
    assert functional.scaled_dot_product_attention is FUSED


class Windows(nn.Module):
    """Attention over windows of tokens with a bias for each pair, as vision transformers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 3)
        self.bias = nn.Parameter(torch.randn(2, 4, 4))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map [N, 12, 8] to [N, 3]: three windows of four tokens, two heads of four dimensions."""
        query, key, value = self.qkv(tokens).reshape(-1, 3, 4, 3, 2, 4).permute(3, 0, 1, 4, 2, 5)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=self.bias)
        return self.proj(mixed.transpose(2, 3).reshape(-1, 12, 8)).mean(1)


def test_windows_with_a_bias_are_exported(tmp_path: Path) -> None:
    """The file computes what the network does."""
    model, tokens = Windows().eval(), torch.randn(2, 12, 8)
    export_onnx(model, tmp_path, image_input((2, 12, 8)))
    (found,) = onnx_outputs(tmp_path / FILE_NAME, fed(tokens.numpy()))
    np.testing.assert_allclose(found, model(tokens).detach().numpy(), rtol=1e-4, atol=1e-6)
