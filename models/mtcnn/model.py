"""The three networks of MTCNN (Zhang et al. 2016): proposals, refinement, and output with five landmarks.

Layers have the names that `facenet-pytorch` stores its weights by. Softmax is left to who decodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

#: Numbers of each output: no face and face, edges of the box, landmarks.
OUTPUTS = {"logits": 2, "box": 4, "landmarks": 10}


@dataclass(frozen=True)
class Shape:
    """Widths and kernels of the convolutions, kernels of the poolings after the first ones, inputs of a dense layer."""

    convolutions: tuple[tuple[int, int], ...]
    poolings: tuple[int, ...]
    dense: tuple[int, int] | None
    outputs: tuple[str, ...]


NETWORKS = {
    "pnet": Shape(((10, 3), (16, 3), (32, 3)), (2,), None, ("logits", "box")),
    "rnet": Shape(((28, 3), (48, 3), (64, 2)), (3, 3), (576, 128), ("logits", "box")),
    "onet": Shape(((32, 3), (64, 3), (64, 3), (128, 2)), (3, 3, 2), (1152, 256), ("logits", "box", "landmarks")),
}


class Network(nn.Module):
    """Convolutions with PReLU and pooling, a dense layer but for proposals, and a head for each output."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, width = shape, 3
        for place, (wider, kernel) in enumerate(shape.convolutions, start=1):
            self.add_module(f"conv{place}", nn.Conv2d(width, wider, kernel))
            self.add_module(f"prelu{place}", nn.PReLU(wider))
            width = wider
        self.pools = nn.ModuleList(nn.MaxPool2d(kernel, 2, ceil_mode=True) for kernel in shape.poolings)
        self.last = len(shape.convolutions) + (2 if shape.dense else 1)
        if shape.dense:
            self.add_module(f"dense{self.last - 1}", nn.Linear(*shape.dense))
            self.add_module(f"prelu{self.last - 1}", nn.PReLU(shape.dense[1]))
            width = shape.dense[1]
        for place, name in enumerate(shape.outputs, start=1):
            count = OUTPUTS[name]
            head = nn.Linear(width, count) if shape.dense else nn.Conv2d(width, count, 1)
            self.add_module(self._head(place), head)

    def _head(self, place: int) -> str:
        return f"{'dense' if self.shape.dense else 'conv'}{self.last}_{place}"

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images [N, 3, H, W] to logits [N, 2], box [N, 4] and landmarks [N, 10]; proposals have them by place."""
        features = images
        for place in range(1, len(self.shape.convolutions) + 1):
            features = self.get_submodule(f"conv{place}")(features)
            features = self.get_submodule(f"prelu{place}")(features)
            if place <= len(self.pools):
                features = self.pools[place - 1](features)
        if self.shape.dense:
            # [N, C, H, W] to [N, W H C]: the order of the framework that the weights come from.
            features = self.get_submodule(f"dense{self.last - 1}")(features.permute(0, 3, 2, 1).flatten(1))
            features = self.get_submodule(f"prelu{self.last - 1}")(features)
        heads = enumerate(self.shape.outputs, start=1)
        return {name: self.get_submodule(self._head(place))(features) for place, name in heads}


def build(network: str = "pnet", *, pretrained: bool = False) -> nn.Module:
    """Return `pnet` (any size from 12 pixels on), `rnet` (24 pixels) or `onet` (48 pixels), of RGB (x - 127.5) / 128.

    `pretrained` takes the weights of the installed package facenet-pytorch, which is not imported.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    model = Network(NETWORKS[network])
    if pretrained:
        found = find_spec("facenet_pytorch")
        if found is None or not found.submodule_search_locations:
            message = "facenet-pytorch is not installed: pip install --no-deps facenet-pytorch"
            raise ModuleNotFoundError(message)
        file = Path(found.submodule_search_locations[0]) / "data" / f"{network}.pt"
        model.load_state_dict(torch.load(file, weights_only=True))
    return model
