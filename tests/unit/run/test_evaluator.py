"""What the evaluator keeps in the store belongs to the network and to the images that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.core.artifact import Artifact, TensorSpec, payload_digest
from pipeline.core.stage import SilentProgress, Target
from pipeline.core.store import Store
from pipeline.core.task import Task
from pipeline.network.stored import write_original
from pipeline.run.evaluator import Evaluator

if TYPE_CHECKING:
    from pathlib import Path

DEFINITION = """
from torch import nn

def build() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
"""


def network(folder: Path, side: int) -> Artifact:
    """Return the same weights for images of another size."""
    definition = folder / "model.py"
    definition.write_text(DEFINITION)
    scope: dict[str, object] = {}
    exec(DEFINITION, scope)  # noqa: S102 - the definition above
    torch.manual_seed(0)
    made = folder / str(side)
    made.mkdir()
    write_original(made, scope["build"](), definition, {})  # type: ignore[operator]
    inputs = (TensorSpec(name="input", shape=(1, 1, side, side)),)
    outputs = (TensorSpec(name="scores", shape=(1, 2)),)
    return Artifact(form="torch", folder=made, digest=payload_digest("torch", made), inputs=inputs, outputs=outputs)


def test_one_network_is_exported_for_each_size_of_its_images(tmp_path: Path) -> None:
    """Equal weights do not make equal files: another size asks for another export."""
    evaluator = Evaluator(
        store=Store(tmp_path / "store"),
        task=lambda: Task(None, None),  # type: ignore[arg-type] - nothing is judged
        data_identity={},
        target=Target(),
        threads=1,
        progress=SilentProgress(),
    )
    small, large = (network(tmp_path, side) for side in (8, 12))
    assert small.digest == large.digest
    assert [evaluator.exported_file(each).inputs[0].shape for each in (small, large)] == [(1, 1, 8, 8), (1, 1, 12, 12)]
    assert evaluator.exported_file(small).folder == evaluator.exported_file(small).folder
