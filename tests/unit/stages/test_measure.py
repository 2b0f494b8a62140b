"""The measure stage: every distinct file, in every runtime that reads it, against the original's export."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from pipeline.core.artifact import Artifact, Form, TensorSpec, payload_digest
from pipeline.core.errors import InputError, SecateurError
from pipeline.core.stage import ChainFile, Context, Target
from pipeline.core.store import write_artifact
from pipeline.network.definition import build_network
from pipeline.network.stored import write_original
from pipeline.results.measurement import MEASUREMENT_FILE, load_measurement
from pipeline.stages.measure import Measure

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.core.dataset import Dataset

SPEC = (TensorSpec(name="input", shape=(-1, 3, 8, 8)),)


def artifact(folder: Path, form: Form = "onnx", width: int = 4) -> Artifact:
    """Return an artifact; an ONNX one has a tiny network in its folder."""
    folder.mkdir()
    if form == "onnx":
        weight = numpy_helper.from_array(np.full((width, 3, 3, 3), 0.1, np.float32), "weight")
        nodes = [
            helper.make_node("Conv", ["input", "weight"], ["conv"], kernel_shape=[3, 3]),
            helper.make_node("ReduceMean", ["conv"], ["scores"], axes=[1, 2, 3], keepdims=0),
        ]
        inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])]
        outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch"])]
        graph = helper.make_graph(nodes, "tiny", inputs, outputs, [weight])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, folder / "model.onnx")
    return Artifact(form=form, folder=folder, digest=folder.name, inputs=SPEC, outputs=SPEC)


def context(folder: Path, *candidates: Artifact, threads: int = 1) -> Context:
    """Return a context with these exported files."""

    def no_data() -> Dataset:
        raise AssertionError("measuring needs no data")

    (folder / "stage").mkdir()
    return Context(
        folder=folder / "stage",
        seed=0,
        target=Target(threads=threads),
        original=artifact(folder / "original", "torch"),
        task=no_data,
        candidates=tuple(ChainFile(label=each.digest, artifact=each) for each in candidates),
    )


def test_every_distinct_file_is_measured_in_every_runtime(tmp_path: Path) -> None:
    """The given file is already a candidate and counts once; the first is the baseline in both runtimes."""
    first, second = artifact(tmp_path / "first", width=8), artifact(tmp_path / "second")
    given = context(tmp_path, first, second)
    outcome = Measure.model_validate({"budget": "200ms"}).run(second, given)
    found = load_measurement(given.folder / MEASUREMENT_FILE)
    assert outcome.form is None
    assert [(subject.runtime, subject.digest) for subject in found.subjects] == [
        ("onnxruntime", "first"),
        ("onnxruntime", "second"),
        ("openvino", "first"),
        ("openvino", "second"),
    ]
    assert outcome.changed["files"] == 2
    assert outcome.changed["speedups"].keys() == {"onnxruntime", "openvino"}
    assert outcome.changed["speedups"]["onnxruntime"].keys() == {"second"}


def stored_network(folder: Path, width: int) -> Artifact:
    """Return a torch artifact in a store's form."""
    folder.mkdir()
    (folder.parent / "model.py").write_text(
        "from torch import nn\n\n\ndef build(width):\n    return nn.Conv2d(3, width, 3)\n"
    )
    model = build_network(folder.parent / "model.py", {"width": width})
    with torch.no_grad():
        model.get_parameter("weight").fill_(0.1)
    write_original(folder, model, folder.parent / "model.py", {"width": width})
    digest = payload_digest("torch", folder)
    found = Artifact(form="torch", folder=folder, digest=digest, inputs=SPEC, outputs=SPEC)
    write_artifact(found, folder)
    return found


def test_networks_before_export_are_measured_in_torch(tmp_path: Path) -> None:
    """The torch runtime compares the given network with the original one, with the stage's threads."""
    given = context(tmp_path, artifact(tmp_path / "export"), threads=2)
    original = stored_network(tmp_path / "wide", width=4)
    network = stored_network(tmp_path / "pruned", width=4)
    network = network.model_copy(update={"digest": "pruned"})
    stage = Measure.model_validate({"budget": "100ms", "runtimes": ("torch",), "threads": 1})
    stage.run(network, replace(given, original=original))
    found = load_measurement(given.folder / MEASUREMENT_FILE)
    assert [subject.label for subject in found.subjects] == ["original", "given"]
    assert found.subjects[0].input_shapes == {"input": (1, 3, 8, 8)}
    assert [subject.threads for subject in found.subjects] == [1, 1]
    assert [subject.runtime_version for subject in found.subjects] == [str(torch.__version__)] * 2


def test_damaged_network_is_not_measured(tmp_path: Path) -> None:
    """Weights that are not those of the artifact are refused by the worker that loads them."""
    network = stored_network(tmp_path / "network", width=4)
    (network.folder / "definition.py").write_text("def build(): ...\n")
    given = context(tmp_path, artifact(tmp_path / "export"))
    stage = Measure.model_validate({"budget": "100ms", "runtimes": ("torch",)})
    with pytest.raises(SecateurError, match="is damaged: its digest is not the recorded one"):
        stage.run(network, replace(given, original=network))


def test_runtime_without_a_file_is_an_input_error(tmp_path: Path) -> None:
    """ONNX Runtime reads no OpenVINO files, so that there is nothing to measure in it."""
    given = artifact(tmp_path / "ir", "openvino")
    with pytest.raises(InputError, match="onnxruntime reads none of the files so far"):
        Measure(runtimes=("onnxruntime",)).run(given, context(tmp_path, given))


@pytest.mark.parametrize("asked", ["skip", "fail"])
def test_no_gain_can_be_asked_of_it(asked: str) -> None:
    """It makes nothing that could be faster, and says so; it always depends on the machine."""
    with pytest.raises(ValidationError, match=f'found "{asked}", allowed: keep, because measure changes no file'):
        Measure.model_validate({"on_no_gain": asked})
    assert Measure().measures


@pytest.mark.parametrize("form", ["torch", "onnx", "openvino"])
def test_artifact_goes_on_unchanged(form: Form) -> None:
    """The stage takes any form and gives it back."""
    assert form in Measure().consumes
    assert Measure().produces(form) == form


@pytest.mark.parametrize("wrong", [{"runtimes": ()}, {"threads": 0}, {"budget": 60}, {"runtimes": ("tensorrt",)}])
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    """No runtime, no thread, a budget without a unit, an unknown runtime."""
    with pytest.raises(ValidationError):
        Measure.model_validate({"kind": "measure", **wrong})


def test_only_a_scope_beyond_the_model_is_part_of_the_configuration() -> None:
    """Recipes without it keep their cache keys."""
    assert "time_scope" not in Measure.model_validate({}).model_dump(mode="json")
    assert Measure.model_validate({"time_scope": "model+decode"}).model_dump()["time_scope"] == "model+decode"
