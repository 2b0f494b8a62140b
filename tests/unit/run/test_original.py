"""A recipe may begin with a checkpoint as it was found: what it is identified by, and what of it was left."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from pipeline import api
from pipeline.core.errors import InputError
from pipeline.core.stage import SilentProgress
from pipeline.network.definition import build_network

if TYPE_CHECKING:
    from tests.project import Project

STAGES = "stages=[{kind: export, to: onnx}]"


def keys(project: Project, *overrides: str) -> list[str]:
    """Return the keys of a plan's steps."""
    return [step.key for step in api.plan(project.recipe, overrides=[STAGES, *overrides])]


def test_what_did_not_fit_is_in_the_report_and_another_reading_is_another_network(project: Project) -> None:
    """Also of a run that finds the network in the store; a file read otherwise has another key."""
    model = build_network(project.folder / "model.py", {"classes": 2})
    tensors = {f"model.{name}": tensor + 1 for name, tensor in model.state_dict().items() if name != "fc.bias"}
    torch.save({"state_dict": {**tensors, "loss.weight": torch.ones(2)}, "epoch": 3}, project.folder / "last.ckpt.pt")
    weights = "model.weights=last.ckpt.pt"
    with pytest.raises(InputError, match=r"1 missing, 1 unknown, 0 shape"):
        api.run(
            project.recipe,
            project.folder / "run",
            overrides=[STAGES, weights],
            progress=SilentProgress(),
            store=project.folder / "store",
        )
    given = [STAGES, weights, "model.strict=false"]
    for cached in (False, True):
        done = api.run(
            project.recipe,
            project.folder / "run",
            overrides=given,
            progress=SilentProgress(),
            store=project.folder / "store",
        ).report
        first = done.rows[0]
        assert first.cached == cached
        assert first.changed == {"not_loaded": {"missing": ["fc.bias (2,)"], "unknown": ["loss.weight (2,)"]}}
    assert "loss.weight" in (project.folder / "run" / "report.md").read_text()
    others = (keys(project, weights), keys(project, *given[1:]), keys(project, *given[1:], "model.strip_prefix=model."))
    assert len({each[0] for each in others}) == 3


def test_shards_are_identified_by_all_files(project: Project) -> None:
    """A changed shard behind the same index is another network; keys of weights without weights are refused."""
    torch.save({"a": torch.ones(1)}, project.folder / "one.bin")
    index = project.folder / "w.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.bin"}}))
    before = keys(project, f"model.weights={index.name}")
    torch.save({"a": torch.zeros(1)}, project.folder / "one.bin")
    assert keys(project, f"model.weights={index.name}")[0] != before[0]
    with pytest.raises(InputError, match="found strict without weights, allowed: with weights"):
        keys(project, "model.strict=false")


def test_a_network_that_was_trained_elsewhere_after_pruning_comes_back(project: Project) -> None:
    """By the folder of the stage, with its plan; with its own weights where none are given, or with others."""
    stages = "stages=[{kind: prune, ratio: 0.5, align: 4}, {kind: export, to: onnx}]"
    run = project.folder / "run"
    first = api.run(
        project.recipe, run, overrides=[stages], progress=SilentProgress(), store=project.folder / "store"
    ).report
    folder = next((run / "stages").glob("01-prune"))
    tensors = {name: tensor * 0.5 for name, tensor in load_file(folder / "weights.safetensors").items()}
    torch.save({"model": {f"module.{name}": tensor for name, tensor in tensors.items()}}, project.folder / "mine.pt")
    recipe = project.folder / "again.yaml"
    lines = project.recipe.read_text().splitlines()
    model = f"model: {{definition: {folder.relative_to(project.folder)}}}"
    recipe.write_text("\n".join(model if line.startswith("model:") else line for line in lines) + "\n")
    again = api.run(
        recipe, project.folder / "own", overrides=[STAGES], progress=SilentProgress(), store=project.folder / "store"
    ).report
    assert again.rows[0].artifact == first.rows[1].artifact
    assert again.rows[0].macs == first.rows[1].macs
    other = api.run(
        recipe,
        project.folder / "mine",
        overrides=[STAGES, "model.weights=mine.pt"],
        progress=SilentProgress(),
        store=project.folder / "store",
    ).report
    assert other.rows[0].macs == first.rows[1].macs
    made = load_file(project.folder / "mine" / "stages" / "00-original" / "weights.safetensors")
    assert all(torch.equal(made[name], tensor.to(made[name].dtype)) for name, tensor in tensors.items())
    with pytest.raises(InputError, match="found arguments with a stored network, allowed: its own"):
        api.plan(recipe, overrides=["model.arguments={classes: 2}"])
