"""An ONNX graph as a torch network: the same numbers, with gradients.

Methods that change a graph by what they measure in it (bias correction, rounding, training with quantization) need
gradients and activations of the graph that ships, not of the network that it was exported from. QuantizeLinear and
DequantizeLinear are computed as ONNX defines them; the gradient of rounding is one, that of clipping none (the
straight-through estimator of Bengio et al. 2013).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from pipeline.compress.quantization.torch_graph.operators import NUMBERS, OPERATORS
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from pipeline.core.feeds import Feeds

#: Inputs that are statistics or scales, not weights to be trained, by operator.
_NOT_WEIGHTS = {"BatchNormalization": (3, 4), "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2)}
PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})
#: Types that a pair may have, and the smallest and largest number of each.
LIMITS = {
    np.dtype(kind): (int(np.iinfo(kind).min), int(np.iinfo(kind).max))
    for kind in (np.uint8, np.int8, np.uint16, np.int16, np.int32)
}
ZERO_POINT = 2
#: Operators whose literal shape may begin with the batch.
_BATCHED = frozenset({"Expand", "Reshape"})


class _Round(torch.autograd.Function):
    """Rounds half to even; the gradient passes through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - as torch declares it
        del ctx
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401 - as torch declares it
        del ctx
        return gradients[0]


def straight_through_round(x: Tensor) -> Tensor:
    """Round half to even, with a gradient of one."""
    rounded: Tensor = _Round.apply(x)  # type: ignore[no-untyped-call]
    return rounded


class _FakeQuantize(torch.autograd.Function):
    """Quantizes and dequantizes; the gradient passes where nothing is clipped. Keeps no more than that for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, limits: tuple[int, int]) -> Tensor:  # noqa: ANN401
        numbers = (x / scale).round_().add_(zero_point)
        ctx.save_for_backward((numbers >= limits[0]) & (numbers <= limits[1]))
        return numbers.clamp_(*limits).sub_(zero_point).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401 - as torch declares it
        return gradients[0] * ctx.saved_tensors[0], None, None, None


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, limits: tuple[int, int]) -> Tensor:
    """Return what is left of `x` after quantizing and dequantizing; scale and zero point broadcast against it.

    Only `x` gets a gradient.
    """
    rounded: Tensor = _FakeQuantize.apply(x, scale, zero_point, limits)  # type: ignore[no-untyped-call]
    return rounded


@dataclass(frozen=True)
class GraphStep:
    """One node: its name, operator, attributes, and the names of what it reads and makes ("" where left out)."""

    name: str
    operator: str
    attributes: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class GraphModule(nn.Module):
    """Runs an ONNX graph; its float weights are parameters.

    The forward pass takes the graph's inputs and returns its output, or a tuple of several. Values are let go when the
    last node that reads them has run. A graph that is fixed to one batch size takes any other too where its literal
    shapes have the batch as their first number.
    """

    def __init__(self, model: ModelProto) -> None:
        """Read the graph. Raises InputError for an operator that is not in `OPERATORS`."""
        super().__init__()
        graph = model.graph
        self.tensors = nn.Module()
        self.stored: dict[str, str] = {}
        self.numbers: dict[str, NDArray[Any]] = {}
        self.steps = [_step(node) for node in graph.node if node.op_type != "Constant"]
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        constants = {node.output[0]: _constant(node) for node in graph.node if node.op_type == "Constant"}
        self.inputs = [value.name for value in graph.input if value.name not in weights]
        self.outputs = [value.name for value in graph.output]
        self.batch = _batch(model, self.inputs[0])
        self.fed = self.batch or 1
        self._require_known()
        trained = self._trained(weights)
        for name, array in (weights | constants).items():
            self.numbers[name] = array
            self._store(name, array, weight=name in trained)
        last = {value: index for index, step in enumerate(self.steps) for value in step.inputs}
        self._dead: list[list[str]] = [[] for _ in self.steps]
        for value, index in last.items():
            if value not in self.outputs:
                self._dead[index].append(value)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the graph."""
        values: dict[str, Any] = dict(zip(self.inputs, inputs, strict=True))
        self.fed = inputs[0].shape[0]
        for step, dead in zip(self.steps, self._dead, strict=True):
            made = self.run_step(step, [self._read(step, place, values) for place in range(len(step.inputs))])
            results = made if isinstance(made, (tuple, list)) else (made,)
            values.update(zip(step.outputs, results, strict=False))
            for name in dead:
                values.pop(name, None)
        found = tuple(values[name] if name in values else self.constant(name) for name in self.outputs)
        return found[0] if len(found) == 1 else found

    def given(self, feeds: Feeds) -> tuple[Tensor, ...]:
        """Return samples as the forward pass takes them: the graph's inputs in its order."""
        return tuple(torch.from_numpy(feeds[name]) for name in self.inputs)

    def run_step(self, step: GraphStep, given: Sequence[Any]) -> Any:  # noqa: ANN401 - a tensor or several
        """Compute one node. Subclasses look at, or change, what goes in and comes out."""
        if step.operator == "QuantizeLinear":
            return self._quantize(step, *given)
        if step.operator == "DequantizeLinear":
            return self._dequantize(step, *given)
        if step.operator == "Concat" and self.fed != self.batch and step.attributes["axis"] % given[0].dim():
            given = self._of_one_batch(given)
        return OPERATORS[step.operator](step.attributes, *given)

    def constant(self, name: str) -> Tensor:
        """Return a stored tensor by its ONNX name."""
        tensor: Tensor = getattr(self.tensors, self.stored[name])
        return tensor

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return the float weights by their ONNX names, as they are now."""
        tensors = {name: self.constant(name) for name in self.stored}
        return {
            name: tensor.detach().cpu().numpy() for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter)
        }

    def _read(self, step: GraphStep, place: int, values: dict[str, Any]) -> Any:  # noqa: ANN401 - a tensor, numbers or None
        name = step.inputs[place]
        if not name:
            return None
        if place in NUMBERS.get(step.operator, ()):
            if name in values:
                return tuple(values[name].reshape(-1).tolist())
            numbers = tuple(self.numbers[name].reshape(-1).tolist())
            return self._for_fed(step, values.get(step.inputs[0]), numbers) or None
        return values[name] if name in values else self.constant(name)

    def _for_fed(self, step: GraphStep, x: Tensor | None, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return a literal shape with the batch that was fed in place of the file's, if it begins with that."""
        changed = (self.fed, *shape[1:]) if shape[:1] == (self.batch,) else shape
        if self.batch in {None, self.fed} or step.operator not in _BATCHED:
            return shape
        if step.operator == "Expand":
            return changed
        if x is None or math.prod(shape) == x.numel():
            return shape
        if min(changed) > 0 and math.prod(changed) != x.numel():
            raise InputError(
                f"{step.name} reshapes to {list(shape)}, which holds only for batches of {self.batch}, but {self.fed} "
                "images were given; export with a dynamic batch"
            )
        return changed

    def _of_one_batch(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Repeat what was stored for the file's batch (a class token, say) for each image beside the others."""
        batched = any(part.shape[0] == self.fed for part in parts)
        return [
            part[:1].expand(self.fed, *part.shape[1:]) if batched and part.shape[0] == self.batch else part
            for part in parts
        ]

    def _quantize(self, step: GraphStep, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        zero = np.zeros((), np.uint8) if zero_point is None else self.numbers[step.inputs[ZERO_POINT]]
        along = _along(step, x, scale)
        shift = torch.as_tensor(zero.astype(np.float32), device=x.device).reshape(along)
        return torch.clamp(straight_through_round(x / scale.reshape(along)) + shift, *LIMITS[zero.dtype])

    def _dequantize(self, step: GraphStep, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        along = _along(step, x, scale)
        if zero_point is None:
            return x.float() * scale.reshape(along)
        wide = x if x.is_floating_point() else x.long()  # 32 bits less a zero point have no room in a float
        return (wide - zero_point.to(wide.dtype).reshape(along)).float() * scale.reshape(along)

    def _trained(self, weights: dict[str, NDArray[Any]]) -> frozenset[str]:
        """Return the names of stored floats with at least one dimension that take part in a sum or product."""
        read = {
            name
            for step in self.steps
            for place, name in enumerate(step.inputs)
            if place not in (*NUMBERS.get(step.operator, ()), *_NOT_WEIGHTS.get(step.operator, ()))
        }
        return frozenset(
            name for name in read if name in weights and weights[name].dtype == np.float32 and weights[name].ndim
        )

    def _store(self, name: str, array: NDArray[Any], *, weight: bool) -> None:
        """Keep a tensor under a number, for its own name may hold anything."""
        tensor, key = torch.from_numpy(np.array(array)), f"t{len(self.stored)}"
        if weight:
            self.tensors.register_parameter(key, nn.Parameter(tensor))
        else:
            self.tensors.register_buffer(key, tensor)
        self.stored[name] = key

    def _require_known(self) -> None:
        known = OPERATORS.keys() | PAIR
        for step in self.steps:
            if step.operator not in known:
                raise InputError(
                    f"operator {step.operator} of {step.name} has no counterpart in torch here; known are "
                    f"{', '.join(sorted(known))}. Put a simplify stage before, which folds what is constant."
                )
            if step.operator in PAIR and step.attributes.get("block_size"):
                raise InputError(
                    f"{step.operator} {step.name} has scales for blocks; known are scales for tensors and channels"
                )


def _along(step: GraphStep, x: Tensor, scale: Tensor) -> tuple[int, ...]:
    """Return the shape in which a scale for each channel broadcasts against `x`."""
    if scale.numel() == 1:
        return ()
    axis = step.attributes.get("axis", 1) % x.dim()
    return tuple(-1 if dim == axis else 1 for dim in range(x.dim()))


def _batch(model: ModelProto, name: str) -> int | None:
    """Return the batch size that an input is fixed to."""
    port = next(value for value in model.graph.input if value.name == name)
    dims = port.type.tensor_type.shape.dim
    return dims[0].dim_value or None if dims else None


def _step(node: NodeProto) -> GraphStep:
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type == "Split" and not node.input[1:]:
        attributes.setdefault("num_outputs", len(node.output))  # before opset 18 their number was enough
    return GraphStep(node.name, node.op_type, attributes, tuple(node.input), tuple(node.output))


def _constant(node: NodeProto) -> NDArray[Any]:
    """Return what a Constant node holds: a tensor, or numbers, which are of 32 bits where they have a point."""
    value = onnx.helper.get_attribute_value(node.attribute[0])
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.array(value, np.float32 if node.attribute[0].name in {"value_float", "value_floats"} else None)
