"""Networks with every place of a batch norm, small enough to train, and their simulation with quantization."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.compress.quantization.aware.graph import QuantizationAware
from pipeline.compress.quantization.ranges import activation_ranges
from pipeline.compress.quantization.separation import separate_tensors, with_biases
from pipeline.export.onnx import export_onnx
from pipeline.stages.quantize_aware.training import folded_norms, freeze_constants, tied_parameters
from tests.defaults import asked
from tests.feeds import fed, image_input
from tests.unit.compress.pruning.networks import Net, conv
from tests.unit.compress.quantization.graphs import floats, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from onnx import ModelProto

    from pipeline.compress.quantization.engines.engine import QuantizeRequest

IMAGES = floats(16, 3, 8, 8, seed=4)
CLASSES = 5


def plain(width_in: int, width: int, kernel: int = 3, **options: Any) -> nn.Conv2d:  # noqa: ANN401 - of torch
    """Return a convolution without bias that keeps the size."""
    return nn.Conv2d(width_in, width, kernel, padding=kernel // 2, bias=False, **options)


def residual(layers: Net, x: Tensor) -> Tensor:
    """Return logits of a residual network with batch norm behind each convolution."""
    x = layers.n1(layers.c1(x)).relu()
    x = (layers.n3(layers.c3(layers.n2(layers.c2(x)).relu())) + x).relu()
    return layers.fc(functional.max_pool2d(x, 2).mean((2, 3)))


def depthwise(layers: Net, x: Tensor) -> Tensor:
    """Return logits of an inverted residual block with ReLU6, one of its convolutions with bias and norm."""
    x = functional.relu6(layers.n1(layers.c1(x)))
    hidden = functional.relu6(layers.n2(layers.c2(x)))
    return layers.fc((x + layers.n3(layers.c3(hidden))).mean((2, 3)))


def twice(layers: Net, x: Tensor) -> Tensor:
    """Return logits of a network one of whose convolutions is called twice, and has no norm."""
    x = layers.n1(layers.c1(x)).relu()
    return layers.fc(layers.c2(layers.c2(x).relu()).relu().mean((2, 3)))


def elsewhere(layers: Net, x: Tensor) -> Tensor:
    """Return logits with norms before a convolution, behind an activation in place, and behind an addition."""
    x = layers.c1(layers.n1(x))
    x = layers.n2(layers.act(layers.c2(x)))
    y = layers.c3(x)
    return layers.fc(layers.n3(x + y).relu().mean((2, 3)))


def joined(layers: Net, x: Tensor) -> Tensor:
    """Return logits of two branches that are pooled and concatenated, with hard-swish and SiLU."""
    x = functional.hardswish(layers.n1(layers.c1(x)))
    x = torch.cat([functional.avg_pool2d(x, 3, 1, 1), functional.silu(layers.c2(x)), layers.c3(x)[:, ::2]], 1)
    return layers.fc(layers.n2(layers.c4(functional.interpolate(x, scale_factor=2.0))).relu().mean((2, 3)))


def gated(layers: Net, x: Tensor) -> Tensor:
    """Return logits of a squeeze-and-excitation block with constants that are trained, and one that is not."""
    x = layers.n1(layers.c1(x)).relu()
    gate = layers.grow(layers.shrink(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
    return layers.fc(((x * gate) * layers.gain + 0.25).mean((2, 3)))


def wide(layers: Net, x: Tensor) -> Tensor:
    """Return logits with norms behind a transposed convolution, a linear layer, and a convolution of one row."""
    x = layers.n1(layers.c1(x)).relu()
    x = layers.n2(layers.up(x)).relu()
    return layers.fc2(layers.n3(layers.fc1(x.mean((2, 3)))).relu())


class Attention(nn.Module):
    """Patches, layer norm, attention with softmax, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 16, 2, 2), nn.LayerNorm(16)
        self.positions = nn.Parameter(torch.randn(1, 16, 16) / 4)
        self.qkv, self.project, self.fc = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, 5]."""
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.positions
        parts = self.qkv(self.norm(tokens)).reshape(-1, 16, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(*parts).transpose(1, 2).reshape(-1, 16, 16)
        return self.fc((tokens + self.project(mixed)).mean(1))


def norm(width: int) -> nn.BatchNorm2d:
    """Return a batch norm."""
    return nn.BatchNorm2d(width)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": lambda: Net(
        residual,
        c1=plain(3, 8),
        n1=norm(8),
        c2=plain(8, 8),
        n2=norm(8),
        c3=plain(8, 8),
        n3=norm(8),
        fc=nn.Linear(8, CLASSES),
    ),
    "depthwise": lambda: Net(
        depthwise,
        c1=plain(3, 8),
        n1=norm(8),
        c2=conv(8, 8, groups=8),
        n2=norm(8),
        c3=plain(8, 8, 1),
        n3=norm(8),
        fc=nn.Linear(8, CLASSES),
    ),
    "twice": lambda: Net(twice, c1=plain(3, 8), n1=norm(8), c2=conv(8, 8), fc=nn.Linear(8, CLASSES)),
    "elsewhere": lambda: Net(
        elsewhere,
        n1=norm(3),
        c1=conv(3, 8),
        c2=conv(8, 8, 1),
        act=nn.ReLU(inplace=True),
        n2=norm(8),
        c3=conv(8, 8, groups=2),
        n3=norm(8),
        fc=nn.Linear(8, CLASSES),
    ),
    "joined": lambda: Net(
        joined,
        c1=plain(3, 8),
        n1=norm(8),
        c2=conv(8, 6),
        c3=conv(8, 8, 1),
        c4=conv(18, 12),
        n2=norm(12),
        fc=nn.Linear(12, CLASSES),
    ),
    "gated": lambda: Net(
        gated,
        c1=plain(3, 8),
        n1=norm(8),
        shrink=conv(8, 4, 1),
        grow=conv(4, 8, 1),
        gain=nn.Parameter(torch.rand(8, 1, 1)),
        fc=nn.Linear(8, CLASSES),
    ),
    "wide": lambda: Net(
        wide,
        c1=plain(3, 8, groups=1),
        n1=norm(8),
        up=nn.ConvTranspose2d(8, 6, 2, 2),
        n2=norm(6),
        fc1=nn.Linear(6, 12),
        n3=nn.BatchNorm1d(12),
        fc2=nn.Linear(12, CLASSES),
    ),
    "attention": Attention,
}


def network(name: str) -> nn.Module:
    """Return a network in evaluation mode with norms that have seen data."""
    torch.manual_seed(3)
    made = NETWORKS[name]()
    with torch.no_grad():
        for layer in made.modules():
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.uniform_(-0.5, 0.5)
        made.train()
        for _ in range(30):
            made(torch.from_numpy(IMAGES))
    return made.eval()


def exported_of(made: nn.Module) -> ModelProto:
    """Return the float graph of a network."""
    with TemporaryDirectory() as folder:
        export_onnx(made, Path(folder), image_input((1, 3, 8, 8)))
        return onnx.load(Path(folder) / "model.onnx")


@cache
def exported(name: str) -> ModelProto:
    """Return the float graph of a network by name."""
    return exported_of(network(name))


def simulated(
    name: str,
    request: QuantizeRequest | None = None,
    *,
    made: nn.Module | None = None,
    model: ModelProto | None = None,
    keep_zeros: bool = True,
) -> QuantizationAware:
    """Return a network with quantization simulated, in evaluation mode; `made` and `model` are those to start from."""
    asked_for = request or asked("u8s8", calibration="min-max")
    made, model = made or network(name), model or exported(name)
    ranges = activation_ranges(model, fed(IMAGES), calibration=asked_for.calibration, percentile=asked_for.percentile)
    norms = folded_norms(made, (torch.from_numpy(IMAGES[:2]),))
    own = with_biases(separate_tensors(model, tied_parameters(made, (torch.from_numpy(IMAGES[:2]),))), norms)
    aware = QuantizationAware(own, ranges, asked_for, norms, keep_zeros=keep_zeros)
    freeze_constants(aware, made)
    aware.eval()
    return aware


def outputs(module: nn.Module, images: NDArray[np.float32] = IMAGES) -> NDArray[np.float32]:
    """Return what a network computes."""
    with torch.no_grad():
        found: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
    return found


def from_file(model: ModelProto, images: NDArray[np.float32] = IMAGES) -> NDArray[np.float32]:
    """Return what onnxruntime computes, unoptimised, one image after the other."""
    return np.concatenate([run(model, image[None])[0] for image in images])


def decibels(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return the signal-to-noise ratio."""
    return float(10 * np.log10(np.square(expected).sum() / max(np.square(expected - found).sum(), 1e-30)))


def train(module: nn.Module, steps: int = 4, rate: float = 0.02) -> list[float]:
    """Train on labels that the images tell; return the losses."""
    labels = torch.arange(len(IMAGES)) % CLASSES
    images = torch.from_numpy(IMAGES + floats(CLASSES, 3, 8, 8, seed=8)[labels])
    optimizer = torch.optim.SGD([each for each in module.parameters() if each.requires_grad], lr=rate, momentum=0.9)
    module.train()
    losses = []
    for _ in range(steps):
        loss = functional.cross_entropy(module(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    module.eval()
    return losses
