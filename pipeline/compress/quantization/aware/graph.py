"""Training with quantization in the loop: the QDQ graph that ships, run with float weights that are being trained.

Every activation passes the quantization of its QuantizeLinear node, every weight that of its channel, every bias that
of the sums; rounding has a gradient of one. Batch norm is folded: the scaled weights are quantized as they ship, and
the scaling is taken back before batch statistics normalise, until these are frozen. From then on the forward pass is
that of the shipped file.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(CVPR 2018); Krishnamoorthi, "Quantizing deep convolutional networks" (2018) for taking the scaling back.
Limits: one range for each activation; ranges follow the batches' by a moving average and are not trained themselves.
What is trained are weights and biases of convolutions and matrix products, and tensors that stay in float; constants
that an addition or a layer norm reads quantized are not.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pipeline.compress.quantization.aware.grids import (
    Grid,
    activation_grid,
    bias_grid,
    fixed_ranges,
    shared_ranges,
    weight_grid,
    with_room_for,
)
from pipeline.compress.quantization.aware.weights import TrainedWeights
from pipeline.compress.quantization.canonical import output_axis
from pipeline.compress.quantization.engines.onnxruntime import quantize_with_ranges
from pipeline.compress.quantization.placement import nodes_like
from pipeline.compress.quantization.qdq import TRANSPARENT, clip_bounds
from pipeline.compress.quantization.ranges import reasons_for_float
from pipeline.compress.quantization.torch_graph.graph_module import LIMITS, GraphModule
from pipeline.compress.quantization.torch_graph.operators import OPERATORS
from pipeline.compress.quantization.weighted import BIAS, WEIGHT, StoredWeights, weighted_layers
from pipeline.core.errors import StageError
from pipeline.onnx_graph.links import SCALE, ZERO_POINT, Wiring

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import ModelProto

    from pipeline.compress.quantization.calibration import Range
    from pipeline.compress.quantization.engines.engine import QuantizedGraph, QuantizeRequest
    from pipeline.compress.quantization.torch_graph.graph_module import GraphStep

#: Share of the new batch in the moving average of a range.
_MOMENTUM = 0.01
_SCALE_SUFFIX = "_scale"
#: Largest magnitude of a weight in 8 bits, and in the 7 of a reduced range.
FULL, REDUCED = 127, 64
#: Stands for a tensor in what a network returns.
_TENSOR = "tensor"
_UNBOUNDED = (float("-inf"), float("inf"))
#: Scales of weights with a folded batch norm may differ by this share, for the file's were rounded on the way.
SAME = 1e-3


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer whose weights are quantized: names of weight, bias ("" for none) and input range, and the grid's kind.

    `source` is None where the input is not quantized; then the bias is not either. Scales lie along `axis`, outputs
    along `outputs`.
    """

    weight: str
    bias: str
    source: str | None
    axis: int | None
    outputs: int
    unsigned: bool
    largest: int


class QuantizationAware(GraphModule):
    """The QDQ form of a float graph, to be trained like any network; `shipped` gives the file.

    While `observing`, ranges of activations follow the batches; while `normalising`, batch norm uses the statistics of
    the batch. Both in training mode only. Weights that are zero at the start stay zero (`keep_zeros`), so that a
    pruning mask survives. Layers that read the same weights train them together.
    """

    def __init__(
        self,
        model: ModelProto,
        ranges: Mapping[str, Range],
        request: QuantizeRequest,
        norms: Mapping[str, tuple[nn.Module, nn.Module]],
        *,
        keep_zeros: bool,
    ) -> None:
        """Take the float graph with batch norm folded, the ranges of its tensors, and how to quantize it.

        `norms` gives, by the name of a convolution's node, the convolution and the batch norm that were folded into it.

        Raises:
            InputError: an operator has no counterpart in torch.
            StageError: scales of the file are not those that are simulated here.
        """
        quantized = quantize_with_ranges(model, ranges, request).model
        super().__init__(quantized)
        self.observing = self.normalising = True
        self._returned: Any = None
        self._float, self._request = model, request
        kept = nodes_like(model, request.keep) | reasons_for_float(model, ranges, request.keep).keys()
        fixed = fixed_ranges(model, kept)
        self._calibrated: dict[str, Range] = {**ranges, **fixed}
        self._clipped = _clipped(model)
        self._watch(shared_ranges(model, kept), fixed)
        self._layers = self._find_layers(quantized)
        self._skipped = self._find_skipped()
        self._place_of: dict[str, str] = {}
        self.trained = nn.ModuleDict()
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for name, layer in self._layers.items():
            if layer.weight not in self._place_of:
                self._place_of[layer.weight] = f"w{len(self._place_of)}"
                own = TrainedWeights(
                    constants[layer.weight], constants.get(layer.bias), norms.get(name), keep_zeros=keep_zeros
                )
                self.trained[self._place_of[layer.weight]] = own
        self._require_same_grids(quantized)

    def forward(self, *inputs: Tensor) -> Any:  # noqa: ANN401 - as the network's own forward
        """Run the graph, in 32 bits: the 8 of half precision's mantissa are too few to round to 8 bits."""
        with torch.autocast(inputs[0].device.type, enabled=False):
            found = super().forward(*inputs)
        if self._returned is None:
            return found
        leaves = iter(found if isinstance(found, tuple) else (found,))
        return tree_map(lambda leaf: next(leaves) if leaf is _TENSOR else leaf, self._returned)

    def return_like(self, result: object) -> None:
        """Return outputs in the containers of this result of the network, such as a dictionary: a loss takes those."""
        self._returned = tree_map(lambda leaf: _TENSOR if isinstance(leaf, Tensor) else leaf, result)

    def run_step(self, step: GraphStep, given: Sequence[Any]) -> Any:  # noqa: ANN401 - a tensor or several
        """Compute one node with quantization simulated."""
        if step.operator == "QuantizeLinear":
            return self._activation(step, given[0])
        if step.outputs[0] in self._skipped:
            return given[0]
        if step.name not in self._layers:
            return super().run_step(step, given)
        own = self.weights_of(step.name)
        weight, bias = own.weight(), own.bias()
        grid, bias_steps = self._grids(step.name, weight, bias)
        if own.norm is not None and self.training and self.normalising:
            return own.normalised(lambda rounded: _call(step, given[0], rounded, None), grid.round(weight))
        if bias is not None and bias_steps is not None:
            bias = bias_steps.round(bias)
        return _call(step, given[0], grid.round(weight), bias)

    def trained_weights(self) -> dict[str, str]:
        """Return the parameters that are trained as the weights of layers, by the name of the graph's constant."""
        return {constant: f"trained.{place}.core" for constant, place in self._place_of.items()}

    def weights_of(self, name: str) -> TrainedWeights:
        """Return the trained weights of a layer by the name of its node."""
        own = self.trained[self._place_of[self._layers[name].weight]]
        assert isinstance(own, TrainedWeights)  # noqa: S101 - for the type checker
        return own

    def shipped(self, keep: Sequence[str] = ()) -> QuantizedGraph:
        """Return the QDQ graph of the weights and ranges as they are now.

        Nodes that match a pattern of `keep` stay in float, beside those of the request.
        """
        request = replace(self._request, keep=(*self._request.keep, *keep))
        return quantize_with_ranges(self.in_float(), {**self._calibrated, **self.current_ranges()}, request)

    def in_float(self) -> ModelProto:
        """Return the float graph with the weights as they are now."""
        model = deepcopy(self._float)
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        current = {name: values for name, values in self.weights().items() if name in tensors}
        for name, layer in self._layers.items():
            own = self.weights_of(name)
            bias = own.bias()
            current[layer.weight] = own.weight().detach().cpu().numpy()
            if layer.bias and bias is not None:
                current[layer.bias] = bias.detach().cpu().numpy()
        for name, values in current.items():
            tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
        return model

    def current_ranges(self) -> dict[str, Range]:
        """Return the range of each quantized activation."""
        return {name: (float(low), float(high)) for name in self._bounds for low, high in [self.bounds(name)]}

    def bounds(self, name: str) -> Tensor:
        """Return the smallest and largest value [2] of a quantized activation by its name in the float graph."""
        found: Tensor = getattr(self.ranges, self._bounds[name])
        return found

    def _watch(self, shared: Mapping[str, str], fixed: Mapping[str, Range]) -> None:
        """Register the ranges of quantized activations, and which nodes see their values first."""
        first: dict[str, GraphStep] = {}
        for step in self.steps:
            if step.operator == "QuantizeLinear":
                first.setdefault(_tensor(step), step)
        self._kinds = {name: self.numbers[step.inputs[ZERO_POINT]].dtype for name, step in first.items()}
        tables = {tensor.name for tensor in self._float.graph.initializer}
        self._of_table = {name: step for name, step in first.items() if name in tables}
        self._range_of = {name: shared.get(name, name) for name in first if name not in tables}
        self._observers: dict[str, str] = {}
        for name, source in self._range_of.items():
            if source not in fixed and (source == name or source not in first):
                self._observers[first[name].name] = source
        self.ranges = nn.Module()
        self._bounds: dict[str, str] = {}
        for name in dict.fromkeys(self._range_of.values()):
            self._bounds[name] = f"r{len(self._bounds)}"
            self.ranges.register_buffer(self._bounds[name], torch.tensor(self._calibrated[name], dtype=torch.float32))

    def _activation(self, step: GraphStep, x: Tensor) -> Tensor:
        seen_as = self._observers.get(step.name)
        if self.training and self.observing and seen_as is not None:
            with torch.no_grad():
                seen = torch.clamp(torch.stack([x.min(), x.max()]).float(), *self._clipped.get(seen_as, _UNBOUNDED))
                self.bounds(seen_as).lerp_(seen, _MOMENTUM)
        return self._grid(_tensor(step)).round(x)

    def _grid(self, name: str) -> Grid:
        if step := self._of_table.get(name):  # what was looked up in a stored table is on the grid of the table
            scale, zero_point = (self.constant(step.inputs[place]) for place in (SCALE, ZERO_POINT))
            return Grid(scale, zero_point.float(), LIMITS[self._kinds[name]])
        bounds = self.bounds(self._range_of[name])
        return activation_grid(bounds, self._kinds[name], symmetric=self._request.symmetric)

    def _grids(self, name: str, weight: Tensor, bias: Tensor | None) -> tuple[Grid, Grid | None]:
        """Return the grids of a layer's weights and of its bias, None where that is not quantized."""
        layer, centred = self._layers[name], self._request.per_channel
        grid = weight_grid(weight, layer.axis, unsigned=layer.unsigned, centred=centred, largest=layer.largest)
        if bias is None or layer.source is None:
            return grid, None
        input_scale = self._grid(layer.source).scale
        grid = with_room_for(grid, weight, layer.outputs, bias, input_scale)
        return grid, bias_grid(grid, input_scale, bias.numel())

    def _find_layers(self, quantized: ModelProto) -> dict[str, QuantizedLayer]:
        """Return the layers whose weights nothing but layers reads, by the names of their nodes."""
        nodes = {node.name: node for node in self._float.graph.node}
        steps = {step.name: step for step in self.steps}
        found = weighted_layers(quantized)
        others = {
            value
            for step in self.steps
            for place, value in enumerate(step.inputs)
            if step.name not in found or place not in {WEIGHT, BIAS}
        }
        largest = REDUCED if self._request.scheme.endswith("reduced") else FULL
        layers: dict[str, QuantizedLayer] = {}
        for name, layer in found.items():
            if steps[name].inputs[WEIGHT] not in others:
                weight, *bias = nodes[name].input[WEIGHT:]
                source = self._source(steps[name].inputs[0]) if isinstance(layer.bias, StoredWeights) else None
                unsigned = layer.weight.integers.dtype == np.uint8
                layers[name] = QuantizedLayer(
                    weight,
                    next(iter(bias), ""),
                    source,
                    layer.weight.axis if self._request.per_channel else None,
                    output_axis(nodes[name]),
                    unsigned,
                    largest,
                )
        return layers

    def _source(self, value: str) -> str | None:
        """Return the name of the quantized activation that comes out of DequantizeLinear as `value`."""
        made_by = {made: step for step in self.steps for made in step.outputs}
        step = made_by.get(value)
        before = made_by.get(step.inputs[0]) if step is not None and step.operator == "DequantizeLinear" else None
        return _tensor(before) if before is not None and before.operator == "QuantizeLinear" else None

    def _find_skipped(self) -> frozenset[str]:
        """Return what comes out of DequantizeLinear and is known already, or not needed: activations, and weights."""
        quantized = {step.outputs[0] for step in self.steps if step.operator == "QuantizeLinear"}
        read = {value for step in self.steps if step.name in self._layers for value in step.inputs[WEIGHT:]}
        return frozenset(
            step.outputs[0]
            for step in self.steps
            if step.operator == "DequantizeLinear" and (step.inputs[0] in quantized or step.outputs[0] in read)
        )

    def _require_same_grids(self, quantized: ModelProto) -> None:
        """Compare the scales that are simulated with those of the file. Raises StageError where they differ."""
        pairs = {
            _tensor(step): (self._grid(_tensor(step)), self.numbers[step.inputs[SCALE]])
            for step in self.steps
            if step.operator == "QuantizeLinear"
        }
        layers = weighted_layers(quantized)
        for name in self._layers:
            own = self.weights_of(name)
            pairs[name] = self._grids(name, own.weight(), own.bias())[0], layers[name].weight.scale
        for name, (grid, scale) in pairs.items():
            found, expected = np.broadcast_arrays(grid.scale.detach().reshape(-1).numpy(), scale.reshape(-1))
            apart = ~(np.abs(found - expected) <= SAME * expected)
            if apart.any():
                raise StageError(
                    f"{name} has the scale {expected[apart][0]} in the file and {found[apart][0]} in training"
                )


def _call(step: GraphStep, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    made: Tensor = OPERATORS[step.operator](step.attributes, x, weight, *(() if bias is None else (bias,)))
    return made


def _tensor(step: GraphStep) -> str:
    """Return the name of the tensor that a QuantizeLinear takes its scale from."""
    return step.inputs[SCALE].removesuffix(_SCALE_SUFFIX)


def _clipped(model: ModelProto) -> dict[str, Range]:
    """Return the bounds of tensors that ReLU or Clip makes: their quantization does the clipping in the QDQ graph."""
    wiring = Wiring(model.graph)
    clips = (node for node in model.graph.node if node.op_type in TRANSPARENT)
    return {node.output[0]: bounds for node in clips if (bounds := clip_bounds(node, wiring)) is not None}
