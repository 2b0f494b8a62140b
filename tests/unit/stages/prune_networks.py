"""Small networks to prune, and what runs the stage on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.core.artifact import Artifact, TensorSpec
from pipeline.core.dataset import Dataset, Normalisation, Split
from pipeline.core.stage import Context, Outcome, Target
from pipeline.data.arrays import image_classifier
from pipeline.network.definition import build_network
from pipeline.network.stored import load_network, write_original
from pipeline.stages.prune import Prune

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.core.task import Task

DEFINITION = """
from torch import nn


class Small(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        inner = nn.Conv2d(width, 24, 3, padding=1)
        self.block = nn.Sequential(inner, nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, width, 1))
        self.fc = nn.Linear(width, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.block(x)
        return self.fc(x.mean((2, 3)))


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1)
        self.out = nn.Linear(16 * 36, 3)

    def forward(self, x):
        return self.out(self.conv(x).relu().view(-1, 16 * 36))


class Stated(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.conv = nn.Conv2d(16, 24, 3, padding=1)
        self.last = nn.Conv2d(24, 16, 1)
        self.out = nn.Linear(16 * 36, 3)

    def forward(self, x):
        x = self.conv(self.stem(x).relu()).relu()
        return self.out(self.last(x).relu().view(-1, 16 * 36))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 32, 2, 2)
        self.norm = nn.LayerNorm(32)
        self.qkv = nn.Linear(32, 96)
        self.project = nn.Linear(32, 32)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, -1, 8)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.project(mixed.transpose(1, 2).flatten(2))
        return self.head(x.mean(1))


class Alone(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(36, 3)

    def forward(self, x):
        return self.fc(x.flatten(1))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(36, 3)

    def forward(self, x):
        return self.fc(x.flatten(1) * 2 if x.sum() > 0 else x.flatten(1))


def build(width=16, kind="Small"):
    return Small(width) if kind == "Small" else globals()[kind]()
"""


def original(folder: Path, kind: str = "Small", shape: tuple[int, ...] = (-1, 1, 6, 6)) -> Artifact:
    """Write the network as a torch artifact."""
    definition = folder / "model.py"
    definition.write_text(DEFINITION)
    place = folder / "original"
    place.mkdir()
    torch.manual_seed(0)
    write_original(place, build_network(definition, {"kind": kind}), definition, {"kind": kind})
    return artifact(place, shape)


def artifact(folder: Path, shape: tuple[int, ...] = (-1, 1, 6, 6)) -> Artifact:
    """Return the artifact that lies in a folder."""
    inputs, outputs = (TensorSpec(name="x", shape=shape),), (TensorSpec(name="y", shape=(-1, 3)),)
    return Artifact(form="torch", folder=folder, digest="0" * 64, inputs=inputs, outputs=outputs)


def split(images: int, seed: int) -> Split:
    """Return random images [N, 1, 6, 6]."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (images, 1, 6, 6), dtype=np.uint8)
    return Split(pixels, generator.integers(0, 3, images))


DATA = Dataset("noise", ("a", "b", "c"), Normalisation((0.5,), (0.25,)), split(40, 0), split(24, 1), split(8, 2))


def run(stage: Prune, given: Artifact, folder: Path, *, seed: int = 0, data: Dataset | None = None) -> Outcome:
    """Run the stage in a folder of its own; without data, looking at images fails the test."""

    def load() -> Task:
        assert data is not None, "this pruning reads no data"
        return image_classifier(data)

    folder.mkdir()
    return stage.run(given, Context(folder, seed, Target(), given, load))


def prune(**settings: object) -> Prune:
    """Return a stage; half of the channels on a grid of 4 unless told otherwise."""
    aims = {"ratio", "target", "rates"} & settings.keys()
    return Prune.model_validate({"kind": "prune", "align": 4, **({} if aims else {"ratio": 0.5}), **settings})


def widths(folder: Path) -> tuple[int, int]:
    """Return the widths of the residual stream and of the block in a written network."""
    network: Any = load_network(artifact(folder))
    return network.stem[0].out_channels, network.block[0].out_channels
