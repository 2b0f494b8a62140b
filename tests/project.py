"""The toy project: a network of two residual blocks, images of two classes, and a recipe with most kinds of stages."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.commands import Commands

DEFINITION = """
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(2 * width)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, features):
        hidden = self.bn1(self.conv1(features)).relu()
        return (features + self.bn2(self.conv2(hidden))).relu()


class Toy(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.fc = nn.Linear(width, classes)

    def forward(self, images):
        return self.fc(self.blocks(self.bn(self.stem(images)).relu()).mean((2, 3)))


def build(classes=2, width=16):
    return Toy(classes, width)
"""

DATA = """
import numpy as np
from pipeline.core.dataset import Dataset, Normalisation, Split


def split(count, seed):
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = generator.integers(0, 100, (count, 1, 12, 12))
    images[labels == 1, :, 2:10, 2:10] += 120
    return Split(images.astype(np.uint8), labels.astype(np.int64))


def load(train=96, classes=2):
    names = tuple("abcdefgh"[:classes])
    return Dataset("toy", names, Normalisation((0.4,), (0.2,)), split(train, 0), split(40, 1), split(40, 2))
"""

RECIPE = """\
format: 1
name: toy
model: {definition: model.py, arguments: {classes: 2}}
data: {source: file, path: data.py}
target: {runtime: onnxruntime, threads: 1}
stages:
  - {kind: prune, ratio: 0.5, align: 4}
  - {kind: finetune, epochs: 3, batch: 16, learning_rate: 0.01}
  - {kind: export, to: onnx}
  - {kind: simplify}
  - {kind: quantize, images: 32}
  - {kind: export, to: openvino}
  - {kind: measure, budget: 300ms}
"""

#: Those of a recipe that runs in a second or two.
SMALL_STAGES = """\
stages:
  - {kind: prune, ratio: 0.5, align: 4}
  - {kind: finetune, epochs: 2, batch: 16, learning_rate: 0.01}
  - {kind: export, to: onnx}
  - {kind: quantize, images: 32}
"""


class Project:
    """A folder with a recipe, a model and data, and a store of its own; `commands` is a warm process."""

    def __init__(self, folder: Path, commands: Commands | None = None) -> None:
        self.folder = folder
        self.recipe = folder / "toy.yaml"
        self._commands = commands
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.py").write_text(DEFINITION)
        (folder / "data.py").write_text(DATA)
        self.recipe.write_text(RECIPE)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SECATEUR")}
        self.environment = {**kept, "SECATEUR_STORE": str(folder / "store"), "OMP_NUM_THREADS": "1", "COLUMNS": "140"}

    def stages(self, stages: str, width: int = 16) -> None:
        """Change the recipe's stages and the network's width."""
        head, _, _ = self.recipe.read_text().partition("stages:")
        self.recipe.write_text(head.replace("{classes: 2}", f"{{classes: 2, width: {width}}}") + stages)

    def start(self, *arguments: str) -> int:
        """Start the command in the folder, in a child of the warm process, which starts in no time."""
        assert self._commands
        return self._commands.start(self.folder, *arguments, environment=self.environment)

    def wait(self, process: int) -> subprocess.CompletedProcess[str]:
        """Wait for a command that was started."""
        assert self._commands
        ended = self._commands.wait(process)
        assert ended.code is not None, f"it hung: {ended.err}"
        return subprocess.CompletedProcess((), ended.code, ended.out, ended.err)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command in the folder to its end."""
        return self.wait(self.start(*arguments))
