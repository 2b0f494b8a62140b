"""The export stage: what it takes, what it leaves, and what it checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from onnx import numpy_helper
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from pipeline.core.artifact import TensorSpec
from pipeline.core.errors import InputError, StageError
from pipeline.export import execution
from pipeline.export import onnx as onnx_export
from pipeline.onnx_graph.file import read_onnx
from pipeline.stages.export import Export
from pipeline.stages.quantize import Quantize

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto

    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Outcome

    Run = Callable[..., tuple[Artifact, Outcome]]


def export(to: str, **settings: Any) -> Export:  # noqa: ANN401 (any setting of a recipe)
    """Return the stage as a recipe would."""
    return Export.model_validate({"kind": "export", "to": to, **settings})


def test_forms_follow_from_where_it_exports_to() -> None:
    """ONNX is made of torch networks, OpenVINO of ONNX files."""
    assert (export("onnx").consumes, export("onnx").produces("torch")) == ({"torch"}, "onnx")
    assert (export("openvino").consumes, export("openvino").produces("onnx")) == ({"onnx"}, "openvino")


@pytest.mark.parametrize("settings", [{"weights": "fp16"}, {"opset": 9}, {"batch": 3}, {"unknown": 1}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    """FP16 is OpenVINO's; old operators, batch sizes and unknown keys are not taken."""
    with pytest.raises(ValidationError):
        export("onnx", **settings)


def test_a_torch_network_becomes_onnx_and_openvino(run_stage: Run, network: Artifact) -> None:
    """Names and the target's batch are kept, and both report their parity on 16 training images."""
    onnx, first = run_stage(export("onnx"), network, "onnx", batch=2)
    openvino, second = run_stage(export("openvino"), onnx, "openvino", batch=2)
    assert [(spec.name, spec.shape) for spec in (*openvino.inputs, *openvino.outputs)] == [
        ("input", (2, 1, 8, 8)),
        ("scores", (2, 3)),
    ]
    for outcome in (first, second):
        assert outcome.changed["parity"]["images"] == 16
        assert outcome.changed["parity"]["max_rel_to_scale"] < 1e-4
    assert all(file.stat().st_size > 0 for file in openvino.files)


def test_a_dynamic_batch_goes_through_or_is_fixed_for_openvino(run_stage: Run, network: Artifact) -> None:
    """As the stage says; a fixed file cannot become dynamic again."""
    onnx, _ = run_stage(export("onnx", batch="dynamic"), network, "onnx")
    free, _ = run_stage(export("openvino", batch="dynamic"), onnx, "free")
    fixed, _ = run_stage(export("openvino"), onnx, "fixed", batch=4)
    assert [artifact.inputs[0].shape[0] for artifact in (onnx, free, fixed)] == [-1, -1, 4]
    one, _ = run_stage(export("onnx"), network, "one")
    with pytest.raises(InputError, match="has a fixed batch of 1"):
        run_stage(export("openvino", batch="dynamic"), one, "none")


def test_fp16_weights_halve_the_file(run_stage: Run, onnx_artifact: Artifact) -> None:
    """Within the tolerance that FP16 needs."""
    full, _ = run_stage(export("openvino"), onnx_artifact, "full")
    half, outcome = run_stage(export("openvino", weights="fp16"), onnx_artifact, "half")
    assert half.files[1].stat().st_size < 0.6 * full.files[1].stat().st_size
    assert 0 < outcome.changed["parity"]["max_rel_to_scale"] < 1e-2


def test_a_wrong_export_fails_and_names_the_layer(
    run_stage: Run, network: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the exporter had written another weight."""
    finish = onnx_export.finish_model

    def wrong(model: ModelProto) -> ModelProto:
        weight = next(tensor for tensor in model.graph.initializer if tensor.name == "conv.weight")
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 2, weight.name))
        return finish(model)

    monkeypatch.setattr(onnx_export, "finish_model", wrong)
    with pytest.raises(StageError, match=r"The first layer that differs is conv \("):
        run_stage(export("onnx"), network, "onnx")


def test_two_exports_are_the_same_file(run_stage: Run, network: Artifact, onnx_artifact: Artifact) -> None:
    """So the artifact's digest is that of its weights."""
    again, _ = run_stage(export("onnx"), network, "again")
    assert again.digest == onnx_artifact.digest
    assert not read_onnx(again.file).metadata_props


def test_batch_statistics_are_named_as_the_cause(run_stage: Run, network: Artifact) -> None:
    """A norm without running statistics looks at the other images, which a file for one image at a time has not."""
    definition = network.folder / "definition.py"
    definition.write_text(definition.read_text().replace("BatchNorm2d(8)", "BatchNorm2d(8, track_running_stats=False)"))
    tensors = load_file(network.folder / "weights.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(("bn.running", "bn.num"))}
    save_file(kept, network.folder / "weights.safetensors")
    given = network.model_copy(update={"inputs": (TensorSpec(name="input", shape=(1, 1, 8, 8)),)})
    with pytest.raises(StageError, match=r"outputs differ .* The cause: .*: bn \(BatchNorm2d\) has no running statis"):
        run_stage(export("onnx"), given, "onnx")


def test_an_ir_that_is_far_from_its_int8_file_fails(
    run_stage: Run, onnx_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Integer kernels of two runtimes round differently, but compute no other network."""
    int8, _ = run_stage(Quantize.model_validate({"kind": "quantize", "images": 16}), onnx_artifact, "int8")
    stage = Export.model_validate({"kind": "export", "to": "openvino"})
    run_stage(stage, int8, "near")
    original = execution.openvino_outputs
    monkeypatch.setattr(execution, "openvino_outputs", lambda *given: tuple(2 * each for each in original(*given)))
    with pytest.raises(StageError, match=r"the IR is far from the int8 file that it was made from: -?\d.\d dB"):
        run_stage(stage, int8, "far")
