"""A chain in which a stage gives the network smaller images: what follows works at that size, up to the bundle."""

from __future__ import annotations

import json
from struct import unpack
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from pipeline.bundle.check import check_bundle
from pipeline.bundle.on_device.verify import Verification, VerifyOptions
from pipeline.core.store import Store, read_artifact
from pipeline.recipe import load_recipe
from pipeline.run.evaluate_file import evaluate_file
from pipeline.run.runner import Run
from tests.unit.pricing.fake_timer import Law, timers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.project import Project

#: Of 40 and 32 pixels the first that take 0.7 of the time, which is in proportion to the area.
SIDE, SMALLER = 48, 40
CHAIN = [
    {"kind": "finetune", "epochs": 1, "batch": 8, "learning_rate": 0.01, "distill": {"from": "original"}},
    {"kind": "export", "to": "onnx"},
    {"kind": "simplify"},
    {"kind": "quantize", "images": 16},
    {"kind": "export", "to": "openvino"},
    {"kind": "measure", "budget": "100ms", "runtimes": ["onnxruntime", "torch"], "time_scope": "model+decode"},
    {"kind": "bundle", "samples": 2},
]


def write_cells(folder: Path, per_class: int = 16) -> None:
    """Write images of two classes, a square that is bright or dark in grey noise, of more pixels than are used."""
    for name, value in (("bright", 200), ("dark", 30)):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = np.random.default_rng(number + value).integers(90, 140, (80, 96), np.uint8)
            pixels[20:60, 20:60] = value
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture(autouse=True)
def _made_up_times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Time grows with the area of images."""
    law = Law(side=SIDE, value=1e-3)
    monkeypatch.setattr("pipeline.pricing.opening.FileTimer", timers([], law=law))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run_of(project: Project, chain: list[dict[str, Any]], *, on_no_gain: str = "keep") -> Run:
    """Return a run of these stages after one that gives the network smaller images, not yet begun."""
    if not (project.folder / "cells").exists():
        write_cells(project.folder / "cells")
    data = {"source": "folder", "root": "cells", "size": SIDE, "channels": 1}
    prune = {"kind": "prune", "target": {"latency": "0.7x"}, "moves": ["resolution"], "images": 16}
    stages = [prune | {"on_no_gain": on_no_gain}, *chain]
    loaded = load_recipe(project.recipe, [f"data={json.dumps(data)}", f"stages={json.dumps(stages)}"])
    return Run(loaded, project.folder / "run", Store(project.folder / "store"))


def test_everything_after_works_at_the_smaller_size(project: Project) -> None:
    """Training with a teacher of the larger size, files, their scores and times, and the bundle with its own check."""
    run = run_of(project, CHAIN)
    report = run.execute()
    shapes = [artifact.inputs[0].shape[2:] for artifact in run.artifacts]
    assert shapes == [(SIDE, SIDE), *[(SMALLER, SMALLER)] * (len(shapes) - 1)]
    assert report.final is not None
    (move,) = report.rows[1].changed["latency"]["moves"]
    assert (move["kind"], move["before"], move["after"]) == ("resolution", SIDE, SMALLER)
    assert report.rows[1].changed["macs"] == {"before": report.rows[0].macs, "after": report.rows[1].macs}
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
