"""One convolution or matrix product in QDQ form, and its sums computed in the plainest way, with and without clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

X_SCALE, W_SCALE = np.float32(1 / 64), np.float32(0.01)
LOWEST, HIGHEST = -(2**15), 2**15 - 1


@dataclass(frozen=True)
class Case:
    """A layer: a convolution of these channels, or with `spatial` empty a matrix product of that many rows."""

    channels: int
    width: int
    kernel: int = 3
    groups: int = 1
    stride: int = 1
    pad: int = 1
    dilation: int = 1
    spatial: tuple[int, ...] = (9, 9)
    rows: int = 1
    signed: bool = False
    zero_point: int = 0
    bound: int = 127
    seed: int = 0

    @property
    def limits(self) -> tuple[int, int]:
        """Range of the activations."""
        return (-128, 127) if self.signed else (0, 255)

    @property
    def y_scale(self) -> np.float32:
        """A scale at which the outputs of random inputs fill the range."""
        terms = self.channels // self.groups * self.kernel ** len(self.spatial)
        return np.float32(0.04) * np.sqrt(np.float32(terms))


#: Every path of the kernels: im2col and direct, one row and many, grouped, odd, signed, with padding that is not 0.
CASES = {
    "im2col": Case(3, 16),
    "direct": Case(16, 16),
    "pointwise": Case(16, 32, kernel=1, pad=0),
    "padded pointwise": Case(20, 32, kernel=1, stride=2),
    "grouped": Case(16, 32, groups=4),
    "multiplier": Case(8, 16, groups=8),
    "odd": Case(5, 7, stride=2),
    "dilated": Case(4, 16, dilation=2, pad=2),
    "zero point": Case(16, 16, zero_point=100),
    "signed": Case(16, 16, signed=True, zero_point=-20),
    "signed im2col": Case(3, 16, signed=True, zero_point=-20),
    "one dimension": Case(6, 20, kernel=5, pad=2, spatial=(17,)),
    "deep": Case(80, 24),
    "depthwise": Case(8, 8, groups=8),
    "depthwise of 16": Case(16, 16, groups=16),
    "one row": Case(70, 40, spatial=()),
    "rows": Case(64, 32, spatial=(), rows=5),
    "odd rows": Case(71, 10, spatial=(), rows=3, zero_point=7),
}


def weights(case: Case) -> NDArray[np.int8]:
    """Return random weights up to `bound`."""
    generator = np.random.default_rng(case.seed)
    inner = case.channels // case.groups
    shape = (case.width, inner, *[case.kernel] * len(case.spatial)) if case.spatial else (case.channels, case.width)
    return generator.integers(-case.bound, case.bound + 1, shape).astype(np.int8)


def integers(case: Case, images: int = 1) -> NDArray[np.int64]:
    """Return random activations over their whole range."""
    generator = np.random.default_rng(case.seed + 1)
    shape = (images, case.channels, *case.spatial) if case.spatial else (images * case.rows, case.channels)
    return generator.integers(case.limits[0], case.limits[1] + 1, shape)


def images_of(case: Case, values: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the float inputs that quantize to these integers."""
    return ((values - case.zero_point) * X_SCALE).astype(np.float32)


def model_of(case: Case, weight: NDArray[Any] | None = None, *, folded: bool = True) -> ModelProto:
    """Return the graph; a convolution is quantized behind. Not `folded`, weights are floats and a QuantizeLinear."""
    weight = weights(case) if weight is None else weight
    unsigned = weight.dtype == np.uint8
    integer = np.int8 if case.signed else np.uint8
    constants = {
        "xs": X_SCALE,
        "xz": integer(case.zero_point),
        "ws": np.full(case.width, W_SCALE),
        "wz": np.full(case.width, 128, np.uint8) if unsigned else np.zeros(case.width, np.int8),
        "ys": case.y_scale,
        "yz": np.int8(0) if case.signed else np.uint8(128),
        "w" if folded else "wf": weight if folded else weight * W_SCALE,
    }
    axis = 0 if case.spatial else 1
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        *([] if folded else [helper.make_node("QuantizeLinear", ["wf", "ws", "wz"], ["w"], axis=axis)]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=axis),
    ]
    if case.spatial:
        dims = len(case.spatial)
        window = {"strides": [case.stride] * dims, "pads": [case.pad] * 2 * dims, "dilations": [case.dilation] * dims}
        nodes += [
            helper.make_node("Conv", ["xd", "wd"], ["product"], name="layer", group=case.groups, **window),
            helper.make_node("QuantizeLinear", ["product", "ys", "yz"], ["yq"]),
            helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
        ]
        shape = [1, case.channels, *case.spatial]
    else:
        nodes.append(helper.make_node("MatMul", ["xd", "wd"], ["y"], name="layer"))
        shape = [case.rows, case.channels]
    read = {value for node in nodes for value in node.input}
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in read],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


@dataclass(frozen=True)
class Sums:
    """Sums of one inference [positions, width], exact and with clipped pairs, and how many pairs were clipped."""

    exact: NDArray[np.int64]
    clipped: NDArray[np.int64]
    saturated: int


def sums_of(case: Case, values: NDArray[np.int64], weight: NDArray[np.int8]) -> Sums:
    """Multiply with loops over positions and groups: no code is shared with what is tested."""
    offset = 128 if case.signed else 0
    zero = case.zero_point + offset
    rows, columns = _lowered(case, values + offset, zero, weight)
    exact, clipped, saturated = [], [], 0
    for row, column in zip(rows, columns, strict=True):
        odd = row.shape[1] % 2
        one, other = np.pad(row, ((0, 0), (0, odd))), np.pad(column, ((0, odd), (0, 0)))
        pairs = one[:, 0::2, None] * other[None, 0::2] + one[:, 1::2, None] * other[None, 1::2]
        kept = pairs if case.groups == case.width == case.channels else np.clip(pairs, LOWEST, HIGHEST)
        saturated += int((kept != pairs).sum())
        exact.append(pairs.sum(1) - zero * column.sum(0))
        clipped.append(kept.sum(1) - zero * column.sum(0))
    return Sums(np.concatenate(exact, 1), np.concatenate(clipped, 1), saturated)


def quantized(case: Case, sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a convolution's outputs [positions, width] as integers."""
    scaled = sums.astype(np.float32) * (X_SCALE * W_SCALE / case.y_scale)
    return np.clip(np.rint(scaled).astype(np.int64) + (0 if case.signed else 128), *case.limits)


def _lowered(
    case: Case, values: NDArray[np.int64], zero: int, weight: NDArray[np.int8]
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Return rows [positions, K] and columns [K, width] for each group; K has the channels last."""
    if not case.spatial:
        return [values], [weight.astype(np.int64)]
    dims = len(case.spatial)
    padded = np.pad(values, [(0, 0), (0, 0), *[(case.pad, case.pad)] * dims], constant_values=zero)
    reach = (case.kernel - 1) * case.dilation + 1
    starts = [range(0, length - reach + 1, case.stride) for length in padded.shape[2:]]
    rows: list[list[NDArray[np.int64]]] = [[] for _ in range(case.groups)]
    for image in padded:
        for place in np.ndindex(*map(len, starts)):
            window = tuple(
                slice(axis[i], axis[i] + reach, case.dilation) for axis, i in zip(starts, place, strict=True)
            )
            patch = np.moveaxis(image[(slice(None), *window)], 0, -1)
            for group, part in enumerate(np.split(patch, case.groups, axis=-1)):
                rows[group].append(part.ravel())
    blocks = np.split(weight.astype(np.int64), case.groups)
    columns = [np.moveaxis(block, 1, -1).reshape(block.shape[0], -1).T for block in blocks]
    return [np.array(row) for row in rows], columns
