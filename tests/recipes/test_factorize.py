"""A factorised network through the whole chain, as a person runs it: trained, pruned, exported, quantized, bundled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.project import DEFINITION

if TYPE_CHECKING:
    from tests.project import Project

pytestmark = pytest.mark.slow

TRANSFORMER = """
from torch import nn


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, rows):
        qkv = self.qkv(self.norm1(rows)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*qkv.unbind(0))
        rows = rows + self.proj(mixed.transpose(1, 2).flatten(2))
        return rows + self.fc2(nn.functional.gelu(self.fc1(self.norm2(rows))))


class Transformer(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.embed = nn.Conv2d(1, width, 4, stride=4)
        self.layers = nn.Sequential(Layer(width, 2), Layer(width, 2))
        self.fc = nn.Linear(width, classes)

    def forward(self, images):
        return self.fc(self.layers(self.embed(images).flatten(2).transpose(1, 2)).mean(1))


def build(classes=2, width=32):
    return Transformer(classes, width)
"""

STAGES = """\
stages:
  - {kind: finetune, epochs: 2, batch: 16, learning_rate: 0.003}
  - {kind: factorize, target: {macs: 0.6}, align: 4, images: 96}
  - {kind: finetune, epochs: 1, batch: 16, learning_rate: 0.003}
  - {kind: prune, ratio: 0.25, align: 2}
  - {kind: finetune, epochs: 2, batch: 16, learning_rate: 0.003}
  - {kind: export, to: onnx}
  - {kind: quantize, engine: onnxruntime, images: 32}
  - {kind: bundle, samples: 3, weights_licence: LicenseRef-Toy}
"""
LABELS = [
    "original",
    "finetune",
    "factorize",
    "finetune #2",
    "prune",
    "finetune #3",
    "export onnx",
    "quantize",
    "bundle",
]


@pytest.mark.parametrize(
    ("definition", "named"),
    [(DEFINITION, "blocks.0.conv2"), (TRANSFORMER, "layers.0.qkv")],
    ids=["convolutions", "transformer"],
)
def test_every_stage_works_on_the_factors(project: Project, definition: str, named: str) -> None:
    """Each has its row; MACs fall to what was asked for, then by pruning; the bundle verifies."""
    (project.folder / "model.py").write_text(definition)
    project.stages(STAGES, width=32)
    done = project.command("run", "toy.yaml", "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["label"]: row for row in json.loads(done.stdout)["rows"]}
    assert [*rows] == LABELS
    found = rows["factorize"]["changed"]
    assert named in found["factorised"]
    assert rows["factorize"]["macs"] == found["macs"]["after"] <= 0.6 * rows["original"]["macs"]
    assert rows["prune"]["macs"] < rows["factorize"]["macs"]
    assert any(name.startswith(f"{named}.") for name in rows["prune"]["changed"]["widths"])
    assert rows["quantize"]["size_bytes"] < rows["original"]["size_bytes"]
    assert rows["quantize"]["validation"]["accuracy"] >= 0.9
    verified = project.command("verify", "run/bundle.tar.gz")
    assert verified.returncode == 0, verified.stdout + verified.stderr
