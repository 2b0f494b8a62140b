"""Training with quantization in the loop: the QDQ graph that ships, run with float weights that are being trained.

Every activation passes the quantization of its QuantizeLinear node, every weight that of its channel; rounding has a
gradient of one. Batch norm is folded: the scaled weights are quantized as they ship, and the scaling is taken back
before batch statistics normalise, until these are frozen. From then on the forward pass is that of the shipped file.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(CVPR 2018); Krishnamoorthi, "Quantizing deep convolutional networks" (2018) for taking the scaling back.
Limits: one range for each activation; ranges follow the batches' by a moving average and are not trained themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from pipeline.compress.quantization.graph_module import GraphModule, fake_quantize
from pipeline.compress.quantization.onnxruntime import quantize_with_ranges
from pipeline.compress.quantization.operators import OPERATORS
from pipeline.compress.quantization.weighted import weighted_layers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from pipeline.compress.calibration import Range
    from pipeline.compress.quantization.engine import Quantized, Request
    from pipeline.compress.quantization.graph_module import Step

#: Share of the new batch in the moving average of a range.
MOMENTUM = 0.01
SCALE_SUFFIX = "_scale"
#: Largest magnitude of a weight in 8 bits, and in the 7 of a reduced range.
FULL, REDUCED = 127, 64
TINY = 1e-12
UNBOUNDED = (float("-inf"), float("inf"))


@dataclass(frozen=True)
class Layer:
    """How a layer's weights are quantized: along which axis, unsigned or up to which magnitude, with which names."""

    name: str
    weight: str
    bias: str
    axis: int | None
    unsigned: bool
    largest: int


class QuantizationAware(GraphModule):
    """The QDQ form of a float graph, to be trained like any network; `shipped` gives the file.

    While `observing`, ranges of activations follow the batches; while `normalising`, batch norm uses the statistics of
    the batch. Both in training mode only. Weights that are zero at the start stay zero (`keep_zeros`), so that a
    pruning mask survives.
    """

    def __init__(
        self,
        model: ModelProto,
        ranges: Mapping[str, Range],
        request: Request,
        norms: Mapping[str, tuple[nn.Module, nn.Module]],
        *,
        keep_zeros: bool = True,
    ) -> None:
        """Take the float graph with batch norm folded, the ranges of its tensors, and how to quantize it.

        `norms` gives, by the name of a convolution's node, the convolution and the batch norm that were folded into it.
        """
        quantized = quantize_with_ranges(model, ranges, request).model
        super().__init__(quantized)
        self.observing = self.normalising = True
        self._float, self._request, self._calibrated = model, request, dict(ranges)
        self._largest = REDUCED if request.scheme.endswith("reduced") else FULL
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._layers = self._find_layers(quantized)
        self._made = {value: step for step in self.steps for value in step.outputs}
        self._weight_of = {step.inputs[1]: step.name for step in self.steps if step.name in self._layers}
        self._bias_of = {
            step.inputs[2]: step.name
            for step in self.steps
            if step.name in self._layers and len(step.inputs) > 2  # noqa: PLR2004
        }
        self.trained = nn.ModuleDict()
        for name, layer in self._layers.items():
            own = _Weights(constants[layer.weight], constants.get(layer.bias), norms.get(name), keep_zeros=keep_zeros)
            self.trained[_key(name)] = own
        self._clipped = _clipped(model)
        self.ranges = nn.Module()
        for step in self.steps:
            if step.operator == "QuantizeLinear" and step.inputs[1].endswith(SCALE_SUFFIX):
                tensor = step.inputs[1].removesuffix(SCALE_SUFFIX)
                if not hasattr(self.ranges, _key(tensor)):
                    self.ranges.register_buffer(_key(tensor), torch.tensor(ranges[tensor], dtype=torch.float32))

    def run_step(self, step: Step, given: Sequence[Any]) -> Any:  # noqa: ANN401 - a tensor or several
        """Compute one node with quantization simulated."""
        if step.operator == "QuantizeLinear":
            return self._activation(step, given[0])
        if step.operator == "DequantizeLinear":
            maker = self._made.get(step.inputs[0])
            if maker is not None and maker.operator == "QuantizeLinear":
                return given[0]
            return super().run_step(step, given)
        own = self._own(step.name)
        if own is None:
            return super().run_step(step, given)
        layer = self._layers[step.name]
        if own.norm is not None and self.training and self.normalising:
            return own.normalised(lambda weight: self._call(step, given[0], weight, None), layer)
        return self._call(step, given[0], own.quantized(layer), own.bias())

    def shipped(self) -> Quantized:
        """Return the QDQ graph of the weights and ranges as they are now."""
        model = onnx.ModelProto()
        model.CopyFrom(self._float)
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        current = {name: values for name, values in self.weights().items() if name in tensors}
        for name, layer in self._layers.items():
            own = self.trained[_key(name)]
            assert isinstance(own, _Weights)  # noqa: S101 - for the type checker
            current[layer.weight] = own.weight().detach().cpu().numpy()
            bias = own.bias()
            if layer.bias and bias is not None:
                current[layer.bias] = bias.detach().cpu().numpy()
        for name, values in current.items():
            tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
        return quantize_with_ranges(model, {**self._calibrated, **self.current_ranges()}, self._request)

    def current_ranges(self) -> dict[str, Range]:
        """Return the range of each observed activation."""
        found: dict[str, Range] = {}
        for name in self._calibrated:
            bounds = getattr(self.ranges, _key(name), None)
            if bounds is not None:
                found[name] = float(bounds[0]), float(bounds[1])
        return found

    def _call(self, step: Step, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        made: Tensor = OPERATORS[step.operator](step.attributes, x, weight, *(() if bias is None else (bias,)))
        return made

    def _own(self, name: str) -> _Weights | None:
        own = self.trained[_key(name)] if name in self._layers else None
        return own if isinstance(own, _Weights) else None

    def _activation(self, step: Step, x: Tensor) -> Tensor:
        tensor = step.inputs[1].removesuffix(SCALE_SUFFIX)
        bounds: Tensor = getattr(self.ranges, _key(tensor))
        if self.training and self.observing:
            with torch.no_grad():
                seen = torch.stack([x.min(), x.max()]).float()
                bounds.lerp_(torch.clamp(seen, *self._clipped.get(tensor, UNBOUNDED)), MOMENTUM)
        low, high = bounds[0].clamp(max=0), bounds[1].clamp(min=0)
        if self._request.symmetric:
            high = torch.maximum(-low, high)
            low = -high
        kind = self.numbers[step.inputs[2]].dtype
        smallest, largest = (0, 255) if kind == np.uint8 else (-128, 127)
        if self._request.symmetric and kind != np.uint8:
            smallest = -127
        scale = ((high - low) / (largest - smallest)).clamp(min=TINY)
        return fake_quantize(x, scale, torch.round(smallest - low / scale), (smallest, largest))

    def _find_layers(self, quantized: ModelProto) -> dict[str, Layer]:
        nodes = {node.name: node for node in self._float.graph.node}
        found: dict[str, Layer] = {}
        for name, layer in weighted_layers(quantized).items():
            inputs = nodes[name].input
            unsigned = layer.weight.integers.dtype == np.uint8
            bias = inputs[2] if len(inputs) > 2 else ""  # noqa: PLR2004 - the third input is the bias
            found[name] = Layer(name, inputs[1], bias, layer.weight.axis, unsigned, self._largest)
        return found


class _Weights(nn.Module):
    """The trained weights of one layer, with the batch norm that is folded into them."""

    def __init__(
        self,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        norm: tuple[nn.Module, nn.Module] | None,
        *,
        keep_zeros: bool,
    ) -> None:
        super().__init__()
        self.norm: nn.Module | None = None
        self.original: nn.Parameter | None = None
        if norm is not None:
            convolution, self.norm = norm
            start = convolution.weight.detach().clone()  # type: ignore[operator]
            own = convolution.bias
            self.offset = nn.Parameter(own.detach().clone()) if isinstance(own, Tensor) else None
        else:
            start = torch.from_numpy(weight.copy())
            self.offset = nn.Parameter(torch.from_numpy(bias.copy())) if bias is not None else None
        self.core = nn.Parameter(start)
        zeros = start == 0
        self.register_buffer("mask", (~zeros).float() if keep_zeros and bool(zeros.any()) else None)

    def weight(self) -> Tensor:
        """Return the weights as they ship, before rounding."""
        core = self._masked()
        return core if self.norm is None else core * self._factor().reshape(-1, *[1] * (core.dim() - 1))

    def bias(self) -> Tensor | None:
        """Return the bias as it ships."""
        if self.norm is None:
            return self.offset
        mean, shift = self.norm.running_mean, self.norm.bias
        offset = -mean if self.offset is None else self.offset - mean  # type: ignore[operator]
        return offset * self._factor() + shift  # type: ignore[operator]

    def quantized(self, layer: Layer) -> Tensor:
        """Return the weights after quantizing and dequantizing."""
        return _quantized(self.weight(), layer)

    def normalised(self, call: Any, layer: Layer) -> Tensor:  # noqa: ANN401 - weights to output
        """Return the layer's output normalised by the statistics of its batch, which renew the running ones."""
        assert self.norm is not None  # noqa: S101 - for the type checker
        factor = self._factor()
        safe = torch.where(factor.abs() < TINY, torch.full_like(factor, TINY), factor)
        made = call(self.quantized(layer))
        plain = made / safe.reshape(1, -1, *[1] * (made.dim() - 2))
        if self.offset is not None:
            plain = plain + self.offset.reshape(1, -1, *[1] * (made.dim() - 2))
        output: Tensor = self.norm(plain)
        return output

    def _masked(self) -> Tensor:
        mask = self.mask
        return self.core * mask if isinstance(mask, Tensor) else self.core

    def _factor(self) -> Tensor:
        """Return what the running statistics and the norm's weight make of each channel."""
        assert self.norm is not None  # noqa: S101 - for the type checker
        variance: Tensor = self.norm.running_var  # type: ignore[assignment]
        epsilon: float = self.norm.eps  # type: ignore[assignment]
        return self.norm.weight / torch.sqrt(variance + epsilon)  # type: ignore[operator, arg-type]


def _clipped(model: ModelProto) -> dict[str, tuple[float, float]]:
    """Return the bounds of tensors that ReLU or Clip makes: their quantization does the clipping in the QDQ graph."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found: dict[str, tuple[float, float]] = {}
    for node in model.graph.node:
        if node.op_type == "Relu":
            found[node.output[0]] = 0.0, float("inf")
        elif node.op_type == "Clip" and {*node.input[1:]} <= constants.keys() | {""}:
            low, high = (*node.input[1:], "", "")[:2]
            found[node.output[0]] = (
                float(constants[low]) if low else float("-inf"),
                float(constants[high]) if high else float("inf"),
            )
    return found


def _quantized(weight: Tensor, layer: Layer) -> Tensor:
    """Simulate the quantization of weights, with the scale that follows from them now."""
    axis = layer.axis
    dims = [dim for dim in range(weight.dim()) if axis is None or dim != axis % weight.dim()]
    if layer.unsigned:
        low, high = weight.amin(dims, keepdim=True).clamp(max=0), weight.amax(dims, keepdim=True).clamp(min=0)
        scale = ((high - low) / 255).clamp(min=TINY)
        return fake_quantize(weight, scale.detach(), torch.round(-low / scale).detach(), (0, 255))
    scale = (weight.abs().amax(dims, keepdim=True) / layer.largest).clamp(min=TINY)
    return fake_quantize(weight, scale.detach(), torch.zeros_like(scale), (-layer.largest, layer.largest))


def _key(name: str) -> str:
    """Return a name as a key of a module: without dots."""
    return name.replace(".", "/")
