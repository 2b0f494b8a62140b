"""Precisions other than static int8, by runtime and processor: of the rows of one precision, the first that holds."""

from __future__ import annotations

from types import MappingProxyType

from pipeline.precision.int8_rows import AVX2, DOT_PRODUCT, OPENVINO_CPU, ORT_GUIDE, ORT_KERNELS, VNNI
from pipeline.precision.rows import PrecisionRow

_BF16 = frozenset({"avx512_bf16", "amx_bf16"})
_FP16_GRAPHS = "https://github.com/microsoft/onnxruntime/pull/29709"
_ORT_BF16 = "https://github.com/microsoft/onnxruntime/pull/17031"
_ORT_FOLDING = "https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html"
_ORT_CASTS = "https://github.com/microsoft/onnxruntime/issues/16778"
_NBITS = "https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits"
_OPENVINO_ARM = "https://github.com/openvinotoolkit/openvino_build_deploy/pull/440"
_OPENVINO_RUN = "OpenVINO 2026.4.1: runtimePrecision of each layer in CompiledModel.get_runtime_model()"

_FLOAT_ROWS: tuple[PrecisionRow, ...] = (
    PrecisionRow(
        name="fp16 weights in onnxruntime",
        runtime="onnxruntime",
        precision="fp16-weights",
        support="storage",
        reason="Casts of constants are folded when the file is loaded: half the size, at the speed of float32.",
        source=_ORT_FOLDING,
    ),
    PrecisionRow(
        name="fp16 weights in openvino",
        runtime="openvino",
        precision="fp16-weights",
        support="storage",
        reason="Constants in float16 are read and converted to float32: half the size, at the speed of float32.",
        source=OPENVINO_CPU,
    ),
    PrecisionRow(
        name="fp16 in onnxruntime, arm64 with float16",
        runtime="onnxruntime",
        architecture="arm64",
        needs=frozenset({"asimdhp"}),
        since=(1, 31),
        precision="fp16",
        support="native",
        reason="Convolution, matrix products, pooling and addition have float16 kernels (seen in 1.31.1); activations "
        "such as sigmoid and softmax are cast to float32 and back.",
        source=_FP16_GRAPHS,
    ),
    PrecisionRow(
        name="fp16 in onnxruntime, elsewhere",
        runtime="onnxruntime",
        precision="fp16",
        support="none",
        reason="There are no float16 kernels: everything is cast to float32, and the remaining casts cost time.",
        source=_ORT_CASTS,
    ),
    PrecisionRow(
        name="fp16 in openvino, x86-64 with AVX512-FP16",
        runtime="openvino",
        architecture="x86-64",
        needs=frozenset({"avx512_fp16"}),
        precision="fp16",
        support="native",
        options=MappingProxyType({"INFERENCE_PRECISION_HINT": "f16"}),
        reason="The plugin computes a float file in float16 if asked to; no separate file is needed.",
        source=OPENVINO_CPU,
    ),
    PrecisionRow(
        name="fp16 in openvino, arm64 with float16",
        runtime="openvino",
        architecture="arm64",
        needs=frozenset({"asimdhp"}),
        precision="fp16",
        support="native",
        options=MappingProxyType({"INFERENCE_PRECISION_HINT": "f16"}),
        reason="armv8.2-a+fp16 doubles the width of vectors; the plugin uses it by default unless float32 is "
        "requested.",
        source=OPENVINO_CPU,
    ),
    PrecisionRow(
        name="fp16 in openvino, elsewhere",
        runtime="openvino",
        precision="fp16",
        support="none",
        reason="Without float16 instructions the plugin converts to float32, or uses bf16 if available.",
        source=_OPENVINO_RUN,
    ),
    PrecisionRow(
        name="bf16 in onnxruntime, arm64 with bf16",
        runtime="onnxruntime",
        architecture="arm64",
        needs=frozenset({"bf16"}),
        since=(1, 17),
        precision="bf16",
        support="native",
        options=MappingProxyType({"mlas.enable_gemm_fastmath_arm64_bfloat16": "1"}),
        reason="Matrix products of a float file run on bfmmla if the session option asks for it.",
        source=_ORT_BF16,
    ),
    PrecisionRow(
        name="bf16 in onnxruntime, elsewhere",
        runtime="onnxruntime",
        precision="bf16",
        support="none",
        reason="The CPU provider has no bfloat16 kernels on x86-64, nor on ARM without the instructions.",
        source=ORT_KERNELS,
    ),
    PrecisionRow(
        name="bf16 in openvino, x86-64 with bf16",
        runtime="openvino",
        architecture="x86-64",
        needs=_BF16,
        precision="bf16",
        support="native",
        options=MappingProxyType({"INFERENCE_PRECISION_HINT": "bf16"}),
        reason="The plugin computes a float file in bfloat16, by default or if asked to; no separate file is needed.",
        source=OPENVINO_CPU,
    ),
    PrecisionRow(
        name="bf16 in openvino, elsewhere",
        runtime="openvino",
        precision="bf16",
        support="none",
        reason="Without the instructions AVX-512 simulates bfloat16 slowly and others refuse it; ARM has none.",
        source=OPENVINO_CPU,
    ),
)
_INTEGER_ROWS: tuple[PrecisionRow, ...] = (
    PrecisionRow(
        name="dynamic int8 in onnxruntime, x86-64 with VNNI",
        runtime="onnxruntime",
        architecture="x86-64",
        needs=VNNI,
        precision="int8-dynamic",
        support="native",
        reason="Matrix products quantize their input at run time and compute exact u8 x s8 sums.",
        source=ORT_GUIDE,
    ),
    PrecisionRow(
        name="dynamic int8 in onnxruntime, x86-64 without VNNI",
        runtime="onnxruntime",
        architecture="x86-64",
        needs=AVX2,
        lacks=VNNI,
        precision="int8-dynamic",
        support="native",
        reason="Matrix products run in int8 on the kernels that saturate: weights need 7 bits.",
        source=ORT_GUIDE,
    ),
    PrecisionRow(
        name="dynamic int8 in onnxruntime, arm64",
        runtime="onnxruntime",
        architecture="arm64",
        precision="int8-dynamic",
        support="native",
        reason="Matrix products quantize their input at run time; the sums are exact for weights of -127 to 127.",
        source=ORT_GUIDE,
    ),
    PrecisionRow(
        name="dynamic int8 in openvino",
        runtime="openvino",
        precision="int8-dynamic",
        support="storage",
        reason="The file is read, but its matrix products ran in float32 with conversions around them.",
        source=_OPENVINO_RUN,
    ),
    PrecisionRow(
        name="int8 weights in onnxruntime",
        runtime="onnxruntime",
        since=(1, 22),
        precision="int8-weights",
        support="storage",
        reason="MatMulNBits holds weights in blocks of 8 bits and computes in float32.",
        source=_NBITS,
    ),
    PrecisionRow(
        name="int4 weights in onnxruntime, with kernels",
        runtime="onnxruntime",
        needs=AVX2 | DOT_PRODUCT | {"asimd"},
        precision="int4-weights",
        support="storage",
        reason="MatMulNBits has kernels for AVX2, AVX-512 and NEON that unpack weights as they multiply.",
        source=_NBITS,
    ),
    PrecisionRow(
        name="int4 weights in onnxruntime, elsewhere",
        runtime="onnxruntime",
        precision="int4-weights",
        support="storage",
        reason="Without such kernels MatMulNBits unpacks the weights at each call: small, but slower than float32.",
        source=_NBITS,
    ),
    PrecisionRow(
        name="compressed weights in openvino, arm64 (int8)",
        runtime="openvino",
        architecture="arm64",
        precision="int8-weights",
        support="none",
        reason="The CPU plugin has no compressed weights on ARM: it unpacks them, and needs more memory than the file "
        "has bytes.",
        source=_OPENVINO_ARM,
    ),
    PrecisionRow(
        name="compressed weights in openvino, arm64 (int4)",
        runtime="openvino",
        architecture="arm64",
        precision="int4-weights",
        support="none",
        reason="The CPU plugin has no int4 on ARM: it unpacks the weights, and needs more memory than the file.",
        source=_OPENVINO_ARM,
    ),
    PrecisionRow(
        name="compressed weights in openvino, x86-64 (int8)",
        runtime="openvino",
        architecture="x86-64",
        precision="int8-weights",
        support="storage",
        reason="MatMulNBits is read as compressed weights and computed in float32.",
        source=_OPENVINO_RUN,
    ),
    PrecisionRow(
        name="compressed weights in openvino, x86-64 (int4)",
        runtime="openvino",
        architecture="x86-64",
        precision="int4-weights",
        support="storage",
        reason="MatMulNBits is read as compressed weights and computed in float32.",
        source=_OPENVINO_RUN,
    ),
)
#: The last rows: a runtime or processor that no row above is about.
_UNKNOWN_ROWS: tuple[PrecisionRow, ...] = tuple(
    PrecisionRow(
        name=f"{precision}, unknown",
        precision=precision,
        support="none",
        reason="Nothing is known about this precision on this processor and runtime, so nothing is assumed.",
        source="no source",
    )
    for precision in ("fp16-weights", "fp16", "bf16", "int8-dynamic", "int8-weights", "int4-weights")
)
PRECISION_ROWS: tuple[PrecisionRow, ...] = (*_FLOAT_ROWS, *_INTEGER_ROWS, *_UNKNOWN_ROWS)
