"""Random float graphs with layers as quantizers seldom see them, by a seed or by hypothesis.

Clips with any bounds, Gemm with factors, weights from tiny to huge, dead channels, biases of any size, layers that are
called twice, groups that divide nothing else, batch norm that no convolution can take, masks, several outputs.
`random_graph(random.Random(7))` is always the same one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    Array = NDArray[Any]

SAMPLES = 12
#: Sizes of values stay between these, so that no sum overflows in 32 bits and none is subnormal.
SMALLEST, LARGEST = 1e-12, 1e12
#: Factors of a layer's weights.
LAYER = (1.0, 1.0, 1.0, 1.0, 1e-3, 1e3, 1e-9, 1e9)
#: Factors of the weights of some channels: dead, regularised away, large.
CHANNEL = (1.0, 1.0, 0.0, 1e-12, 1e-30, 1e-4, 50.0)
#: Factors of the biases of some channels, of the size that the layer's sums have.
BIAS = (1.0, 1.0, 0.0, 1e-6, 30.0, 1e4, 1e7)
#: Bounds of clips, of the size that values have.
CLIPS: tuple[tuple[float | None, float | None], ...] = (
    (0.0, 6.0),
    (0.0, 1.5),
    (0.5, None),
    (None, 0.4),
    (-1.0, 1.0),
    (0.3, 0.8),
    (-2.0, -0.2),
    (-0.1, None),
    (0.0, None),
    (None, None),
    (-100.0, 100.0),
)


@dataclass
class Value:
    """A value of the graph: its name, shape without the batch, and about the size of its numbers."""

    name: str
    shape: tuple[int, ...]
    size: float


@dataclass
class Builder:
    """A graph that grows layer by layer; numbers come from `random`."""

    random: Random
    nodes: list[NodeProto] = field(default_factory=list)
    stored: dict[str, Array] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)

    def normal(self, *shape: int) -> Array:
        """Return normally distributed numbers."""
        return np.random.default_rng(self.random.randrange(2**16)).standard_normal(shape, dtype=np.float32)

    def one_of(self, choices: Sequence[Any]) -> Any:  # noqa: ANN401 - of the choices
        """Return one of several."""
        return choices[self.random.randrange(len(choices))]

    def often(self, share: float) -> bool:
        """Return whether something happens that does so in this share of cases."""
        return self.random.randrange(100) < 100 * share

    def store(self, name: str, array: Array) -> str:
        """Store a tensor."""
        self.stored[name] = np.asarray(array, np.float32 if array.dtype.kind == "f" else array.dtype)
        return name

    def add(self, operator: str, given: Sequence[str], shape: tuple[int, ...], size: float, **attributes: Any) -> Value:  # noqa: ANN401
        """Add a node and return what it makes."""
        name = f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, given, [name], f"{name}.node", **attributes))
        value = Value(name, shape, min(max(size, SMALLEST), LARGEST))
        self.values.append(value)
        return value

    def scale(self, size: float) -> float:
        """Return a factor for a layer's weights that leaves the size of values within bounds."""
        factor = float(self.one_of(LAYER))
        return factor if SMALLEST < size * factor < LARGEST else 1.0

    def wild(self, factors: Sequence[float], channels: int) -> Array:
        """Return a factor for each channel: mostly 1, in some layers of any kind."""
        if self.often(0.5):
            return np.ones(channels, np.float32)
        return np.array([self.one_of(factors) for _ in range(channels)], np.float32)

    def weight(self, axis: int, *shape: int, fan: int, factor: float) -> Array:
        """Return weights whose channels along `axis` are of any size."""
        along = [-1 if dim == axis else 1 for dim in range(len(shape))]
        return self.normal(*shape) * np.float32(factor / np.sqrt(fan)) * self.wild(CHANNEL, shape[axis]).reshape(along)

    def bias(self, channels: int, size: float) -> Array:
        """Return a bias, for some channels of another size than their sums."""
        found = self.normal(channels) * np.float32(size) * self.wild(BIAS, channels)
        return np.clip(found, -LARGEST, LARGEST).astype(np.float32)


def convolution(build: Builder, x: Value) -> Value:
    """Add a convolution: plain, depthwise or grouped, or one that is there already."""
    channels, *area = x.shape
    kernel = build.one_of([1, 3]) if min(area) >= 3 else 1
    groups = build.one_of([each for each in (1, 1, channels, 2, 3) if channels % each == 0])
    width = groups * build.one_of([1, 2, 3]) if groups > 1 else build.one_of([3, 5, 8])
    stride = build.one_of([1, 1, 2])
    pad = kernel // 2
    factor = build.scale(x.size)
    size = x.size * factor
    name = f"w{len(build.nodes)}"
    given = [
        x.name,
        build.store(
            name,
            build.weight(
                0, width, channels // groups, kernel, kernel, fan=channels // groups * kernel**2, factor=factor
            ),
        ),
    ]
    if build.often(0.8):
        given.append(build.store(f"{name}.bias", build.bias(width, size)))
    shape = (width, *((length + 2 * pad - kernel) // stride + 1 for length in area))
    made = build.add("Conv", given, shape, size, group=groups, strides=[stride] * 2, pads=[pad] * 4)
    if made.shape == x.shape and build.often(0.3):  # the same layer again
        return build.add(
            "Conv", [made.name, *given[1:]], shape, size * factor, group=groups, strides=[stride] * 2, pads=[pad] * 4
        )
    return made


def transposed(build: Builder, x: Value) -> Value:
    """Add a transposed convolution, with groups or without."""
    channels, *area = x.shape
    groups = build.one_of([each for each in (1, channels, 2, 3) if channels % each == 0])
    width, kernel, stride = build.one_of([1, 2, 3]), build.one_of([2, 3, 4]), build.one_of([1, 2])
    factor = build.scale(x.size)
    name = f"w{len(build.nodes)}"
    array = build.weight(
        1, channels, width, kernel, kernel, fan=channels // groups * kernel**2 // stride, factor=factor
    )
    given = [x.name, build.store(name, array)]
    if build.often(0.8):
        given.append(build.store(f"{name}.bias", build.bias(width * groups, x.size * factor)))
    shape = (width * groups, *((length - 1) * stride + kernel - 2 for length in area))
    if min(shape) < 1:
        return x
    return build.add("ConvTranspose", given, shape, x.size * factor, group=groups, strides=[stride] * 2, pads=[1] * 4)


def norm(build: Builder, x: Value) -> Value:
    """Add a batch norm that no convolution can take: another node reads what it reads."""
    channels, name = x.shape[0], f"n{len(build.nodes)}"
    numbers = {
        "scale": build.normal(channels) * build.wild(CHANNEL, channels),
        "bias": build.bias(channels, 1.0),
        "mean": build.normal(channels) * np.float32(x.size),
        "var": np.square(build.normal(channels) * np.float32(x.size))
        + np.float32((x.size / 2) ** 2)
        + np.float32(1e-20),
    }
    given = [x.name, *(build.store(f"{name}.{key}", array) for key, array in numbers.items())]
    made = build.add("BatchNormalization", given, x.shape, 1.0, epsilon=1e-20)
    skip = build.add("Mul", [x.name, build.store(f"{name}.inverse", np.float32([1 / x.size]))], x.shape, 1.0)
    return build.add("Add", [made.name, skip.name], x.shape, 1.5)


def clip(build: Builder, x: Value) -> Value:
    """Add a clip, with or without each of its bounds, or a ReLU."""
    if build.often(0.4):
        return build.add("Relu", [x.name], x.shape, x.size)
    low, high = build.one_of(CLIPS)
    given = [x.name]
    for key, bound in (("low", low), ("high", high)):
        name = f"{key}{len(build.nodes)}"
        given.append("" if bound is None else build.store(name, np.array(bound * x.size, np.float32)))
    while len(given) > 1 and not given[-1]:
        given.pop()
    return build.add("Clip", given, x.shape, x.size)


def elementwise(build: Builder, x: Value) -> Value:
    """Add what has another value or a constant as second input, or none."""
    alike = [each for each in build.values if each.shape == x.shape and each.name != x.name]
    if alike and build.often(0.5):
        other = build.one_of(alike)
        return build.add("Add", [x.name, other.name], x.shape, max(x.size, other.size))
    name = f"c{len(build.nodes)}"
    shape = (x.shape[0], *[1] * (len(x.shape) - 1))
    if build.often(0.5):
        constant = build.store(name, build.normal(*shape) * np.float32(x.size))
        return build.add("Add", [x.name, constant], x.shape, x.size)
    if build.often(0.5):
        return build.add("Mul", [x.name, build.store(name, build.normal(*shape))], x.shape, x.size)
    return build.add("LeakyRelu", [x.name], x.shape, x.size, alpha=0.1)


def moved(build: Builder, x: Value) -> Value:
    """Add what moves, pools, pads or joins values of a map."""
    channels, height, width = x.shape
    kind = build.one_of(["MaxPool", "AveragePool", "Pad", "Concat", "Transpose", "Resize"])
    if kind in {"MaxPool", "AveragePool"} and min(height, width) >= 2:
        return build.add(
            kind, [x.name], (channels, height // 2, width // 2), x.size, kernel_shape=[2, 2], strides=[2, 2]
        )
    if kind == "Pad":
        pads = build.store(f"p{len(build.nodes)}", np.array([0, 0, 1, 0, 0, 0, 0, 1]))
        value = build.store(f"v{len(build.nodes)}", np.array(build.one_of([0.0, 0.0, 1.0, -3.0]) * x.size, np.float32))
        return build.add("Pad", [x.name, pads, value], (channels, height + 1, width + 1), x.size)
    alike = [each for each in build.values if each.shape[1:] == x.shape[1:] and len(each.shape) == 3]
    if kind == "Concat" and alike:
        other = build.one_of(alike)
        return build.add("Concat", [x.name, other.name], (channels + other.shape[0], height, width), x.size, axis=1)
    if kind == "Resize" and max(height, width) < 9:
        scales = build.store(f"s{len(build.nodes)}", np.array([1, 1, 2, 2], np.float32))
        return build.add("Resize", [x.name, "", scales], (channels, 2 * height, 2 * width), x.size, mode="nearest")
    return build.add("Transpose", [x.name], (channels, width, height), x.size, perm=[0, 1, 3, 2])


def linear(build: Builder, x: Value) -> Value:
    """Add a Gemm with any attributes, or a MatMul and an Add."""
    (width,), outputs = x.shape, build.one_of([3, 5, 8])
    factor = build.scale(x.size)
    name, size = f"w{len(build.nodes)}", x.size * factor
    rows = build.often(0.5)
    weight = build.weight(0, outputs, width, fan=width, factor=factor)
    bias = build.bias(outputs, size)
    if build.often(0.3):
        made = build.add("MatMul", [x.name, build.store(name, weight.T.copy())], (outputs,), size)
        given = [made.name, build.store(f"{name}.bias", bias)]
        return build.add("Add", given if build.often(0.8) else given[::-1], (outputs,), size)
    attributes: dict[str, Any] = {"transB": 1} if rows else {}
    if build.often(0.4):
        attributes |= {"alpha": build.one_of([1.0, 0.5, -2.0, 0.0]), "beta": build.one_of([1.0, 4.0, -1.0, 0.0])}
    given = [x.name, build.store(name, weight if rows else weight.T.copy())]
    form = build.one_of(["vector", "vector", "vector", "row", "scalar", "none", "computed"])
    alike = [each.name for each in build.values if each.shape == (outputs,)]
    if form == "computed" and alike:
        given.append(build.one_of(alike))
    elif form != "none":
        shaped = {"row": bias[None], "scalar": bias[0]}.get(form, bias)
        given.append(build.store(f"{name}.bias", shaped))
    made = build.add("Gemm", given, (outputs,), size, **attributes)
    if outputs == width and build.often(0.5):  # the same weights again, perhaps along the other axis
        turned = {"transB": 1} if build.often(0.5) else {}
        return build.add("Gemm", [made.name, name], (outputs,), size * factor, **turned)
    return made


def attention(build: Builder, x: Value) -> Value:
    """Add attention of a map's rows, masked by minus infinity, by a large number or not at all."""
    channels, height, width = x.shape
    flat = build.add(
        "Reshape",
        [x.name, build.store(f"r{len(build.nodes)}", np.array([0, channels, -1]))],
        (channels, height * width),
        x.size,
    )
    inverse = build.store(f"i{len(build.nodes)}", np.array(1 / x.size, np.float32))
    flat = build.add("Tanh", [build.add("Mul", [flat.name, inverse], flat.shape, 1.0).name], flat.shape, 1.0)
    turned = build.add("Transpose", [flat.name], (height * width, channels), 1.0, perm=[0, 2, 1])
    scores = build.add("MatMul", [flat.name, turned.name], (channels, channels), 1.0)
    small = build.store(f"i{len(build.nodes)}", np.array(1 / np.sqrt(height * width), np.float32))
    scores = build.add("Mul", [scores.name, small], scores.shape, 1.0)
    hidden = build.one_of([-np.inf, -1e9, float(np.finfo(np.float32).min), 0.0])
    near = np.tril(np.ones((channels, channels), bool))
    name = f"m{len(build.nodes)}"
    if build.often(0.5):
        mask = build.store(name, np.where(near, 0, hidden).astype(np.float32))
        scores = build.add("Add", [scores.name, mask], scores.shape, 1.0)
    else:
        given = [build.store(name, near), scores.name, build.store(f"{name}.value", np.array(hidden, np.float32))]
        scores = build.add("Where", given, scores.shape, 1.0)
    weights = build.add("Softmax", [scores.name], scores.shape, 1.0, axis=-1)
    mixed = build.add("MatMul", [weights.name, flat.name], flat.shape, 1.0)
    shape = build.store(f"r{len(build.nodes)}", np.array([0, channels, height, width]))
    return build.add("Reshape", [mixed.name, shape], x.shape, 1.0)


MAPS: tuple[Callable[[Builder, Value], Value], ...] = (
    convolution,
    convolution,
    convolution,
    transposed,
    norm,
    clip,
    clip,
    elementwise,
    moved,
    attention,
)
VECTORS: tuple[Callable[[Builder, Value], Value], ...] = (linear, linear, linear, clip, elementwise)


def random_graph(random: Random) -> tuple[ModelProto, Array]:
    """Return a float graph with an input called `image`, and samples [12, C, H, W] for it."""
    build = Builder(random)
    shape = (build.one_of([2, 3, 4]), build.one_of([4, 5, 6]), build.one_of([4, 5, 6]))
    x = Value("input", shape, 1.0)
    for _ in range(1 + random.randrange(5)):
        x = build.one_of(MAPS)(build, x)
        if build.often(0.1):
            build.outputs.append(x.name)
    if build.often(0.7):
        pooled = build.add("GlobalAveragePool", [x.name], (x.shape[0], 1, 1), x.size)
        x = build.add("Flatten", [pooled.name], (x.shape[0],), x.size)
        for _ in range(1 + random.randrange(3)):
            x = build.one_of(VECTORS)(build, x)
            if build.often(0.1):
                build.outputs.append(x.name)
    build.outputs = list(dict.fromkeys([*build.outputs, x.name]))
    samples = build.normal(SAMPLES, *shape) + np.float32(build.one_of([0.0, 0.0, 0.5, 3.0]))
    return _model(build, shape), samples


def _model(build: Builder, shape: tuple[int, ...]) -> ModelProto:
    graph = helper.make_graph(
        build.nodes,
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, *shape])],
        [onnx.ValueInfoProto(name=name) for name in build.outputs],
        [numpy_helper.from_array(array, name) for name, array in build.stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(inferred, full_check=True)
    return inferred
