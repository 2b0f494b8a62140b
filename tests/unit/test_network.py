"""A torch artifact loads in another place to equal outputs, pruned twice, without a pickle."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import torch

from pipeline.compress.allocation import uniform
from pipeline.compress.graph import trace
from pipeline.compress.importance.l2 import l2
from pipeline.compress.surgery import apply, plan_for
from pipeline.compress.tensors import stored_tensors
from pipeline.core.artifact import Artifact, payload_digest
from pipeline.core.errors import InputError
from pipeline.network import load_network, write_network, write_original
from pipeline.zoo import build

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Project


def artifact(folder: Path) -> Artifact:
    """Return the torch artifact in a folder."""
    digest = payload_digest("torch", folder)
    return Artifact(form="torch", folder=folder, digest=digest, inputs=(), outputs=())


def test_two_prunings_load_to_equal_outputs(project: Project, tmp_path: Path) -> None:
    """Definition, plan and tensors are enough; the plan can be read as JSON."""
    model, images = build(project.folder / "model.py", {}), torch.randn(2, 1, 12, 12)
    folders = [tmp_path / name for name in ("original", "once", "twice")]
    folders[0].mkdir()
    write_original(folders[0], model, project.folder / "model.py", {})
    for before, folder in pairwise(folders):
        folder.mkdir()
        graph = trace(model, images)
        kept = uniform(l2(graph, stored_tensors(model)), 0.3, align=2)
        plan = plan_for(graph, kept)
        apply(model, plan)
        write_network(folder, model, parent=artifact(before), edits=[{"kind": "prune", "keep": plan.as_json()}])
    assert len(json.loads((folders[2] / "network.json").read_text())["edits"]) == 2
    assert torch.equal(load_network(artifact(folders[2]))(images), model(images))


def test_half_precision_is_what_is_loaded(project: Project, tmp_path: Path) -> None:
    """Kernels stored as float16 load as float32 of the rounded value; norms are exact."""
    model = build(project.folder / "model.py", {})
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
    write_original(tmp_path, build(project.folder / "model.py", {}), project.folder / "model.py", {})
    file = tmp_path / "network.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 7'))
    with pytest.raises(InputError, match="has format 7, this version reads 1"):
        load_network(artifact(tmp_path))
