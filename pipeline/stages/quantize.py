"""Quantize to int8 after training, with ranges from training images.

Weights get 8 bits with a scale for each output channel, activations 8 bits with a scale for each tensor, in the QDQ
format that both runtimes turn into integer kernels. Source: Jacob et al. 2018; entropy calibration by Migacz 2017.

On a CPU with dot-product instructions for 8 bits this is the step that brings most of the speed. It does not help where
a layer is bound by overhead rather than arithmetic (narrow or depthwise layers gain least), nor on CPUs without such
instructions, and networks with a wide spread of weights or activations lose accuracy: keep their first or last layers
in float, or calibrate by percentile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.core.cpu import cpu_flags
from pipeline.core.errors import InputError
from pipeline.core.stage import Context, Outcome, Stage
from pipeline.precision.targets import target_facts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.core.artifact import Artifact, Form

Scheme = Literal["u8s8", "u8s8-reduced", "s8s8", "u8u8"]


class Quantize(Stage):
    """ONNX FP32 to ONNX int8 (QDQ)."""

    revision: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    kind: Literal["quantize"]
    engine: Literal["onnxruntime"] = Field(default="onnxruntime", description="What places the QDQ pairs.")
    scheme: Literal["auto"] | Scheme = Field(
        default="auto",
        description="Types of activations and weights (u unsigned, s signed; `reduced`: weights in 7 bits). `auto` "
        "takes the one that suits the CPU: u8s8 with VNNI, s8s8 on ARM, u8s8-reduced on any other.",
    )
    per_channel: bool = Field(default=True, description="A scale for each output channel instead of each weight.")
    symmetric: bool = Field(
        default=False,
        description="Centre the ranges of activations on zero: slower, since ReLU can no longer be fused.",
    )
    calibration: Literal["min-max", "percentile", "entropy"] = Field(
        default="percentile", description="How the ranges of activations follow from what the images bring forth."
    )
    percentile: Annotated[float, Field(gt=50, le=100)] = Field(
        default=99.99, description="Share of the values, in per cent, inside the range; for `calibration: percentile`."
    )
    images: Annotated[int, Field(ge=1)] = Field(
        default=128, description="Training images for calibration, drawn with the run's seed."
    )
    keep: tuple[str, ...] = Field(
        default=(), description="Patterns of node names (`stem`, `stage1.*`) that stay in float."
    )

    @property
    def consumes(self) -> frozenset[Form]:
        """ONNX files."""
        return frozenset({"onnx"})

    def produces(self, given: Form) -> Form:
        """Return the same form."""
        return given

    def resolved(self, flags: frozenset[str]) -> Quantize:
        """Return the configuration with `auto` replaced by the scheme for a CPU with these flags."""
        return self.model_copy(update={"scheme": self._scheme_on(flags)})

    def run(self, given: Artifact, context: Context) -> Outcome:
        """Calibrate, quantize, and say how far the outputs moved on the calibration images.

        Raises:
            InputError: fewer training images than asked for, a pattern in `keep` without a match, or a quantized file.
            StageError: batch norm is not folded, or the quantized file's outputs are not finite or all the same.
        """
        from pipeline.compress.quantization.onnxruntime import quantize_static
        from pipeline.export.execution import onnx_outputs
        from pipeline.export.onnx_file import finish, read_onnx, write_onnx
        from pipeline.export.parity import compare

        samples = self._samples(context)
        context.progress.update(0, 2, f"calibrating on {self.images} images")
        scheme = self._scheme_on(cpu_flags())
        quantized = quantize_static(
            read_onnx(given.file),
            samples,
            scheme=scheme,
            per_channel=self.per_channel,
            symmetric=self.symmetric,
            calibration=self.calibration,
            percentile=self.percentile,
            keep=self.keep,
        )
        file = context.folder / given.file.name
        write_onnx(finish(quantized.model), file)
        context.progress.update(1, 2, "comparing with the float file")
        parity = compare(*(onnx_outputs(path, samples, optimised=True) for path in (given.file, file)))
        changed = {
            "scheme": scheme,
            "quantized_nodes": quantized.nodes,
            "float_nodes": list(quantized.float_nodes),
            "parity": parity.to_json(),
        }
        return Outcome("onnx", given.inputs, given.outputs, changed=changed)

    def _scheme_on(self, flags: frozenset[str]) -> Scheme:
        if self.scheme != "auto":
            return self.scheme
        return target_facts({"isa": flags}, "onnxruntime").schemes[0]

    def _samples(self, context: Context) -> NDArray[np.float32]:
        """Return normalised training images; validation and test images are never looked at."""
        dataset = context.dataset()
        available = len(dataset.train)
        if self.images > available:
            message = (
                f"quantize: images is {self.images}, the training split has {available}: ask for at most that many"
            )
            raise InputError(message)
        chosen = np.random.default_rng(context.seed).choice(available, self.images, replace=False)
        return dataset.normalisation(dataset.train.images[np.sort(chosen)])
