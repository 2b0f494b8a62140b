"""Write the network as the file that ships: ONNX from torch, or OpenVINO IR from ONNX.

The export is believed only when it says the same as what it was made of: both are run on 16 training images, and the
first layer that differs is named. Two exports of the same weights are the same bytes. Source: the exporter of
torch.onnx on torch.export graphs, and OpenVINO's converter. Exporting alone does not help latency beyond what the
runtime gives, and FP16 weights do not help it at all: they halve the file, while CPUs compute in FP32 all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.core.artifact import at_batch
from pipeline.core.errors import InputError, StageError
from pipeline.core.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.core.artifact import Artifact, Form
    from pipeline.core.feeds import Feeds
    from pipeline.core.nearness import Outputs

#: Training images on which parity is checked.
PARITY_IMAGES = 16


class Export(Stage):
    """Torch to ONNX, or ONNX to OpenVINO."""

    revision: ClassVar[int] = 2
    converts: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino")

    kind: Literal["export"]
    to: Literal["onnx", "openvino"] = Field(description="`onnx` from a torch network, `openvino` from an ONNX file.")
    opset: Annotated[int, Field(ge=18, le=24)] = Field(
        default=20, description="Version of the ONNX operators; an OpenVINO export has that of its ONNX file."
    )
    batch: Literal["fixed", "dynamic"] = Field(
        default="fixed", description="`fixed`: the target's batch; `dynamic`: any number of images per call."
    )
    weights: Literal["fp32", "fp16"] = Field(
        default="fp32", description="How OpenVINO stores weights: `fp16` halves the file. ONNX files are `fp32`."
    )

    @model_validator(mode="after")
    def _fp16_is_openvino(self) -> Self:
        if self.weights == "fp16" and self.to == "onnx":
            raise ValueError("fp16 is for openvino, allowed with `to: onnx`: fp32")
        return self

    @property
    def label(self) -> str:
        """Its kind and the form that it exports to."""
        return f"{self.kind} {self.to}"

    @property
    def consumes(self) -> frozenset[Form]:
        """Torch networks for ONNX, ONNX files for OpenVINO."""
        return frozenset({"torch" if self.to == "onnx" else "onnx"})

    def produces(self, given: Form) -> Form:
        """Return the form that is exported to."""
        del given
        return self.to

    def run(self, given: Artifact, context: Context) -> Outcome:
        """Export and compare.

        Raises:
            InputError: the network cannot be exported or has an output without a batch axis, or a dynamic batch is
                asked of an ONNX file with a fixed one.
            StageError: the file's outputs differ from what was exported.
        """
        samples = context.task().feeds("train", slice(0, PARITY_IMAGES))
        return (
            self._to_onnx(given, context, samples) if self.to == "onnx" else self._to_openvino(given, context, samples)
        )

    def _to_onnx(self, given: Artifact, context: Context, samples: Feeds) -> Outcome:
        import torch

        from pipeline.compress.pruning.untouched import restored_afterwards
        from pipeline.export.execution import torch_outputs
        from pipeline.export.onnx import FILE_NAME, export_onnx
        from pipeline.export.other_sizes import network_outputs, require_other_sizes
        from pipeline.export.parity import FLOAT32_TOLERANCE, check_parity, locate_in_export
        from pipeline.network.soundness import batch_mixing
        from pipeline.network.stored import load_network
        from pipeline.onnx_graph.execution import onnx_outputs

        model = load_network(given)
        with restored_afterwards(model):
            inputs, outputs = export_onnx(
                model,
                context.folder,
                at_batch(given.inputs, context.target.batch),
                [output.name for output in given.outputs],
                opset=self.opset,
                dynamic_batch=self.batch == "dynamic",
                open_sizes=context.task().sizes,
            )
        file = context.folder / FILE_NAME
        try:
            parity = check_parity(
                torch_outputs(model, samples),
                onnx_outputs(file, samples),
                tolerance=FLOAT32_TOLERANCE,
                locate=lambda: locate_in_export(model, file, samples, tolerance=FLOAT32_TOLERANCE),
                names=[output.name for output in outputs],
            )
        except StageError as error:
            cause = batch_mixing(model, tuple(map(torch.from_numpy, samples.values())))
            raise StageError(f"{error}. The cause: {cause}" if cause else str(error)) from error
        require_other_sizes(
            context.task(), network_outputs(model), lambda given: onnx_outputs(file, given), FLOAT32_TOLERANCE
        )
        return Outcome("onnx", inputs, outputs, changed={"parity": parity.to_json()})

    def _to_openvino(self, given: Artifact, context: Context, samples: Feeds) -> Outcome:
        from pipeline.export.execution import openvino_outputs
        from pipeline.export.openvino import XML_NAME, export_openvino
        from pipeline.export.other_sizes import require_other_sizes
        from pipeline.export.parity import (
            FLOAT16_TOLERANCE,
            FLOAT32_TOLERANCE,
            check_parity,
            locate_in_openvino,
            output_differences,
        )
        from pipeline.onnx_graph.execution import onnx_outputs
        from pipeline.onnx_graph.file import is_quantized, read_onnx

        fixed = given.inputs[0].shape[0] > 0
        if fixed and self.batch == "dynamic":
            raise InputError(
                f"{given.file} has a fixed batch of {given.inputs[0].shape[0]}: export to onnx with batch dynamic"
            )
        batch = None if fixed or self.batch == "dynamic" else context.target.batch
        inputs, outputs = export_openvino(given.file, context.folder, half=self.weights == "fp16", batch=batch)
        file, quantized = context.folder / XML_NAME, is_quantized(read_onnx(given.file))
        reference, found = onnx_outputs(given.file, samples, optimised=quantized), openvino_outputs(file, samples)
        if quantized:
            # Integer kernels of two runtimes round differently, but they compute the same network.
            _require_near((reference, onnx_outputs(given.file, samples)), found)
        tolerance = FLOAT16_TOLERANCE if self.weights == "fp16" else FLOAT32_TOLERANCE
        parity = (
            output_differences(reference, found)
            if quantized
            else check_parity(
                reference,
                found,
                tolerance=tolerance,
                locate=lambda: locate_in_openvino(given.file, file, samples, tolerance=tolerance),
                names=[output.name for output in outputs],
            )
        )
        if not quantized:
            require_other_sizes(
                context.task(),
                lambda feeds: onnx_outputs(given.file, feeds),
                lambda feeds: openvino_outputs(file, feeds),
                tolerance,
            )
        return Outcome("openvino", inputs, outputs, changed={"parity": parity.to_json()})


def _require_near(references: Sequence[Outputs], found: Outputs) -> None:
    """Raise StageError where an IR is far from the int8 file that it was made of, optimised and unoptimised."""
    from pipeline.core.nearness import nearness_fault

    faults = [nearness_fault(reference, found, None) for reference in references]
    if all(faults):
        raise StageError(
            f"the IR is far from the int8 file that it was made from: {faults[0]}. Export the float file, and quantize "
            "it with another engine or scheme"
        )
