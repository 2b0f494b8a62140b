"""The small detector with its boxes decoded inside the network, as many detectors are exported: a contrast.

It takes the same weights. The output holds edges in pixels beside scores from 0 to 1, which int8 then has to share.
"""

from __future__ import annotations

from runpy import run_path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pipeline.core.paths import bundled_root

DEFINITION = bundled_root() / "models" / "tiny_detector" / "model.py"
STRIDES = (8, 16)


def build(classes: int = 10, channels: int = 1, width: int = 16) -> nn.Module:
    """Return the detector with strides of 8 and 16: images [N, C, H, W] to rows [N, anchors, 4 + classes]."""
    network: Any = run_path(str(DEFINITION))["TinyDetector"]

    class DecodedDetector(network):  # type: ignore[misc]
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            maps = super().forward(images)
            return {"boxes": torch.cat([decoded(*each) for each in zip(maps, STRIDES, strict=True)], dim=1)}

    return DecodedDetector(classes, channels, width, len(STRIDES))


def decoded(raw: Tensor, stride: int) -> Tensor:
    """Return a map [N, 4 + K, H, W] as rows [N, H W, 4 + K]: edges in pixels, then a probability for each class."""
    height, width = raw.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centres = torch.stack([columns, rows], dim=-1).reshape(1, -1, 2) + 0.5
    values = raw.flatten(2).transpose(1, 2)
    distances, scores = softplus(values[..., :4]), values[..., 4:].sigmoid()
    edges = torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], dim=-1) * stride
    return torch.cat([edges, scores], dim=-1)
