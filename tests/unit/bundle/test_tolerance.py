"""How far another processor's outputs may be off follows from what the file computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.bundle.tolerance import is_exact, precision_of, tolerance
from pipeline.results.precision import CandidateFile, PrecisionPlan
from tests.unit.bundle.small_content import record

if TYPE_CHECKING:
    from pipeline.core.artifact import StageRecord

OUTPUTS = np.array([[-20, 3], [1, 10]], np.float32)


def searched(precision: str) -> StageRecord:
    """Return what `quantize` with `engine: auto` writes down."""
    chosen = CandidateFile(label="x", state="chosen", precision=precision)
    facts: dict[str, Any] = {"facts": "", "facts_source": "", "flags": (), "accuracy_drop": 0.5, "seconds": 1.0}
    images: dict[str, Any] = {"calibration_images": 8, "validation_images": 8}
    plan = PrecisionPlan(
        runtime="onnxruntime", device="local", threads=1, candidates=(chosen,), chosen=0, **facts, **images
    )
    return record("quantize", changed={"plan": plan.model_dump(mode="json")}, engine="auto", precision="int8")


@pytest.mark.parametrize(
    ("lineage", "precision", "share"),
    [
        ((record("prune"), record("export")), "float", 1e-4),
        ((record("quantize", precision="int8"), record("export")), "int8", 5e-2),
        ((record("quantize", precision="int8-dynamic"),), "int8-dynamic", 5e-2),
        ((record("quantize", precision="fp16-weights"),), "fp16-weights", 1e-4),
        ((record("quantize", precision="fp16"),), "fp16", 2e-2),
        ((record("quantize-aware-finetune"), record("simplify")), "int8", 5e-2),
        ((searched("float"),), "float", 1e-4),
        ((searched("int8"),), "int8", 5e-2),
    ],
)
def test_the_last_quantization_decides(lineage: tuple[StageRecord, ...], precision: str, share: float) -> None:
    """Float files may differ by rounding, integer ones by what kernels do; the share is of the largest output."""
    assert precision_of(lineage) == precision
    most, why = tolerance(lineage, "onnxruntime", OUTPUTS)
    assert most == pytest.approx(20 * share)
    assert why.startswith(f"{100 * share:g} % of the largest output: ")


def test_outputs_of_about_zero_keep_a_tolerance() -> None:
    """A share of nothing would refuse rounding."""
    assert tolerance((), "openvino", OUTPUTS * 1e-9)[0] == 1e-5


@pytest.mark.parametrize(
    ("config", "changed", "exact"),
    [
        ({"arm_exact": True}, {"may_round_on_arm": []}, True),
        ({"arm_exact": True}, {"may_round_on_arm": ["mean"]}, False),
        ({"arm_exact": True}, {}, False),
        ({"arm_exact": False}, {"may_round_on_arm": []}, False),
    ],
)
def test_exact_where_it_was_asked_for_and_found(config: dict[str, Any], changed: dict[str, Any], exact: bool) -> None:  # noqa: FBT001
    """Only onnxruntime's kernels are known; a float operator that may round leaves the tolerance of integers."""
    lineage = (record("quantize", changed=changed, precision="int8", **config), record("export"))
    assert is_exact(lineage, "onnxruntime") is exact
    assert is_exact(lineage, "openvino") is False
    assert tolerance(lineage, "onnxruntime", OUTPUTS)[0] == pytest.approx(0 if exact else 1)
    assert tolerance(lineage, "openvino", OUTPUTS)[0] == pytest.approx(1)
