"""How far outputs on another processor may be from those computed here, by what the file computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.core.nearness import NEARNESS, Nearness
from pipeline.stages import STAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.core.artifact import StageRecord
    from pipeline.core.stage import Runtime

#: Precisions whose weights are widened when the file is loaded: all else is computed in single precision.
FLOAT = frozenset({"float", "fp32", "fp16-weights"})
#: Shares of the largest output, with the reason.
_SHARES: dict[str, tuple[float, str]] = {
    "float": (1e-4, "computed in single precision: other processors sum in another order"),
    "fp16": (2e-2, "computed in half precision if the processor has it, else in single precision"),
    "int8": (
        5e-2,
        "computed on integers: kernels round differently by processor, and saturate without VNNI",
    ),
}
#: The least tolerance, for outputs that are all about zero.
SMALLEST = 1e-5
EXACT = "quantized so that every processor computes the same bits in onnxruntime (arm_exact)"


def precision_of(lineage: Sequence[StageRecord]) -> str:
    """Return what a file computes in, by the stages that made it: the last one that quantized decides."""
    return next((precision for record in reversed(lineage) if (precision := _computes_in(record))), "float")


def far(lineage: Sequence[StageRecord]) -> str:
    """Say that the network is far from its float file, where a recipe kept it so; empty where it is near."""
    found = [Nearness.model_validate(each.changed[NEARNESS]) for each in lineage if NEARNESS in each.changed]
    return next((each.text for each in found if each.decision == "kept"), "")


def is_exact(lineage: Sequence[StageRecord], runtime: Runtime) -> bool:
    """Return whether every processor gives the same bits: asked for, and no float operator found that may round."""
    records = [record for record in lineage if _computes_in(record)]
    asked = bool(records) and records[-1].config.get("arm_exact") is True
    return runtime == "onnxruntime" and asked and records[-1].changed.get("may_round_on_arm") == []


def tolerance(
    lineage: Sequence[StageRecord], runtime: Runtime, outputs: NDArray[np.floating[Any]]
) -> tuple[float, str]:
    """Return how far any output may be from that expected, and why; 0 where they must be the same."""
    if is_exact(lineage, runtime):
        return 0.0, EXACT
    precision = precision_of(lineage)
    share, why = _SHARES["float" if precision in FLOAT else "fp16" if precision == "fp16" else "int8"]
    largest = float(abs(outputs).max())
    return max(SMALLEST, share * largest), f"{100 * share:g} % of the largest output: {why}"


def _computes_in(record: StageRecord) -> str:
    return STAGES[record.kind].computes_in(record)
