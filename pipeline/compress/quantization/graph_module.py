"""An ONNX graph as a torch network: the same numbers, with gradients.

Methods that change a graph by what they measure in it (bias correction, rounding, training with quantization) need
gradients and activations of the graph that ships, not of the network that it was exported from. QuantizeLinear and
DequantizeLinear are computed as ONNX defines them; the gradient of rounding is one, that of clipping none (the
straight-through estimator of Bengio et al. 2013).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from pipeline.compress.quantization.operators import NUMBERS, OPERATORS
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

#: Inputs that are statistics or scales, not weights to be trained, by operator.
NOT_WEIGHTS = {
    "BatchNormalization": (3, 4),
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "Clip": (1, 2),
    "Pad": (2,),
}
#: Operators whose literal shape may begin with the batch.
BATCHED = ("Reshape", "Expand")
#: Smallest and largest number of the quantized types.
LIMITS = {np.dtype(np.uint8): (0, 255), np.dtype(np.int8): (-128, 127), np.dtype(np.int32): (-(2**31), 2**31 - 1)}


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


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, limits: tuple[int, int]) -> Tensor:
    """Return what is left of `x` after quantizing and dequantizing; scale and zero point broadcast against it."""
    numbers = torch.clamp(straight_through_round(x / scale) + zero_point, *limits)
    return (numbers - zero_point) * scale


@dataclass(frozen=True)
class Step:
    """One node: its name, operator, attributes, and the names of what it reads and makes ("" where left out)."""

    name: str
    operator: str
    attributes: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class GraphModule(nn.Module):
    """Runs an ONNX graph; its float weights are parameters, named as in the file.

    The forward pass takes the graph's inputs and returns its output, or a tuple of several. Values are let go when the
    last node that reads them has run. A graph that is fixed to one batch size takes any other too where its literal
    shapes have the batch as their first number.
    """

    def __init__(self, model: ModelProto) -> None:
        """Read the graph. Raises InputError for an operator that is not in `OPERATORS`."""
        super().__init__()
        graph = model.graph
        self.stored: dict[str, str] = {}
        self.numbers: dict[str, NDArray[Any]] = {}
        self.steps = [_step(node) for node in graph.node if node.op_type != "Constant"]
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        constants |= {node.output[0]: _constant(node) for node in graph.node if node.op_type == "Constant"}
        self.inputs = [value.name for value in graph.input if value.name not in constants]
        self.outputs = [value.name for value in graph.output]
        self.batch = _batch(model)
        self.fed = self.batch
        self._require_known()
        trained = self._trained(constants)
        for name, array in constants.items():
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

    def run_step(self, step: Step, given: Sequence[Any]) -> Any:  # noqa: ANN401 - a tensor or several
        """Compute one node. Subclasses look at, or change, what goes in and comes out."""
        if step.operator == "QuantizeLinear":
            return self._quantize(step, *given)
        if step.operator == "DequantizeLinear":
            return self._dequantize(step, *given)
        if step.operator == "Concat" and self.fed != self.batch:  # a class token, say, that was folded for one batch
            given = [x.expand(self.fed, *x.shape[1:]) if x.shape[0] == self.batch else x for x in given]
        return OPERATORS[step.operator](step.attributes, *given)

    def constant(self, name: str) -> Tensor:
        """Return a stored tensor by its ONNX name."""
        path, _, last = self.stored[name].rpartition(".")
        tensor: Tensor = getattr(self.get_submodule(path), last)
        return tensor

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return the float weights by their ONNX names, as they are now."""
        parameters = dict(self.named_parameters())
        return {
            name: parameters[path].detach().cpu().numpy() for name, path in self.stored.items() if path in parameters
        }

    def _read(self, step: Step, place: int, values: dict[str, Any]) -> Any:  # noqa: ANN401 - a tensor, numbers or None
        name = step.inputs[place]
        if not name:
            return None
        if place in NUMBERS.get(step.operator, ()):
            if name in values:
                return tuple(values[name].tolist())
            numbers = tuple(self.numbers[name].reshape(-1).tolist())
            if step.operator in BATCHED and numbers[:1] == (self.batch,):
                return self.fed, *numbers[1:]
            return numbers or None
        return values[name] if name in values else self.constant(name)

    def _quantize(self, step: Step, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        zero = self.numbers[step.inputs[2]] if zero_point is not None else np.zeros((), np.uint8)
        along = _along(step, x, scale)
        shift = torch.as_tensor(zero.astype(np.float32), device=x.device).reshape(along)
        return torch.clamp(straight_through_round(x / scale.reshape(along)) + shift, *LIMITS[zero.dtype])

    def _dequantize(self, step: Step, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        along = _along(step, x, scale)
        shift = 0.0 if zero_point is None else zero_point.float().reshape(along)
        return (x.float() - shift) * scale.reshape(along)

    def _trained(self, constants: dict[str, NDArray[Any]]) -> frozenset[str]:
        read = {
            name
            for step in self.steps
            for place, name in enumerate(step.inputs)
            if place not in (*NUMBERS.get(step.operator, ()), *NOT_WEIGHTS.get(step.operator, ()))
        }
        return frozenset(
            name
            for name in read
            if name in constants and constants[name].dtype == np.float32 and constants[name].size > 1
        )

    def _store(self, name: str, array: NDArray[Any], *, weight: bool) -> None:
        """Keep a tensor in nested modules named after the parts of its name, as the exported network had them."""
        tensor = torch.from_numpy(np.array(array))
        *path, last = name.split(".")
        holder: nn.Module = self
        for part in path:
            if not isinstance(getattr(holder, part, None), nn.Module):
                if hasattr(holder, part):
                    path, last, holder = [], name.replace(".", "_"), self
                    break
                holder.add_module(part, nn.Module())
            holder = holder.get_submodule(part)
        while hasattr(holder, last):
            last += "_"
        if weight:
            holder.register_parameter(last, nn.Parameter(tensor))
        else:
            holder.register_buffer(last, tensor)
        self.stored[name] = ".".join((*path, last))

    def _require_known(self) -> None:
        known = OPERATORS.keys() | {"QuantizeLinear", "DequantizeLinear"}
        for step in self.steps:
            if step.operator not in known:
                message = (
                    f"operator {step.operator} of {step.name} has no counterpart in torch here; known are "
                    f"{', '.join(sorted(known))}. Put a simplify stage before, which folds what is constant."
                )
                raise InputError(message)


def _along(step: Step, x: Tensor, scale: Tensor) -> tuple[int, ...]:
    """Return the shape in which a scale for each channel broadcasts against `x`."""
    if scale.numel() == 1:
        return ()
    axis = step.attributes.get("axis", 1) % x.dim()
    return tuple(-1 if dim == axis else 1 for dim in range(x.dim()))


def _batch(model: ModelProto) -> int | None:
    """Return the batch size that the first input is fixed to."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    return dims[0].dim_value or None if dims else None


def _step(node: NodeProto) -> Step:
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    return Step(node.name, node.op_type, attributes, tuple(node.input), tuple(node.output))


def _constant(node: NodeProto) -> NDArray[Any]:
    value = onnx.helper.get_attribute_value(node.attribute[0])
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.array(value)
