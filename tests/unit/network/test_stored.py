"""A torch artifact loads in another place to equal outputs, pruned twice, without a pickle."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import torch

from pipeline.compress.pruning.allocation import uniform_kept
from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.importance.l2 import l2
from pipeline.compress.pruning.prune import prune_channels
from pipeline.compress.pruning.surgery import apply_plan, plan_for
from pipeline.compress.pruning.tensors import stored_tensors
from pipeline.core.artifact import Artifact, payload_digest
from pipeline.core.code_inputs import changed_since
from pipeline.core.errors import InputError
from pipeline.network.definition import build_network
from pipeline.network.stored import load_network, write_network, write_original

if TYPE_CHECKING:
    from pathlib import Path

    from tests.project import Project


def artifact(folder: Path) -> Artifact:
    """Return the torch artifact in a folder."""
    digest = payload_digest("torch", folder)
    return Artifact(form="torch", folder=folder, digest=digest, inputs=(), outputs=())


LITERAL = """
from torch import nn
from torch.nn import functional as F


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 4, 4)
        self.norm = nn.BatchNorm2d(16)
        self.qkv = nn.Linear(16, 48)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.norm(self.stem(x)).view(-1, 16, 9).transpose(1, 2)
        q, k, v = self.qkv(x).reshape(-1, 9, 3, 2, 8).permute(2, 0, 3, 1, 4)
        x = x + self.drop(self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 9, 16)))
        return self.head(x.mean(1))


def build():
    return Mixer()
"""

LOAD = """
import sys
from pathlib import Path
import torch
from pipeline.core.artifact import Artifact
from pipeline.network.stored import load_network
folder = Path(sys.argv[1])
model = load_network(Artifact(form="torch", folder=folder, digest="", inputs=(), outputs=()))
torch.save(model(torch.load(folder / "images.pt", weights_only=True)), folder / "outputs.pt")
"""


def test_rewritten_twice_it_loads_in_a_new_process(tmp_path: Path) -> None:
    """A network whose forward holds literal sizes becomes a definition of its own, and that can be pruned again."""
    (tmp_path / "model.py").write_text(LITERAL)
    torch.manual_seed(0)
    model, images = build_network(tmp_path / "model.py", {}), torch.randn(3, 1, 12, 12)
    folders = [tmp_path / name for name in ("original", "once", "twice")]
    folders[0].mkdir()
    write_original(folders[0], model, tmp_path / "model.py", {})
    for before, folder in pairwise(folders):
        folder.mkdir()
        captured = capture_graph(model, (images,))
        graph = trace_channels(captured)
        pruned = prune_channels(captured, graph, model, {group.name: range(group.width // 2) for group in graph.groups})
        assert pruned.rewritten
        edit = {"kind": "prune", "keep": pruned.plan.as_json()}
        write_network(folder, pruned.model, parent=artifact(before), edits=[edit])
        model = load_network(artifact(folder))
        assert torch.equal(model(images), pruned.model(images))
    content = json.loads((folders[2] / "network.json").read_text())
    assert [len(content[key]) for key in ("edits", "history")] == [0, 2]
    assert model.state_dict()["qkv.weight"].shape == (12, 4)
    torch.save(images, folders[2] / "images.pt")
    subprocess.run([sys.executable, "-c", LOAD, str(folders[2])], check=True)
    assert torch.equal(torch.load(folders[2] / "outputs.pt", weights_only=True), model(images))
    assert not torch.equal(model.train()(images), model(images))  # dropout is back


def test_two_prunings_load_to_equal_outputs(project: Project, tmp_path: Path) -> None:
    """Definition, plan and tensors are enough; the plan can be read as JSON."""
    model, images = build_network(project.folder / "model.py", {}), torch.randn(2, 1, 12, 12)
    folders = [tmp_path / name for name in ("original", "once", "twice")]
    folders[0].mkdir()
    write_original(folders[0], model, project.folder / "model.py", {})
    for before, folder in pairwise(folders):
        folder.mkdir()
        graph = trace_channels(capture_graph(model, (images,)))
        kept = uniform_kept(l2(graph, stored_tensors(model)), 0.3, floor=0.1, align=2)
        plan = plan_for(graph, kept)
        apply_plan(model, plan)
        write_network(folder, model, parent=artifact(before), edits=[{"kind": "prune", "keep": plan.as_json()}])
    assert len(json.loads((folders[2] / "network.json").read_text())["edits"]) == 2
    assert torch.equal(load_network(artifact(folders[2]))(images), model(images))


def test_half_precision_is_what_is_loaded(project: Project, tmp_path: Path) -> None:
    """Kernels stored as float16 load as float32 of the rounded value; norms are exact."""
    model = build_network(project.folder / "model.py", {})
    for name in ("original", "half"):
        (tmp_path / name).mkdir()
    write_original(tmp_path / "original", model, project.folder / "model.py", {})
    write_network(tmp_path / "half", model, parent=artifact(tmp_path / "original"), half=True)
    loaded = load_network(artifact(tmp_path / "half")).state_dict()
    for name, tensor in model.state_dict().items():
        expected = tensor.half().float() if tensor.ndim > 1 else tensor
        assert torch.equal(loaded[name], expected), name


def test_another_format_is_refused(project: Project, tmp_path: Path) -> None:
    """A network.json of another format is named with both numbers."""
    write_original(tmp_path, build_network(project.folder / "model.py", {}), project.folder / "model.py", {})
    file = tmp_path / "network.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 7'))
    with pytest.raises(InputError, match="has format 7, this version reads 1"):
        load_network(artifact(tmp_path))


READS = """
import json
import sys
from pathlib import Path
from torch import nn
sys.path.insert(0, {folder!r})
import activations_of_test

def build():
    (factor,) = json.loads(Path({folder!r}, "factor.json").read_text())
    return nn.Sequential(nn.Linear(4, 4), activations_of_test.Scaled(factor))
"""
SCALED = """
from torch import nn

class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x
"""


@pytest.mark.parametrize("name", ["factor.json", "activations_of_test.py"])
def test_what_a_definition_reads_has_to_be_the_same_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A file, or a module that lies elsewhere: another one would make another network of the same artifact."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "activations_of_test", raising=False)
    for file, text in (("factor.json", "[2]"), ("activations_of_test.py", SCALED)):
        (tmp_path / file).write_text(text)
    definition, folder = tmp_path / "model.py", tmp_path / "stored"
    definition.write_text(READS.format(folder=str(tmp_path)))
    folder.mkdir()
    model = build_network(definition, {})
    with pytest.raises(InputError, match=r"reads or imports .*has changed since the network was stored"):
        write_original(folder, model, definition, {})
    write_original(folder, model, definition, {}, reads=True)
    assert torch.equal(load_network(artifact(folder))(torch.ones(1, 4)), model(torch.ones(1, 4)))
    assert changed_since(folder) == []
    (tmp_path / name).write_text((tmp_path / name).read_text().replace("2", "3") + "\n")
    assert changed_since(folder) == [str(tmp_path / name)]
    with pytest.raises(InputError, match=rf"reads or imports .*{name}, which has changed"):
        load_network(artifact(folder))


def test_a_stored_copy_finds_what_lies_beside_the_definition(tmp_path: Path) -> None:
    """By `__file__`, which is that of the definition itself: the artifact lies elsewhere."""
    definition, folder = tmp_path / "model.py", tmp_path / "store" / "entry"
    (tmp_path / "width.txt").write_text("3")
    definition.write_text(
        "from pathlib import Path\nfrom torch import nn\n"
        "def build():\n    return nn.Linear(4, int(Path(__file__).with_name('width.txt').read_text()))\n"
    )
    folder.mkdir(parents=True)
    model = build_network(definition, {})
    write_original(folder, model, definition, {}, reads=True)
    assert torch.equal(load_network(artifact(folder))(torch.ones(1, 4)), model(torch.ones(1, 4)))
