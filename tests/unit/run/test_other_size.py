"""A chain in which a stage gives the network smaller images: what follows works at that size, up to the bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from struct import unpack
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from PIL import Image

from pipeline.bundle.check import check_bundle
from pipeline.bundle.on_device.verify import Verification, VerifyOptions
from pipeline.core.stage import Context, Outcome, Stage
from pipeline.core.store import Store, read_artifact
from pipeline.network.stored import load_network, write_network
from pipeline.recipe import load_recipe
from pipeline.run.evaluate_file import evaluate_file
from pipeline.run.runner import Run
from pipeline.stages import STAGES

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.core.artifact import Artifact, Form
    from tests.project import Project

SIDE, SMALLER = 32, 24
CHAIN = [
    {"kind": "finetune", "epochs": 1, "batch": 8, "learning_rate": 0.01, "distill": {"from": "original"}},
    {"kind": "export", "to": "onnx"},
    {"kind": "simplify"},
    {"kind": "quantize", "images": 16},
    {"kind": "export", "to": "openvino"},
    {"kind": "measure", "budget": "100ms", "runtimes": ["onnxruntime", "torch"], "time_scope": "model+decode"},
    {"kind": "bundle", "samples": 2},
]


class Shrink(Stage):
    """Gives the network smaller images, and leaves it as it is."""

    kind: Literal["shrink"] = "shrink"

    @property
    def consumes(self) -> frozenset[Form]:
        """Torch networks."""
        return frozenset({"torch"})

    def run(self, given: Artifact, context: Context) -> Outcome:
        """Write the network."""
        (spec,) = given.inputs
        small = spec.model_copy(update={"shape": (*spec.shape[:2], SMALLER, SMALLER)})
        parent = given.model_copy(update={"inputs": (small,)})
        write_network(context.folder, load_network(given), parent=parent, edits=[{"kind": "size", "keep": {}}])
        return Outcome("torch", (small,), given.outputs)


def write_cells(folder: Path, per_class: int = 16) -> None:
    """Write images of two classes, a square that is bright or dark in grey noise, of more pixels than are used."""
    for name, value in (("bright", 200), ("dark", 30)):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = np.random.default_rng(number + value).integers(90, 140, (48, 56), np.uint8)
            pixels[12:36, 12:36] = value
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, "shrink", Shrink)


def run_of(project: Project, chain: list[dict[str, Any]], *, on_no_gain: str = "keep") -> Run:
    """Return a run of these stages after one that shrinks images, not yet begun."""
    if not (project.folder / "cells").exists():
        write_cells(project.folder / "cells")
    data = {"source": "folder", "root": "cells", "size": SIDE, "channels": 1}
    loaded = load_recipe(project.recipe, [f"data={json.dumps(data)}", f"stages={json.dumps(chain)}"])
    stages = (Shrink.model_validate({"on_no_gain": on_no_gain}), *loaded.recipe.stages)
    recipe = loaded.recipe.model_copy(update={"stages": stages})
    return Run(replace(loaded, recipe=recipe), project.folder / "run", Store(project.folder / "store"))


def test_everything_after_works_at_the_smaller_size(project: Project) -> None:
    """Training with a teacher of the larger size, files, their scores and times, and the bundle with its own check."""
    run = run_of(project, CHAIN)
    report = run.execute()
    shapes = [artifact.inputs[0].shape[2:] for artifact in run.artifacts]
    assert shapes == [(SIDE, SIDE), *[(SMALLER, SMALLER)] * (len(shapes) - 1)]
    assert report.final is not None
    assert report.rows[1].macs == pytest.approx(report.rows[0].macs * (SMALLER / SIDE) ** 2, rel=0.01)
    assert run.measurement is not None
    sides = {each.runtime: {} for each in run.measurement.subjects}
    for each in run.measurement.subjects:
        sides[each.runtime][each.label] = each.input_shapes["input"][-1]
        assert each.check is None or each.input_shapes["input"][-1] == SIDE
    assert {name: found["original"] for name, found in sides.items()} == {"onnxruntime": SIDE, "torch": SIDE}
    assert sides["onnxruntime"]["quantize"] == sides["torch"]["finetune"] == SMALLER
    bundle = project.folder / "run" / "bundle"
    described = json.loads((bundle / "preprocess.json").read_text())
    assert (described["height"], described["width"]) == (SMALLER, SMALLER)
    sizes = [unpack(">II", file.read_bytes()[16:24]) for file in (bundle / "samples").glob("*.png")]
    assert sizes == [(SMALLER, SMALLER)] * 2
    found = Verification()
    check_bundle(bundle, VerifyOptions(), found)
    assert found.verified
    assert report.data["result_input_shape"] == [1, SMALLER, SMALLER]
    scored = evaluate_file(
        run.artifacts[5].file, run.loaded, split="validation", runtime=None, threads=1, progress=run.progress
    )
    assert scored.score == report.rows[5].validation


def test_a_stage_that_shrinks_images_is_timed_for_its_gain(project: Project) -> None:
    """Both files run at their own sizes; whatever is decided is said."""
    run = run_of(project, CHAIN[1:2], on_no_gain="skip")
    run.execute()
    assert run.rows[1].changed["gain"]["decision"] in {"kept", "skipped"}
    side = SMALLER if run.rows[1].changed["gain"]["decision"] == "kept" else SIDE
    assert read_artifact(run.artifacts[-1].folder).inputs[0].shape[2:] == (side, side)
