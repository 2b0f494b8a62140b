"""The simplify stage keeps what the network says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.stages.simplify import Simplify

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Outcome

    Run = Callable[..., tuple[Artifact, Outcome]]


def test_an_export_is_already_simple(run_stage: Run, onnx_artifact: Artifact) -> None:
    """The nodes are counted before and after, and the outputs are the same to the bit."""
    simplified, outcome = run_stage(Simplify.model_validate({"kind": "simplify"}), onnx_artifact, "simple")
    assert outcome.changed["nodes_before"] == outcome.changed["nodes_after"]
    assert outcome.changed["parity"]["max_abs"] == 0
    assert (simplified.inputs, simplified.outputs) == (onnx_artifact.inputs, onnx_artifact.outputs)


def test_it_takes_and_gives_onnx() -> None:
    """One form in, the same out."""
    stage = Simplify.model_validate({"kind": "simplify"})
    assert (stage.consumes, stage.produces("onnx")) == ({"onnx"}, "onnx")
