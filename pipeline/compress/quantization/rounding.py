"""Adaptive rounding: round each weight up or down so that the layer's output changes least, not the weight itself.

With rounding up or down relaxed to numbers between 0 and 1, gradient descent minimises the squared error of the layer's
output, while a penalty drives the numbers to 0 or 1.

Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization" (ICML 2020). Differs: the error is
taken through the Gram matrix of the layer's inputs, which holds all positions of all images, so a step costs no pass
over images; the inputs are those of the quantized graph for the float and the rounded weights alike.
It changes no time. Cost: a step is one product of the weights with a K x K matrix, K the weights of one channel; layers
with K above `LARGEST` stay as they are. It does not help with min-max weights of 8 bits that lose nothing already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional

from pipeline.compress.quantization.graph_module import GraphModule
from pipeline.compress.quantization.weighted import weighted_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto
    from torch import Tensor

    from pipeline.compress.quantization.graph_module import Step
    from pipeline.compress.quantization.weighted import WeightedLayer

LARGEST = 4608
STEPS = 300
LEARNING_RATE = 0.05
#: Stretch of the sigmoid beyond 0 and 1, as in the paper (zeta, gamma).
STRETCH, SHIFT = 1.2, -0.1
PENALTY = 1.0
#: The penalty's exponent falls from the first to the second number after a tenth of the steps.
EXPONENTS = (20.0, 2.0)
FREE_SHARE = 0.1
CHUNK = 16


def round_adaptively(
    model: ModelProto,
    quantized: ModelProto,
    samples_NCHW: NDArray[np.float32],
    *,
    steps: int = STEPS,
    on_layer: Callable[[int, int, str], None] = lambda *_: None,
) -> tuple[ModelProto, dict[str, float]]:
    """Return a copy of `quantized` with weights rounded anew, and each layer's error relative to plain rounding.

    `model` is the float graph that it was made of, with the same node names. `on_layer(done, total, name)` is called
    after each layer. Layers that are not convolutions or linear layers on the network's own activations stay.
    """
    result = onnx.ModelProto()
    result.CopyFrom(quantized)
    layers = weighted_layers(result)
    weights = _float_weights(model)
    rounding = _Rounding(result, layers, weights, steps=steps, on_layer=on_layer)
    with torch.no_grad():
        rounding(torch.from_numpy(samples_NCHW))
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
        self._layers = {name: layer for name, layer in layers.items() if name in weights}
        self._weights, self._steps, self._on_layer = weights, steps, on_layer
        self.integers: dict[str, NDArray[Any]] = {}
        self.gains: dict[str, float] = {}

    def run_step(self, step: Step, given: Sequence[Any]) -> Any:  # noqa: ANN401 - a tensor or several
        layer = self._layers.get(step.name)
        if layer is None:
            return super().run_step(step, given)
        matrices = _matrices(step, given[0], given[1])
        if matrices is not None:
            given = [given[0], self._rounded(step, layer, *matrices), *given[2:]]
        self._on_layer(len(self.integers), len(self._layers), step.name)
        return super().run_step(step, given)

    def _rounded(self, step: Step, layer: WeightedLayer, gram_GKK: Tensor, order: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the dequantized weights after rounding anew."""
        stored = layer.weight
        scale, zero = (stored.broadcast(each).astype(np.float32) for each in (stored.scale, stored.zero_point))
        low, high = _range_of(stored.integers, stored.zero_point)
        exact = torch.from_numpy(self._weights[step.name] / scale + zero)
        floor = torch.floor(exact + 1e-4)
        size = torch.from_numpy(np.broadcast_to(scale, exact.shape).copy())
        up = _decide(order(exact - floor), order(size), gram_GKK, self._steps)
        plain = torch.from_numpy(stored.integers.astype(np.float32))
        chosen = torch.clamp(floor + _back(up, exact, order), low, high)
        errors = [float(_error(order((each - exact) * size), gram_GKK)) for each in (chosen, plain)]
        better = errors[0] < errors[1]
        integers = chosen if better else plain
        self.integers[step.name] = integers.numpy()
        self.gains[step.name] = min(errors[0] / errors[1], 1.0) if errors[1] > 0 else 1.0
        return (integers - torch.from_numpy(zero)) * torch.from_numpy(scale)


def _decide(rest_GOK: Tensor, scale_GOK: Tensor, gram_GKK: Tensor, steps: int) -> Tensor:
    """Return 1 where a weight is to be rounded up and 0 where down; `rest_GOK` is its fraction, in steps of `scale`."""
    share = torch.clamp((rest_GOK - SHIFT) / STRETCH, 1e-3, 1 - 1e-3)
    # The error is taken relative to that of plain rounding, so that the penalty weighs the same in every layer.
    plain = _error((torch.round(rest_GOK) - rest_GOK) * scale_GOK, gram_GKK) + 1e-20
    with torch.enable_grad():
        free = torch.log(share / (1 - share)).requires_grad_()
        optimiser = torch.optim.Adam([free], lr=LEARNING_RATE)
        for step in range(steps):
            up = torch.clamp(torch.sigmoid(free) * STRETCH + SHIFT, 0, 1)
            loss = _error((up - rest_GOK) * scale_GOK, gram_GKK) / plain
            done = (step / steps - FREE_SHARE) / (1 - FREE_SHARE)
            if done > 0:
                exponent = EXPONENTS[1] + (EXPONENTS[0] - EXPONENTS[1]) * (1 - done)
                loss = loss + PENALTY * (1 - (2 * up - 1).abs().pow(exponent)).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return (torch.sigmoid(free) > 0.5).float().detach()  # noqa: PLR2004 - nearer to up


def _error(change_GOK: Tensor, gram_GKK: Tensor) -> Tensor:
    """Return the squared error of the outputs that a change of the weights makes, summed over everything."""
    return ((change_GOK @ gram_GKK) * change_GOK).sum()


def _matrices(step: Step, x: Tensor, weight: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
    """Return the Gram matrix [G, K, K] of a layer's inputs, and what orders its weights as [G, O, K]."""
    if step.operator == "Conv" and weight.dim() in {3, 4}:
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


def _convolution_gram(step: Step, x: Tensor, weight: Tensor, groups: int) -> Tensor:
    spatial = weight.dim() - 2
    pads = step.attributes.get("pads", [0] * 2 * spatial)
    pairs = [pads[axis + spatial * end] for axis in reversed(range(spatial)) for end in (0, 1)]
    ones = [1] * (2 - spatial)  # a sequence is an image of height 1
    kernel = (*ones, *weight.shape[2:])
    strides = (*ones, *step.attributes.get("strides", [1] * spatial))
    dilations = (*ones, *step.attributes.get("dilations", [1] * spatial))
    width = weight[0].numel()
    gram = torch.zeros(groups, width, width)
    for part in torch.split_with_sizes(x, _chunks(len(x))):
        padded = functional.pad(part, pairs)
        image = padded[:, :, None] if spatial == 1 else padded
        columns = functional.unfold(image, kernel, dilation=dilations, stride=strides)
        grouped = columns.reshape(len(part), groups, width, -1).permute(1, 2, 0, 3).reshape(groups, width, -1)
        gram += grouped @ grouped.transpose(1, 2)
    return gram


def _chunks(length: int) -> list[int]:
    return [min(CHUNK, length - start) for start in range(0, length, CHUNK)]


def _back(up_GOK: Tensor, like: Tensor, order: Callable[[Tensor], Tensor]) -> Tensor:
    """Undo the order [G, O, K]."""
    places = order(torch.arange(like.numel(), dtype=torch.float64).reshape(like.shape)).reshape(-1).long()
    flat = torch.empty(like.numel())
    flat[places] = up_GOK.reshape(-1)
    return flat.reshape(like.shape)


def _range_of(integers: NDArray[Any], zero_point: NDArray[Any]) -> tuple[int, int]:
    """Return the smallest and largest integer that the weights may take: symmetric about the zero point if signed."""
    if integers.dtype == np.uint8:
        return 0, 255
    reach = max(int(np.abs(integers.astype(np.int32) - int(zero_point.reshape(-1)[0])).max()), 1)
    return (-reach, reach) if reach <= 64 else (-127, 127)  # noqa: PLR2004 - 7 bits stay 7 bits


def _float_weights(model: ModelProto) -> dict[str, NDArray[np.float32]]:
    """Return the float weight of each node that has one, by node name."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    return {
        node.name: numpy_helper.to_array(tensors[node.input[1]])
        for node in model.graph.node
        if len(node.input) > 1 and node.input[1] in tensors
    }
