"""A small residual network with batch norm, a depthwise layer and a linear head, and its export."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.export.onnx import export_onnx
from pipeline.export.openvino import export_openvino
from pipeline.onnx_graph.file import finish_model, read_onnx, write_onnx
from tests.defaults import quantize_static
from tests.feeds import image_input

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


class Tiny(nn.Module):
    """Stem, depthwise layer, residual connection, head."""

    def __init__(self) -> None:
        """Build the layers with batch norm far from the identity."""
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(8)
        self.act = nn.ReLU6(inplace=True)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.fc = nn.Linear(8, 4)
        nn.init.normal_(self.stem_bn.running_mean)
        nn.init.uniform_(self.stem_bn.weight, 0.5, 2.0)

    def forward(self, images: Tensor) -> Tensor:
        """Map [N, 3, H, W] to [N, 4]."""
        hidden = self.act(self.stem_bn(self.stem(images)))
        hidden = (hidden + self.depthwise(hidden)).relu()
        logits: Tensor = self.fc(hidden.mean((2, 3)))
        return logits


@pytest.fixture(scope="session")
def tiny() -> nn.Module:
    """Return the network in evaluation mode; always the same weights."""
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture(scope="session")
def samples() -> NDArray[np.float32]:
    """Return ten inputs [10, 3, 8, 8]."""
    return np.random.default_rng(0).standard_normal((10, 3, 8, 8), dtype=np.float32)


@pytest.fixture(scope="session")
def exported(tiny: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the network's ONNX file with a batch of 1."""
    folder = tmp_path_factory.mktemp("exported")
    export_onnx(tiny, folder, image_input((1, 3, 8, 8)))
    return folder / "model.onnx"


@pytest.fixture(scope="session")
def exported_dynamic(tiny: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the network's ONNX file with a dynamic batch."""
    folder = tmp_path_factory.mktemp("exported-dynamic")
    export_onnx(tiny, folder, image_input((1, 3, 8, 8)), dynamic_batch=True)
    return folder / "model.onnx"


@pytest.fixture(scope="session")
def quantized(exported: Path, samples: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the network's ONNX file in int8, QDQ format."""
    file = tmp_path_factory.mktemp("quantized") / "model.onnx"
    write_onnx(finish_model(quantize_static(read_onnx(exported), samples, scheme="u8s8-reduced").model), file)
    return file


@pytest.fixture(scope="session")
def quantized_ir(quantized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the OpenVINO IR of the int8 file."""
    folder = tmp_path_factory.mktemp("quantized-ir")
    export_openvino(quantized, folder)
    return folder / "model.xml"
