"""Files of a network in the precision that ships, made to be timed: what a network is becomes what a runtime reads.

Their sizes and operators are those of the file that ships, not their values: those are of a sound network (statistics
of batch norms on a few images, no two tensors alike) whatever the weights are, so that a network without training
quantizes as it will once it is trained.
"""

from __future__ import annotations

import tempfile
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch.nn.modules.batchnorm import _NormBase

from pipeline.compress.quantization.canonical import canonical_form
from pipeline.compress.quantization.engines.onnxruntime import quantize_with_ranges
from pipeline.compress.quantization.holding import hold_in_float
from pipeline.compress.quantization.names import OtherPrecision
from pipeline.compress.quantization.placement import nodes_like
from pipeline.compress.quantization.ranges import activation_ranges
from pipeline.core.artifact import at_batch
from pipeline.core.cpu import cpu_flags
from pipeline.export.onnx import FILE_NAME, export_onnx
from pipeline.export.simplify import with_folded_norms
from pipeline.onnx_graph.file import read_onnx
from pipeline.precision.config import QuantizationConfig
from pipeline.precision.request import request_of, training_images
from pipeline.precision.targets import resolved_scheme
from pipeline.precision.variant import other_precision

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

    from pipeline.compress.pruning.graph.exported import Example
    from pipeline.compress.quantization.calibration import Range
    from pipeline.core.artifact import Artifact
    from pipeline.core.file_precision import FilePrecision
    from pipeline.core.stage import Context

ShippedPrecision = Literal["fp32", "int8", OtherPrecision]
#: Training images that statistics and ranges are taken from.
IMAGES = 16
#: What a tensor of equal values gets, such as biases of zero, which an exporter would take out or store once.
_LIFT = 0.02


@torch.no_grad()
def make_sound(network: nn.Module, examples: Example, batch: int) -> None:
    """Give a network values that quantize well, in place: its batch norms take their statistics from these examples.

    Parameters that hold one number everywhere get others, each its own.
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.is_floating_point() and bool((parameter == parameter.flatten()[:1].squeeze()).all()):
            parameter.add_(_LIFT * (1 + torch.rand(parameter.shape, generator=generator)))
    norms = [module for module in network.modules() if isinstance(module, _NormBase) and module.track_running_stats]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
        norm.train()
    for start in range(0, len(examples[0]) - batch + 1, batch) if norms else ():
        network(*(example[start : start + batch] for example in examples))
    network.eval()


class FileForm:
    """What the files of networks with the same inputs and outputs are to be: their precision, and how they get it."""

    def __init__(
        self,
        given: Artifact,
        context: Context,
        *,
        precision: ShippedPrecision = "fp32",
        quantization: QuantizationConfig | None = None,
    ) -> None:
        """Take the form.

        Args:
            given: an artifact with the names and sizes of inputs and outputs.
            context: of the run, for the target's batch and a few training images.
            precision: of the files: float, static int8 by onnxruntime's engine, or another that `quantize` makes.
            quantization: how int8 files are quantized, but for the number of images; None: as by default.
        """
        self.precision, self._quantization = precision, quantization or QuantizationConfig()
        self._inputs = at_batch(given.inputs, context.target.batch)
        self._outputs = [output.name for output in given.outputs]
        self._images = training_images(context, min(IMAGES, context.task().count("train")))

    @classmethod
    def of_file(cls, file: FilePrecision, given: Artifact, context: Context) -> FileForm:
        """Return the form of the file that ships."""
        return cls(
            given,
            context,
            precision=cast("ShippedPrecision", file.precision),
            quantization=quantization_of(file),
        )

    def in_precision(self, precision: ShippedPrecision) -> FileForm:
        """Return the same form in another precision."""
        other = copy(self)
        other.precision = precision
        return other

    def __call__(self, network: nn.Module, batch: int | None = None) -> ModelProto:
        """Return the file of a network, whose values change in place; arguments and errors as of `exported`.

        Cost: an export of 2 to 5 seconds, and a quantization.
        """
        return self.converted(self.exported(network, batch))

    def exported(self, network: nn.Module, batch: int | None = None) -> ModelProto:
        """Return the float file of a network, whose values change in place; `batch`: the only size that it takes.

        Raises InputError where the network cannot be exported.
        """
        examples = tuple(torch.from_numpy(self._images[spec.name]) for spec in self._inputs)
        make_sound(network, examples, batch or len(examples[0]))
        with tempfile.TemporaryDirectory() as folder:
            export_onnx(network, Path(folder), self._inputs, self._outputs)
            return with_folded_norms(read_onnx(Path(folder) / FILE_NAME))

    def converted(self, file: ModelProto) -> ModelProto:
        """Return a float file in the precision.

        Raises:
            InputError: nothing of it can be computed in the precision.
            StageError: it cannot be quantized.
        """
        if self.precision == "fp32":
            return file
        if self.precision == "int8":
            return self.quantized(file)
        reduced = resolved_scheme(self._quantization.scheme, cpu_flags()) == "u8s8-reduced"
        return other_precision(file, self.precision, reduced=reduced, keep=self._kept(file))

    def quantized(self, file: ModelProto, ranges: dict[str, Range] | None = None) -> ModelProto:
        """Return a float file in static int8; with the ranges of another file of its names where given."""
        config = self._quantization
        given = canonical_form(file)
        request = request_of(config, resolved_scheme(config.scheme, cpu_flags()))
        request = replace(request, keep=self._kept(given))
        quantized = quantize_with_ranges(given, ranges or self.ranges(given), request)
        kept = nodes_like(given, request.keep) | quantized.reasons.keys()
        return hold_in_float(quantized.model, kept) if kept else quantized.model

    def ranges(self, given: ModelProto) -> dict[str, Range]:
        """Return the ranges of a canonical float file's activations."""
        config = self._quantization
        return activation_ranges(
            given,
            self._images,
            calibration=config.calibration,
            percentile=config.percentile,
            keep=self._kept(given),
        )

    def _kept(self, file: ModelProto) -> tuple[str, ...]:
        """Return the patterns of nodes in float that still match one; a block may have taken some away."""
        return tuple(each for each in self._quantization.keep if nodes_like(file, (each,)))


def quantization_of(file: FilePrecision) -> QuantizationConfig:
    """Return how a file is quantized, as far as its time depends on it."""
    return QuantizationConfig.model_validate(
        {"per_channel": file.per_channel, "symmetric": file.symmetric, "keep": file.keep}
        | ({"scheme": file.scheme} if file.scheme else {})
    )
