"""Adaptive rounding: round each weight up or down so that the layer's output changes least, not the weight itself.

Layer by layer, in the order of computation: the Gram matrix of a layer's inputs in the quantized graph, all positions
of all images, tells what a change of its weights does to its outputs (`rounding_decisions`). No weight moves by more
than one step from where plain rounding puts it, and zeros stay zero.

Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization" (ICML 2020). Differs: the error is
taken through the Gram matrix, so a step costs no pass over images; the inputs are those of the quantized graph for the
float and the rounded weights alike. It changes no time. Layers with more than `LARGEST` weights in a channel, with
weights that another node reads too, and transposed convolutions stay as they are. It does not help with weights of
8 bits and a scale for each channel that lose nothing already.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from pipeline.compress.quantization.canonical import stored_weights
from pipeline.compress.quantization.recovery.rounding_decisions import Choices, decide
from pipeline.compress.quantization.torch_graph.graph_module import GraphModule
from pipeline.compress.quantization.torch_graph.operators_windows import window_arguments
from pipeline.compress.quantization.weighted import weighted_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto
    from torch import Tensor

    from pipeline.compress.quantization.torch_graph.graph_module import GraphStep
    from pipeline.compress.quantization.weighted import StoredWeights, WeightedLayer
    from pipeline.core.feeds import Feeds

LARGEST = 4608
STEPS = 300
#: Numbers that the inputs of one step of a Gram matrix hold at most, where that is more than one image.
CHUNK = 2**25
#: Largest magnitude of weights in 7 and in 8 bits: 7 bits stay 7 bits.
REDUCED, FULL = 64, 127


def round_adaptively(
    model: ModelProto,
    quantized: ModelProto,
    feeds: Feeds,
    *,
    steps: int = STEPS,
    on_layer: Callable[[int, int, str], None] = lambda *_: None,
) -> tuple[ModelProto, dict[str, float]]:
    """Return a copy of `quantized` with weights rounded again, and each layer's error relative to plain rounding.

    `model` is the float graph that it was made of, with the same node names. `on_layer(done, total, name)` is called
    after each layer. Layers that are not convolutions or linear layers on the network's own activations stay.
    """
    result = deepcopy(quantized)
    layers = weighted_layers(result)
    weights = stored_weights(model)
    rounding = _Rounding(result, layers, weights, steps=steps, on_layer=on_layer)
    with torch.no_grad():
        rounding(*rounding.given(feeds))
    for name, integers in rounding.integers.items():
        layers[name].weight.replace(integers)
    return result, rounding.gains


class _Rounding(GraphModule):
    """Rounds the weights of each layer when it is reached, and goes on with what they became."""

    def __init__(
        self,
        model: ModelProto,
        layers: dict[str, WeightedLayer],
        weights: dict[str, NDArray[np.float32]],
        *,
        steps: int,
        on_layer: Callable[[int, int, str], None],
    ) -> None:
        super().__init__(model)
        self._layers = {name: layer for name, layer in layers.items() if name in weights and not layer.weight.shared}
        self._weights, self._steps, self._on_layer, self._done = weights, steps, on_layer, 0
        self.integers: dict[str, NDArray[Any]] = {}
        self.gains: dict[str, float] = {}

    def run_step(self, step: GraphStep, given: Sequence[Any]) -> Any:  # noqa: ANN401 - a tensor or several
        layer = self._layers.get(step.name)
        if layer is None:
            return super().run_step(step, given)
        matrices = _matrices(step, given[0], given[1])
        if matrices is not None:
            given = [given[0], self._rounded(step, layer, *matrices), *given[2:]]
        self._done += 1
        self._on_layer(self._done, len(self._layers), step.name)
        return super().run_step(step, given)

    def _rounded(
        self, step: GraphStep, layer: WeightedLayer, gram_GKK: Tensor, order: Callable[[Tensor], Tensor]
    ) -> Tensor:
        stored = layer.weight
        scale, zero = (stored.broadcast(each).astype(np.float32) for each in (stored.scale, stored.zero_point))
        exact = torch.from_numpy(self._weights[step.name] / scale + zero)
        plain = torch.from_numpy(stored.integers.astype(np.float32))
        lower, room = _choices(exact, plain, torch.from_numpy(np.asarray(zero)), _range_of(stored))
        size = torch.from_numpy(np.broadcast_to(scale, exact.shape).copy())
        choices = Choices(order(lower), order(room), order(exact), order(size), gram_GKK)
        chosen = decide(choices, self._steps)
        before, after = choices.error(order(plain)), choices.error(chosen)
        integers = _back(chosen, exact, order) if after < before else plain
        self.integers[step.name] = integers.numpy()
        self.gains[step.name] = min(after / before, 1.0) if before > 0 else 1.0
        return (integers - torch.from_numpy(np.asarray(zero))) * torch.from_numpy(np.asarray(scale))


def _choices(exact: Tensor, plain: Tensor, zero: Tensor, limits: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the lower of the two integers that each weight may become, and how far the other one is above: 1 or 0.

    Zeros have no choice, nor do weights outside the range or that were not just rounded: they stay what they are.
    """
    floor = torch.floor(exact)
    inside = (floor >= limits[0]) & (floor + 1 <= limits[1])
    free = inside & (exact != zero) & ((plain - exact).abs() < 1)
    return torch.where(free, floor, plain), free.float()


def _matrices(step: GraphStep, x: Tensor, weight: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
    """Return the Gram matrix [G, K, K] of a layer's inputs, and what orders its weights as [G, O, K]."""
    if step.operator == "Conv" and weight.dim() in {3, 4}:  # a sequence or an image
        groups = step.attributes.get("group", 1)
        width = weight[0].numel()
        if width > LARGEST:
            return None
        return _convolution_gram(step, x, weight, groups), lambda w: w.reshape(groups, w.shape[0] // groups, width)
    if step.operator in {"Gemm", "MatMul"} and weight.dim() == 2:  # noqa: PLR2004 - a matrix
        transposed = bool(step.attributes.get("transB"))
        rows = x.reshape(-1, x.shape[-1])
        if rows.shape[1] > LARGEST or step.attributes.get("transA"):
            return None
        return (rows.t() @ rows)[None], lambda w: (w if transposed else w.t())[None]
    return None


def _convolution_gram(step: GraphStep, x: Tensor, weight: Tensor, groups: int) -> Tensor:
    spatial = weight.dim() - 2
    strides, dilations, pads = window_arguments(step.attributes, x.shape[2:], weight.shape[2:])
    pairs = [pads[axis + spatial * end] for axis in reversed(range(spatial)) for end in (0, 1)]
    ones = [1] * (2 - spatial)  # a sequence is an image of height 1
    kernel = (*ones, *weight.shape[2:])
    width = weight[0].numel()
    gram = torch.zeros(groups, width, width)
    each = x[0].numel() * math.prod(kernel) // math.prod(strides)
    for part in torch.split(x, max(CHUNK // each, 1)):
        padded = functional.pad(part, pairs)
        image = padded[:, :, None] if spatial == 1 else padded
        columns = functional.unfold(image, kernel, dilation=(*ones, *dilations), stride=(*ones, *strides))
        grouped = columns.reshape(len(part), groups, width, -1).permute(1, 2, 0, 3).reshape(groups, width, -1)
        gram += grouped @ grouped.transpose(1, 2)
    return gram


def _back(up_GOK: Tensor, like: Tensor, order: Callable[[Tensor], Tensor]) -> Tensor:
    places = order(torch.arange(like.numel(), dtype=torch.float64).reshape(like.shape)).reshape(-1).long()
    flat = torch.empty(like.numel())
    flat[places] = up_GOK.reshape(-1)
    return flat.reshape(like.shape)


def _range_of(stored: StoredWeights) -> tuple[int, int]:
    """Return the smallest and largest integer that weights may become: symmetric about zero if signed."""
    integers = stored.integers
    if integers.dtype == np.uint8:
        return 0, 255
    reach = max(int(np.abs(integers.astype(np.int32)).max()), 1)
    return (-reach, reach) if reach <= REDUCED else (-FULL, FULL)
