"""A torch artifact of the toy network, its exports, and contexts to run stages in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from pipeline.core.artifact import Artifact, TensorSpec, payload_digest
from pipeline.core.dataset import Dataset, Normalisation, Split
from pipeline.core.stage import Context, Target
from pipeline.data.arrays import image_classifier
from pipeline.network.definition import build_network
from pipeline.network.stored import write_original
from pipeline.stages.export import Export

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.core.stage import Outcome, Stage

DEFINITION = """
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, classes)

    def forward(self, images):
        hidden = self.bn(self.stem(images)).relu()
        return self.fc((hidden + self.conv(hidden)).relu().mean((2, 3)))


def build(classes=3):
    return Net(classes)
"""


def noise(images: int, seed: int) -> Split:
    """Return random images [N, 1, 8, 8]."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (images, 1, 8, 8), dtype=np.uint8)
    return Split(pixels, generator.integers(0, 3, images))


@pytest.fixture
def noise_data() -> Dataset:
    """Return forty training images, and eight in each of the other splits."""
    return Dataset("noise", ("a", "b", "c"), Normalisation((0.5,), (0.25,)), noise(40, 0), noise(8, 1), noise(8, 2))


@pytest.fixture
def network(tmp_path: Path) -> Artifact:
    """Return the toy network as a torch artifact."""
    folder = tmp_path / "network"
    folder.mkdir()
    (tmp_path / "model.py").write_text(DEFINITION)
    torch.manual_seed(0)
    arguments = {"classes": 3}
    write_original(folder, build_network(tmp_path / "model.py", arguments), tmp_path / "model.py", arguments)
    return Artifact(
        form="torch",
        folder=folder,
        digest=payload_digest("torch", folder),
        inputs=(TensorSpec(name="input", shape=(-1, 1, 8, 8)),),
        outputs=(TensorSpec(name="scores", shape=(-1, 3)),),
    )


@pytest.fixture
def make_context(tmp_path: Path, network: Artifact, noise_data: Dataset) -> Callable[..., Context]:
    """Return what makes contexts, each with a new folder."""

    def make(name: str, *, batch: int = 1, seed: int = 0) -> Context:
        folder = tmp_path / name
        folder.mkdir()
        target = Target(batch=batch)
        return Context(
            folder=folder, seed=seed, target=target, original=network, task=lambda: image_classifier(noise_data)
        )

    return make


@pytest.fixture
def run_stage(make_context: Callable[..., Context]) -> Callable[..., tuple[Artifact, Outcome]]:
    """Return what runs a stage, giving its artifact as the runner would make it, and its outcome."""

    def run(stage: Stage, given: Artifact, name: str, **settings: int) -> tuple[Artifact, Outcome]:
        context = make_context(name, **settings)
        outcome = stage.run(given, context)
        assert outcome.form is not None
        digest = payload_digest(outcome.form, context.folder)
        artifact = Artifact(
            form=outcome.form, folder=context.folder, digest=digest, inputs=outcome.inputs, outputs=outcome.outputs
        )
        return artifact, outcome

    return run


@pytest.fixture
def onnx_artifact(run_stage: Callable[..., tuple[Artifact, Outcome]], network: Artifact) -> Artifact:
    """Return the toy network as ONNX."""
    return run_stage(Export.model_validate({"kind": "export", "to": "onnx"}), network, "onnx")[0]
