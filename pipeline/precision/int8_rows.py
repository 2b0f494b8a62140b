"""Static int8 by runtime and processor: the first row that holds counts; the last one knows nothing and is cautious."""

from __future__ import annotations

from pipeline.precision.rows import Int8Row

VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
AVX2 = frozenset({"avx2", "avx512f", "avx512bw"})
DOT_PRODUCT = frozenset({"asimddp", "i8mm"})

ORT_GUIDE = "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html"
ORT_KERNELS = "https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/mlas/lib/platform.cpp"
_OPENVINO_SATURATION = "https://docs.openvino.ai/latest/pot_saturation_issue.html"
OPENVINO_CPU = (
    "https://docs.openvino.ai/2025/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html"
)
_ONEDNN_INT8 = "https://oneapi-src.github.io/oneDNN/dev_guide_int8_computations.html"

INT8_ROWS: tuple[Int8Row, ...] = (
    Int8Row(
        name="onnxruntime, x86-64 with VNNI",
        runtime="onnxruntime",
        architecture="x86-64",
        needs=VNNI,
        schemes=("u8s8", "u8s8-reduced", "s8s8", "u8u8"),
        saturates=False,
        gain="large",
        reason="VNNI and AMX multiply u8 by s8 and sum in 32 bits, so that the full range is exact and fast; s8 "
        "activations are turned into u8 ones, and u8 weights run on kernels of 16 bits.",
        source=ORT_GUIDE,
    ),
    Int8Row(
        name="onnxruntime, x86-64 without VNNI",
        runtime="onnxruntime",
        architecture="x86-64",
        needs=AVX2,
        lacks=VNNI,
        schemes=("u8s8-reduced", "u8u8", "u8s8", "s8s8"),
        saturates=True,
        gain="small",
        reason="AVX2 and AVX-512 without VNNI sum two u8 x s8 products in 16 bits with saturation (vpmaddubsw): "
        "weights need 7 bits, or u8, which is slower; s8 activations become u8 and saturate as well.",
        source=ORT_GUIDE,
    ),
    Int8Row(
        name="onnxruntime, x86-64 before AVX2",
        runtime="onnxruntime",
        architecture="x86-64",
        needs=frozenset({"avx"}),
        lacks=AVX2 | VNNI,
        schemes=("u8s8-reduced", "u8s8", "u8u8"),
        saturates=False,
        gain="none",
        reason="The SSE kernels widen to 16 bits before they multiply: exact on Linux, and no faster than float32; 7 "
        "bits in weights keep the file right on other systems and newer processors.",
        source=ORT_KERNELS,
    ),
    Int8Row(
        name="onnxruntime, arm64 with dot products",
        runtime="onnxruntime",
        architecture="arm64",
        needs=DOT_PRODUCT,
        schemes=("s8s8", "u8s8", "u8s8-reduced", "u8u8"),
        saturates=False,
        gain="large",
        reason="sdot, udot and the i8mm instructions sum four products in 32 bits: every scheme is fast, and exact "
        "unless a channel of a depthwise convolution has two weights of -128.",
        source=ORT_GUIDE,
    ),
    Int8Row(
        name="onnxruntime, arm64 without dot products",
        runtime="onnxruntime",
        architecture="arm64",
        needs=frozenset({"asimd"}),
        lacks=DOT_PRODUCT,
        schemes=("s8s8", "u8s8", "u8s8-reduced", "u8u8"),
        saturates=False,
        gain="small",
        reason="Two signed products are summed in 16 bits, which holds unless an output has two weights of -128 (those "
        "of -127 to 127 are exact), and each instruction does half the work of a dot product.",
        source=ORT_KERNELS,
    ),
    Int8Row(
        name="onnxruntime, arm64 of unknown features",
        runtime="onnxruntime",
        architecture="arm64",
        schemes=("s8s8", "u8s8", "u8s8-reduced", "u8u8"),
        saturates=False,
        gain="unknown",
        reason="Every arm64 kernel is exact for weights of -127 to 127; this system does not tell whether the "
        "processor has dot products, so the gain is not known.",
        source=ORT_GUIDE,
    ),
    Int8Row(
        name="openvino, x86-64 with VNNI",
        runtime="openvino",
        architecture="x86-64",
        needs=VNNI,
        schemes=("u8s8", "u8s8-reduced", "s8s8"),
        saturates=False,
        gain="large",
        reason="oneDNN runs u8 or s8 activations with s8 weights in int8; with u8 weights OpenVINO 2026.4 ran "
        "convolutions in float32, so that scheme is left out.",
        source=_ONEDNN_INT8,
    ),
    Int8Row(
        name="openvino, x86-64 without VNNI",
        runtime="openvino",
        architecture="x86-64",
        needs=AVX2 | {"avx"},
        lacks=VNNI,
        schemes=("u8s8-reduced", "u8s8", "s8s8"),
        saturates=True,
        gain="small",
        reason="8-bit instructions of SSE, AVX2 and AVX-512 before VNNI saturate in 16 bits; weights of 7 bits do not.",
        source=_OPENVINO_SATURATION,
    ),
    Int8Row(
        name="openvino, arm64",
        runtime="openvino",
        architecture="arm64",
        schemes=(),
        saturates=False,
        gain="none",
        reason="The CPU plugin has hardly any int8 kernels on ARM and runs a quantized model in floating point: keep "
        "the float file, which it runs in float16 where the processor has it.",
        source="https://github.com/openvinotoolkit/openvino_build_deploy/pull/440",
    ),
    Int8Row(
        name="unknown processor",
        schemes=("u8s8-reduced", "u8u8"),
        saturates=True,
        gain="unknown",
        known=False,
        reason="Nothing is known of this processor or runtime, so this is the cautious choice: u8 activations with "
        "weights in 7 bits give the same sums on every processor.",
        source=ORT_GUIDE,
    ),
)
