"""The quantize stage: scheme by CPU, calibration images, and what it reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.compress.quantization import onnxruntime as engine
from pipeline.core.errors import InputError, StageError
from pipeline.export.onnx_file import is_quantized, read_onnx
from pipeline.stages.export import Export
from pipeline.stages.quantize import Quantize

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.core.artifact import Artifact
    from pipeline.core.dataset import Dataset
    from pipeline.core.stage import Context, Outcome

    Run = Callable[..., tuple[Artifact, Outcome]]


def quantize(**settings: Any) -> Quantize:  # noqa: ANN401 (any setting of a recipe)
    """Return the stage as a recipe would, with the 40 images that the toy data has."""
    return Quantize.model_validate({"kind": "quantize", "images": 40, "scheme": "u8s8", **settings})


@pytest.mark.parametrize(
    ("flags", "scheme"),
    [
        ({"avx2", "avx512f", "avx512_vnni"}, "u8s8"),
        ({"avx2", "avx_vnni"}, "u8s8"),
        ({"avx2"}, "u8s8-reduced"),
        ({"fp", "asimd", "asimddp"}, "s8s8"),
        (set(), "u8s8-reduced"),
    ],
)
def test_auto_is_resolved_by_the_cpu(flags: set[str], scheme: str) -> None:
    """Full range needs VNNI; a scheme that is stated stays."""
    assert quantize(scheme="auto").resolved(frozenset(flags)).scheme == scheme
    assert quantize(scheme="u8u8").resolved(frozenset(flags)).scheme == "u8u8"


@pytest.mark.parametrize(
    "settings", [{"scheme": "int4"}, {"images": 0}, {"percentile": 10}, {"engine": "nncf"}, {"calibration": "mse"}]
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    """Unknown names and numbers out of range."""
    with pytest.raises(ValidationError):
        quantize(**settings)


def test_a_float_file_becomes_int8_and_runs_in_openvino(
    run_stage: Run,
    onnx_artifact: Artifact,
) -> None:
    """What was quantized is counted, what was not is named; parity is reported in both runtimes, and not judged."""
    int8, outcome = run_stage(quantize(), onnx_artifact, "int8")
    assert is_quantized(read_onnx(int8.file))
    assert outcome.changed["scheme"] == "u8s8"
    assert outcome.changed["quantized_nodes"] == {"Add": 1, "Conv": 2, "Gemm": 1}
    assert outcome.changed["float_nodes"] == ["ReduceMean"]
    assert outcome.changed["parity"]["images"] == 40
    assert 1e-4 < outcome.changed["parity"]["max_rel_to_scale"] < 0.1
    export = Export.model_validate({"kind": "export", "to": "openvino"})
    ir, exported = run_stage(export, int8, "openvino")
    assert ir.inputs == int8.inputs
    assert exported.changed["parity"]["argmax_agreement"] > 0.8


def test_the_same_seed_gives_the_same_file(run_stage: Run, onnx_artifact: Artifact) -> None:
    """Another seed draws other images."""
    files = [
        run_stage(quantize(images=10), onnx_artifact, name, seed=seed)[0].digest
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert files[0] == files[1] != files[2]


def test_only_training_images_are_used(make_context: Callable[..., Context], noise_data: Dataset) -> None:
    """Each of them once when all are asked for."""
    samples = quantize()._samples(make_context("stage"))
    np.testing.assert_array_equal(samples, noise_data.normalisation(noise_data.train.images))


def test_more_images_than_there_are_is_an_input_error(run_stage: Run, onnx_artifact: Artifact) -> None:
    """The message states both numbers."""
    with pytest.raises(InputError, match="images is 128, the training split has 40"):
        run_stage(quantize(images=128), onnx_artifact, "int8")


def test_a_network_that_dies_in_int8_fails(
    run_stage: Run,
    onnx_artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When all images get the same output, the file is of no use whatever the tolerance."""
    monkeypatch.setattr(engine, "activation_ranges", lambda model, *_, **__: dict.fromkeys(names(model), (0.0, 1e6)))
    with pytest.raises(StageError, match="the same for all 40 images"):
        run_stage(quantize(), onnx_artifact, "int8")


def names(model: Any) -> list[str]:  # noqa: ANN401 (onnx has no types)
    """Return the names of all activations."""
    return [model.graph.input[0].name, *(value for node in model.graph.node for value in node.output)]
