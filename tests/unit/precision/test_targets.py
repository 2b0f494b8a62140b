"""Facts about targets: every row of the tables is found by a processor that it is about, and none is missing."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from pipeline.compress.quantization.names import Scheme
from pipeline.measure.machine import DISPATCH_FLAGS, machine_fingerprint
from pipeline.precision.int8_rows import INT8_ROWS
from pipeline.precision.precision_rows import PRECISION_ROWS
from pipeline.precision.rows import Precision
from pipeline.precision.targets import TargetFacts, target_facts

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
X86, ARM = "x86_64", "aarch64"
#: Processors as their fingerprints tell them.
ICE_LAKE = (X86, "avx avx2 fma avx512f avx512bw avx512vl avx512_vnni")
SAPPHIRE_RAPIDS = (X86, "avx avx2 avx512f avx512bw avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16")
ALDER_LAKE = ("AMD64", "avx avx2 fma avx_vnni")
SKYLAKE_X = (X86, "avx avx2 fma avx512f avx512bw avx512vl")
HASWELL = (X86, "avx avx2 fma")
SANDY_BRIDGE = (X86, "avx")
CORTEX_A72 = (ARM, "asimd")
CORTEX_A76 = (ARM, "asimd asimddp asimdhp")
NEOVERSE_V1 = (ARM, "asimd asimddp asimdhp i8mm bf16 sve")
APPLE = ("arm64", "")
RISC_V = ("riscv64", "")
WINDOWS = ("AMD64", "")

#: The row about static int8 for a runtime on a processor: at least one processor for each row.
INT8_EXAMPLES = [
    ("onnxruntime", ICE_LAKE, "onnxruntime, x86-64 with VNNI"),
    ("onnxruntime", ALDER_LAKE, "onnxruntime, x86-64 with VNNI"),
    ("onnxruntime", (X86, "avx avx2 avx512f amx_int8"), "onnxruntime, x86-64 with VNNI"),
    ("onnxruntime", HASWELL, "onnxruntime, x86-64 without VNNI"),
    ("onnxruntime", SKYLAKE_X, "onnxruntime, x86-64 without VNNI"),
    ("onnxruntime", SANDY_BRIDGE, "onnxruntime, x86-64 before AVX2"),
    ("onnxruntime", CORTEX_A76, "onnxruntime, arm64 with dot products"),
    ("onnxruntime", NEOVERSE_V1, "onnxruntime, arm64 with dot products"),
    ("onnxruntime", CORTEX_A72, "onnxruntime, arm64 without dot products"),
    ("onnxruntime", APPLE, "onnxruntime, arm64 of unknown features"),
    ("openvino", ICE_LAKE, "openvino, x86-64 with VNNI"),
    ("openvino", HASWELL, "openvino, x86-64 without VNNI"),
    ("openvino", SANDY_BRIDGE, "openvino, x86-64 without VNNI"),
    ("openvino", CORTEX_A76, "openvino, arm64"),
    ("onnxruntime", WINDOWS, "unknown processor"),
    ("onnxruntime", RISC_V, "unknown processor"),
    ("openvino", WINDOWS, "unknown processor"),
    ("tflite", ICE_LAKE, "unknown processor"),
]
#: Precision, runtime, its version, processor, row.
PRECISION_EXAMPLES: list[tuple[Precision, str, str | None, tuple[str, str], str]] = [
    ("fp16-weights", "onnxruntime", None, HASWELL, "fp16 weights in onnxruntime"),
    ("fp16-weights", "openvino", None, CORTEX_A72, "fp16 weights in openvino"),
    ("fp16-weights", "tflite", None, HASWELL, "fp16-weights, unknown"),
    ("fp16", "onnxruntime", "1.31.1", CORTEX_A76, "fp16 in onnxruntime, arm64 with float16"),
    ("fp16", "onnxruntime", "1.22.0", CORTEX_A76, "fp16 in onnxruntime, elsewhere"),
    ("fp16", "onnxruntime", None, CORTEX_A72, "fp16 in onnxruntime, elsewhere"),
    ("fp16", "onnxruntime", None, SAPPHIRE_RAPIDS, "fp16 in onnxruntime, elsewhere"),
    ("fp16", "openvino", None, SAPPHIRE_RAPIDS, "fp16 in openvino, x86-64 with AVX512-FP16"),
    ("fp16", "openvino", None, CORTEX_A76, "fp16 in openvino, arm64 with float16"),
    ("fp16", "openvino", None, ICE_LAKE, "fp16 in openvino, elsewhere"),
    ("fp16", "openvino", None, CORTEX_A72, "fp16 in openvino, elsewhere"),
    ("fp16", "tflite", None, CORTEX_A76, "fp16, unknown"),
    ("bf16", "onnxruntime", "1.31.1", NEOVERSE_V1, "bf16 in onnxruntime, arm64 with bf16"),
    ("bf16", "onnxruntime", "1.16.3", NEOVERSE_V1, "bf16 in onnxruntime, elsewhere"),
    ("bf16", "onnxruntime", None, SAPPHIRE_RAPIDS, "bf16 in onnxruntime, elsewhere"),
    ("bf16", "openvino", None, SAPPHIRE_RAPIDS, "bf16 in openvino, x86-64 with bf16"),
    ("bf16", "openvino", None, ICE_LAKE, "bf16 in openvino, elsewhere"),
    ("bf16", "openvino", None, NEOVERSE_V1, "bf16 in openvino, elsewhere"),
    ("bf16", "tflite", None, NEOVERSE_V1, "bf16, unknown"),
    ("int8-dynamic", "onnxruntime", None, ICE_LAKE, "dynamic int8 in onnxruntime, x86-64 with VNNI"),
    ("int8-dynamic", "onnxruntime", None, HASWELL, "dynamic int8 in onnxruntime, x86-64 without VNNI"),
    ("int8-dynamic", "onnxruntime", None, CORTEX_A72, "dynamic int8 in onnxruntime, arm64"),
    ("int8-dynamic", "onnxruntime", None, WINDOWS, "int8-dynamic, unknown"),
    ("int8-dynamic", "openvino", None, ICE_LAKE, "dynamic int8 in openvino"),
    ("int8-weights", "onnxruntime", "1.31.1", HASWELL, "int8 weights in onnxruntime"),
    ("int8-weights", "onnxruntime", "1.21.0", HASWELL, "int8-weights, unknown"),
    ("int8-weights", "openvino", None, CORTEX_A76, "compressed weights in openvino, arm64 (int8)"),
    ("int8-weights", "openvino", None, HASWELL, "compressed weights in openvino, x86-64 (int8)"),
    ("int4-weights", "onnxruntime", None, CORTEX_A72, "int4 weights in onnxruntime, with kernels"),
    ("int4-weights", "onnxruntime", None, SANDY_BRIDGE, "int4 weights in onnxruntime, elsewhere"),
    ("int4-weights", "openvino", None, CORTEX_A76, "compressed weights in openvino, arm64 (int4)"),
    ("int4-weights", "openvino", None, HASWELL, "compressed weights in openvino, x86-64 (int4)"),
    ("int4-weights", "openvino", None, RISC_V, "int4-weights, unknown"),
]


def facts(runtime: str, processor: tuple[str, str], version: str | None = None) -> TargetFacts:
    """Return the facts for a processor in the form that a fingerprint has."""
    machine, flags = processor
    return target_facts({"architecture": machine, "isa": flags.split(), "cpu_model": "any"}, runtime, version)


@pytest.mark.parametrize(("runtime", "processor", "row"), INT8_EXAMPLES)
def test_int8(runtime: str, processor: tuple[str, str], row: str) -> None:
    """The row is found by runtime, architecture and flags."""
    assert facts(runtime, processor).int8.name == row


@pytest.mark.parametrize(("precision", "runtime", "version", "processor", "row"), PRECISION_EXAMPLES)
def test_another_precision(
    precision: Precision, runtime: str, version: str | None, processor: tuple[str, str], row: str
) -> None:
    """A version that is not given is taken for a new one."""
    assert facts(runtime, processor, version).precisions[precision].name == row


def test_every_row_has_an_example() -> None:
    """And every name is there once."""
    for rows, examples in (
        (INT8_ROWS, [each[-1] for each in INT8_EXAMPLES]),
        (PRECISION_ROWS, [each[-1] for each in PRECISION_EXAMPLES]),
    ):
        names = [row.name for row in rows]
        assert set(names) == set(examples)
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", [*INT8_ROWS, *PRECISION_ROWS], ids=lambda row: row.name)
def test_a_row_says_why_and_whence(row: Any) -> None:  # noqa: ANN401 (rows of both tables)
    """One sentence and a source, and only flags that a fingerprint can hold."""
    assert row.reason.endswith(".")
    assert ". " not in row.reason
    assert row.source
    assert row.needs | row.lacks <= set(DISPATCH_FLAGS)


@pytest.mark.parametrize(
    ("runtime", "processor", "schemes", "saturates", "gain"),
    [
        ("onnxruntime", ICE_LAKE, "u8s8", False, "large"),
        ("onnxruntime", SKYLAKE_X, "u8s8-reduced", True, "small"),
        ("onnxruntime", HASWELL, "u8s8-reduced", True, "small"),
        ("onnxruntime", CORTEX_A76, "s8s8", False, "large"),
        ("onnxruntime", CORTEX_A72, "s8s8", False, "small"),
        ("onnxruntime", WINDOWS, "u8s8-reduced", True, "unknown"),
        ("openvino", ICE_LAKE, "u8s8", False, "large"),
        ("openvino", HASWELL, "u8s8-reduced", True, "small"),
        ("openvino", CORTEX_A76, None, False, "none"),
    ],
)
def test_verdicts(
    runtime: str,
    processor: tuple[str, str],
    schemes: Scheme | None,
    saturates: bool,  # noqa: FBT001 (a column of the table)
    gain: str,
) -> None:
    """The scheme to try first; where int8 is not worth a file there is none."""
    found = facts(runtime, processor)
    assert found.schemes[:1] == ((schemes,) if schemes else ())
    assert (found.saturates, found.int8.gain) == (saturates, gain)
    assert (found.int8.per_channel, found.int8.symmetric) == (True, False)


def test_the_cautious_row_says_so() -> None:
    """Nothing is assumed of a processor that no row is about."""
    found = facts("onnxruntime", RISC_V)
    assert not found.known
    assert "cautious" in found.int8.reason
    assert facts("onnxruntime", CORTEX_A72).known
    assert {row.support for row in facts("tflite", RISC_V).precisions.values()} == {"none"}


def test_every_precision_has_a_verdict_everywhere() -> None:
    """Also on processors that nothing is known of."""
    for processor in (ICE_LAKE, HASWELL, CORTEX_A76, RISC_V, WINDOWS):
        for runtime in ("onnxruntime", "openvino", "tflite"):
            assert set(facts(runtime, processor).precisions) == set(PRECISIONS)


def test_options_are_told() -> None:
    """What a runtime has to be told comes with the row."""
    assert facts("openvino", SAPPHIRE_RAPIDS).precisions["bf16"].options == {"INFERENCE_PRECISION_HINT": "bf16"}
    assert facts("onnxruntime", HASWELL).precisions["bf16"].options == {}


@pytest.mark.parametrize(
    ("flags", "architecture"), [("asimd asimddp", "arm64"), ("avx avx2", "x86-64"), ("neon", None), ("", None)]
)
def test_flags_alone_tell_the_architecture(flags: str, architecture: str | None) -> None:
    """Where no machine is named, one of them has flags of its own."""
    assert target_facts({"isa": flags.split()}, "onnxruntime").architecture == architecture


def test_this_machine() -> None:
    """Its own fingerprint and a version with a build's name are read."""
    found = target_facts(machine_fingerprint(), "openvino", "2026.4.1-22222-abcdef")
    assert found.version == "2026.4.1-22222-abcdef"
    assert set(found.precisions) == set(PRECISIONS)
    assert set(found.schemes) <= set(get_args(Scheme))
