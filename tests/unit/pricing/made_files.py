"""Small networks, and their files at any widths and without any of their residual blocks."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.compress.pruning.depth import residual_blocks, without_blocks
from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.rewrite import rewrite_module
from pipeline.compress.pruning.surgery import plan_for
from pipeline.compress.quantization.engines.engine import QuantizeRequest
from pipeline.compress.quantization.precisions.dynamic import dynamic_int8
from pipeline.core.artifact import TensorSpec
from pipeline.export.onnx import export_onnx
from pipeline.onnx_graph.file import read_onnx
from pipeline.precision.variant import Variant, build

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from onnx import ModelProto

REQUEST = QuantizeRequest(
    scheme="u8s8", per_channel=True, symmetric=False, calibration="min-max", percentile=100.0, keep=()
)


class Mixed(nn.Module):
    """Two residual blocks, one of them depthwise, a concatenation, and a flattened map in front of the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.inner = nn.Conv2d(16, 24, 3, padding=1)
        self.outer = nn.Conv2d(24, 16, 1)
        self.wide = nn.Conv2d(16, 40, 1)
        self.depthwise = nn.Conv2d(40, 40, 3, padding=1, groups=40)
        self.narrow = nn.Conv2d(40, 16, 1)
        self.left, self.right = nn.Conv2d(16, 12, 1), nn.Conv2d(16, 20, 3, padding=1)
        self.fc = nn.Linear(32 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        x = self.stem(x).relu()
        x = (x + self.outer(self.inner(x).relu())).relu()
        x = x + self.narrow(self.depthwise(self.wide(x).clamp(0, 6)).clamp(0, 6))
        return self.fc(torch.cat([self.left(x).relu(), self.right(x).relu()], 1).flatten(1))


class Attention(nn.Module):
    """Attention with its sizes written out, and a feed-forward block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 32, 4, 4)
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.qkv, self.project = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        x = self.embed(x).flatten(2).transpose(1, 2)
        batch, tokens, _ = x.shape
        query, key, value = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, 4, 8).permute(2, 0, 3, 1, 4)
        scores = ((query @ key.transpose(-2, -1)) / 8**0.5).softmax(-1)
        x = x + self.project((scores @ value).transpose(1, 2).reshape(batch, tokens, 32))
        x = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


@dataclass
class Files:
    """Real files of one network, each made once."""

    model: nn.Module
    heads: bool = False
    made: dict[tuple[object, ...], ModelProto] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Capture the network, with values of its own in every tensor."""
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for tensor in self.model.parameters():  # values of their own: files share equal tensors
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
        self.model.eval()
        self.captured = capture_graph(self.model, (torch.randn(2, 3, 8, 8, generator=generator),))
        self.graph = trace_channels(self.captured, heads=self.heads)
        self.blocks = residual_blocks(self.captured)
        self.grids = {
            group.name: [*range(max(1, group.width // 4), group.width, max(1, group.width // 4)), group.width]
            for group in self.graph.groups
        }

    @cached_property
    def images(self) -> dict[str, np.ndarray]:
        """Images to calibrate on, [N, 3, 8, 8]."""
        return {"images": np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)}

    def real(self, widths: Mapping[str, int], dropped: Collection[str] = ()) -> ModelProto:
        """Return the float file with these widths and without these blocks."""
        key = (tuple(sorted(widths.items())), tuple(sorted(dropped)))
        if key not in self.made:
            plan = plan_for(self.graph, {name: tuple(range(width)) for name, width in widths.items()})
            left = without_blocks(self.captured, [block for block in self.blocks if block.name in dropped])
            assert self.graph.walk is not None
            module = rewrite_module(left, self.graph.walk, plan).eval()
            with tempfile.TemporaryDirectory() as folder:
                export_onnx(module, Path(folder), [TensorSpec(name="images", shape=(1, 3, 8, 8))], ["scores"])
                self.made[key] = read_onnx(Path(folder) / "model.onnx")
        return self.made[key]

    def in_precision(self, precision: str, widths: Mapping[str, int], dropped: Collection[str] = ()) -> ModelProto:
        """Return the file in float, in static int8, or in dynamic int8."""
        file = self.real(widths, dropped)
        if precision == "int8":
            return build(file, self.images, Variant("onnxruntime", REQUEST)).model
        return dynamic_int8(file) if precision == "int8-dynamic" else file
