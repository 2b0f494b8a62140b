"""Bias correction: take the mean error that quantization makes in each channel off the layer's bias.

Rounding weights moves the mean of a layer's output, the more so the fewer weights a channel sums (depthwise layers).
The mean of every output channel over the calibration images is measured in the float and in the quantized graph, and
the difference added to the bias, layer by layer: a later layer sees what the earlier ones became by their correction.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019), section 4.2
(the empirical form). Costs one pass of the float and one of the quantized graph. It changes no time: biases are there
already. It does not help where the errors have no mean, as with many weights per channel.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.compress.quantization.torch_graph.graph_module import GraphModule
from pipeline.compress.quantization.weighted import weighted_layers

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from onnx import ModelProto
    from torch import Tensor

    from pipeline.compress.quantization.torch_graph.graph_module import GraphStep
    from pipeline.core.feeds import Feeds


def correct_biases(model: ModelProto, quantized: ModelProto, feeds: Feeds) -> tuple[ModelProto, dict[str, float]]:
    """Return a copy of `quantized` with corrected biases, and the largest shift of each layer relative to its output.

    `model` is the float graph that it was made of, with the same node names. All samples are held at once: memory is
    that of the largest activations of one pass. Layers without a bias (a MatMul with an Add behind it has none), with
    one that another layer has too, or that the float graph lacks, stay.
    """
    result = deepcopy(quantized)
    layers = {
        name: layer
        for name, layer in weighted_layers(result).items()
        if layer.bias is not None and not layer.bias_shared
    }
    with torch.no_grad():
        reference = _Means(model, layers)
        reference(*reference.given(feeds))
        corrected = _Corrected(result, reference.means)
        corrected(*corrected.given(feeds))
    for name, shift in corrected.shifts.items():
        layers[name].shift_bias(shift.numpy())
    scales = reference.scales
    return result, {name: float(shift.abs().max() / scales[name]) for name, shift in corrected.shifts.items()}


class _Means(GraphModule):
    """Remembers the mean of each output channel, and the largest magnitude, of chosen nodes."""

    def __init__(self, model: ModelProto, names: Collection[str]) -> None:
        super().__init__(model)
        self._names = frozenset(names)
        self.means: dict[str, Tensor] = {}
        self.scales: dict[str, float] = {}

    def run_step(self, step: GraphStep, given: Sequence[Any]) -> Any:  # noqa: ANN401 - a tensor or several
        made = super().run_step(step, given)
        if step.name in self._names:
            self.means[step.name] = _channel_means(made)
            self.scales[step.name] = max(float(made.abs().max()), float(np.finfo(np.float32).tiny))
        return made


class _Corrected(GraphModule):
    """Shifts the outputs of chosen nodes so that their means are the given ones, and remembers by how much."""

    def __init__(self, model: ModelProto, means: dict[str, Tensor]) -> None:
        super().__init__(model)
        self._means = means
        self.shifts: dict[str, Tensor] = {}

    def run_step(self, step: GraphStep, given: Sequence[Any]) -> Any:  # noqa: ANN401 - a tensor or several
        made = super().run_step(step, given)
        if step.name not in self._means:
            return made
        shift = self._means[step.name] - _channel_means(made)
        self.shifts[step.name] = shift
        return made + shift.reshape(1, -1, *[1] * (made.dim() - 2))


def _channel_means(output: Tensor) -> Tensor:
    """Return the mean of an output [N, C, ...] for each channel."""
    return output.mean(dim=[dim for dim in range(output.dim()) if dim != 1])
