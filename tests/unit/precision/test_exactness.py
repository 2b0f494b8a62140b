"""What two processors compute differently, as weights and operators tell."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from pipeline.core.errors import InputError
from pipeline.precision.exactness import KERNELS, expected, inexact_layers
from pipeline.precision.targets import TargetFacts, target_facts
from tests.unit.compress.quantization.products import CASES, Case, model_of, weights


def target(machine: str, flags: str, runtime: str = "onnxruntime") -> TargetFacts:
    """Return the facts of a processor."""
    return target_facts({"architecture": machine, "isa": flags.split()}, runtime)


VNNI = target("x86_64", "avx avx2 avx512f avx512_vnni")
HASWELL = target("x86_64", "avx avx2")
SANDY_BRIDGE = target("x86_64", "avx")
CORTEX_A72 = target("aarch64", "asimd")
CORTEX_A76 = target("aarch64", "asimd asimddp")
UNKNOWN = target("riscv64", "")

FULL = CASES["direct"]
REDUCED = Case(16, 16, bound=64)
DEPTHWISE = CASES["depthwise of 16"]


def with_smallest(case: Case, count: int = 2) -> np.ndarray:
    """Return weights of which this many in one output channel are -128."""
    found = weights(case)
    found.reshape(case.width, -1)[0, :count] = -128
    return found


@pytest.mark.parametrize(
    ("here", "there", "case", "smallest", "expectation"),
    [
        (VNNI, CORTEX_A72, FULL, False, "same"),
        (VNNI, CORTEX_A76, FULL, False, "same"),
        (VNNI, HASWELL, FULL, False, "differs"),
        (HASWELL, CORTEX_A72, FULL, False, "differs"),
        (HASWELL, CORTEX_A72, REDUCED, False, "same"),
        (SANDY_BRIDGE, VNNI, FULL, False, "same"),
        (VNNI, CORTEX_A72, REDUCED, True, "differs"),
        (VNNI, CORTEX_A76, REDUCED, True, "same"),
        (VNNI, CORTEX_A76, DEPTHWISE, False, "same"),
        (VNNI, CORTEX_A76, DEPTHWISE, True, "differs"),
        (VNNI, HASWELL, DEPTHWISE, False, "same"),
        (VNNI, UNKNOWN, FULL, False, "differs"),
        (VNNI, UNKNOWN, REDUCED, False, "same"),
    ],
)
def test_by_processor_and_weights(
    here: TargetFacts, there: TargetFacts, case: Case, *, smallest: bool, expectation: str
) -> None:
    """Whole numbers are the same where no kernel loses anything; it does not matter which side is which."""
    model = model_of(case, with_smallest(case) if smallest else None)
    for one, other in ((here, there), (there, here)):
        found = expected(model, one, other)
        assert found.expectation == expectation
        assert [each.layer for each in found.inexact] == (["layer"] if expectation == "differs" else [])
        assert found.floats == ()


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_a_kernel_says_why_and_whence(kernel: object) -> None:
    """One sentence and a source."""
    assert kernel.reason.endswith(".")  # type: ignore[attr-defined]
    assert kernel.source.startswith("https://")  # type: ignore[attr-defined]


def test_the_reason_names_the_kernel() -> None:
    """Each layer once, with the first kernel that fails on it."""
    (found,) = inexact_layers(model_of(FULL), HASWELL)
    assert found.layer == "layer"
    assert found.reason.startswith("x86-64 without VNNI: two products are summed in 16 bits")


def test_one_smallest_weight_is_harmless() -> None:
    """128 * 128 + 128 * 127 still fits into 16 bits."""
    assert inexact_layers(model_of(REDUCED, with_smallest(REDUCED, 1)), CORTEX_A72) == ()


def test_unsigned_weights_are_exact_everywhere() -> None:
    """They run on kernels that widen first."""
    model = model_of(FULL, (weights(FULL).astype(np.int16) + 128).astype(np.uint8))
    assert all(inexact_layers(model, each) == () for each in (VNNI, HASWELL, CORTEX_A72, CORTEX_A76, UNKNOWN))


def test_operators_in_floats_are_named() -> None:
    """They round as each processor's code does; what only moves numbers does not."""
    model = model_of(REDUCED)
    model.graph.node[-1].output[0] = "z"
    model.graph.node.extend(
        [
            helper.make_node("Flatten", ["z"], ["flat"], name="flat"),
            helper.make_node("Softmax", ["flat"], ["y"], name="softmax"),
        ]
    )
    found = expected(model, VNNI, CORTEX_A72)
    assert (found.expectation, found.floats) == ("rounding", ("softmax",))


def test_other_files_and_runtimes_are_refused() -> None:
    """Nothing is known of their kernels."""
    with pytest.raises(InputError, match="found openvino; only onnxruntime's kernels are known"):
        expected(model_of(FULL), VNNI, target("aarch64", "asimd", "openvino"))
    model = model_of(FULL)
    del model.graph.node[:]
    with pytest.raises(InputError, match="quantize the file first"):
        inexact_layers(model, VNNI)
