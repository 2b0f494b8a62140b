"""Nodes of every operator that has a counterpart in torch, in each form that files have: tables by operator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper

from tests.unit.compress.quantization.graphs import floats, model_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    Array = NDArray[Any]

IMAGE, SEQUENCE = (2, 4, 9, 7), (2, 4, 11)
LEAST = -(2**63)


@dataclass(frozen=True)
class Case:
    """A node: the shape of its first input, the constants behind it ("" for one left out), attributes, outputs."""

    shape: tuple[int, ...]
    constants: tuple[Any, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 20
    to: int = 0

    def model(self, operator: str) -> ModelProto:
        """Return the graph: with `to` the input is cast before, with outputs of other types all are cast behind."""
        given = {f"c{place}": np.asarray(each) for place, each in enumerate(self.constants) if each is not None}
        names = [f"c{place}" if each is not None else "" for place, each in enumerate(self.constants)]
        made = [f"y{place}" for place in range(self.outputs)]
        before = [helper.make_node("Cast", ["input"], ["x"], "cast", to=self.to)] if self.to else []
        nodes = [
            *before,
            helper.make_node(operator, ["x" if self.to else "input", *names], made, "node", **self.attributes),
            *(
                helper.make_node("Cast", [each], [f"{each}.float"], f"{each}.cast", to=TensorProto.FLOAT)
                for each in made
            ),
        ]
        return model_of(nodes, {"input": self.shape}, [f"{each}.float" for each in made], given, self.opset)


def ints(*numbers: int) -> Array:
    """Return 64-bit integers."""
    return np.array(numbers, np.int64)


def window(**attributes: Any) -> dict[str, Any]:  # noqa: ANN401 - numbers and lists
    """Return attributes of a pooling over three pixels of each side."""
    return {"kernel_shape": [3, 3], **attributes}


POOLS: dict[str, Case] = {
    "plain": Case(IMAGE, (), window()),
    "strides": Case(IMAGE, (), window(strides=[2, 3])),
    "pads": Case(IMAGE, (), window(pads=[1, 1, 1, 1], strides=[2, 2])),
    "uneven pads": Case(IMAGE, (), window(pads=[0, 1, 2, 1], strides=[2, 1])),
    "wide pads": Case(IMAGE, (), window(pads=[2, 2, 2, 2])),
    "ceil": Case(IMAGE, (), window(strides=[2, 2], pads=[1, 0, 1, 0], ceil_mode=1)),
    "ceil, uneven": Case((1, 2, 8, 8), (), window(strides=[3, 2], pads=[0, 1, 1, 0], ceil_mode=1)),
    "ceil, last window outside": Case((1, 2, 4, 4), (), {"kernel_shape": [1, 2], "strides": [2, 3], "ceil_mode": 1}),
    "same upper": Case(IMAGE, (), window(strides=[2, 2], auto_pad="SAME_UPPER")),
    "same lower": Case(IMAGE, (), window(strides=[2, 2], auto_pad="SAME_LOWER")),
    "valid": Case(IMAGE, (), window(auto_pad="VALID")),
    "dilations": Case(IMAGE, (), window(dilations=[2, 2])),
    "dilations, pads, ceil": Case(IMAGE, (), window(dilations=[2, 1], pads=[2, 0, 1, 1], strides=[2, 2], ceil_mode=1)),
    "sequence": Case(SEQUENCE, (), {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}),
    "sequence, uneven": Case(SEQUENCE, (), {"kernel_shape": [4], "strides": [2], "pads": [0, 2]}),
    "volume": Case((1, 2, 5, 5, 5), (), {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}),
    "opset 22": Case(IMAGE, (), window(), opset=22),
}
COUNTED = {"kernel_shape": [3, 3], "count_include_pad": 1}
KERNEL, GROUPED = floats(6, 4, 3, 3), floats(8, 2, 3, 3)
BACK = floats(4, 6, 3, 3)

#: Cases of each operator by name: a table where one form is enough.
CASES: dict[str, dict[str, Case]] = {
    "AveragePool": {
        **POOLS,
        "counted": Case(IMAGE, (), {**COUNTED, "pads": [1, 1, 1, 1]}),
        "counted, uneven": Case(IMAGE, (), {**COUNTED, "pads": [1, 0, 0, 1], "strides": [2, 2]}),
        "counted, ceil": Case(IMAGE, (), {**COUNTED, "pads": [1, 0, 1, 0], "strides": [2, 3], "ceil_mode": 1}),
        "counted, dilations": Case(IMAGE, (), {**COUNTED, "pads": [1, 1, 1, 1], "dilations": [2, 2]}),
    },
    "MaxPool": POOLS,
    "Conv": {
        "plain": Case(IMAGE, (KERNEL,)),
        "bias": Case(IMAGE, (KERNEL, floats(6)), {"pads": [1, 1, 1, 1]}),
        "strides, dilations": Case(IMAGE, (KERNEL,), {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 2, 1, 2]}),
        "uneven pads": Case(IMAGE, (KERNEL, floats(6)), {"pads": [0, 1, 2, 0], "strides": [2, 2]}),
        "groups": Case(IMAGE, (GROUPED,), {"group": 2, "pads": [1, 1, 1, 1]}),
        "depthwise": Case(IMAGE, (floats(8, 1, 3, 3), floats(8)), {"group": 4}),
        "same upper": Case(IMAGE, (KERNEL,), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        "same lower": Case((1, 4, 8, 8), (KERNEL,), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        "valid": Case(IMAGE, (KERNEL,), {"auto_pad": "VALID"}),
        "sequence": Case(SEQUENCE, (floats(6, 4, 3), floats(6)), {"pads": [1, 1], "strides": [2]}),
        "sequence, uneven": Case(SEQUENCE, (floats(6, 2, 3),), {"pads": [2, 0], "group": 2, "dilations": [2]}),
        "volume": Case((1, 2, 4, 4, 4), (floats(3, 2, 2, 2, 2),), {"pads": [1, 0, 0, 0, 0, 1]}),
        "opset 22": Case(IMAGE, (KERNEL,), opset=22),
    },
    "ConvTranspose": {
        "plain": Case(IMAGE, (BACK,)),
        "strides, pads": Case(IMAGE, (BACK, floats(6)), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        "uneven pads": Case(IMAGE, (BACK,), {"strides": [2, 2], "pads": [0, 1, 2, 0]}),
        "output padding": Case(IMAGE, (BACK,), {"strides": [2, 3], "output_padding": [1, 2], "pads": [1, 1, 1, 1]}),
        "groups, dilations": Case(IMAGE, (floats(4, 3, 3, 3),), {"group": 2, "dilations": [2, 1]}),
        "same upper": Case(IMAGE, (BACK,), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        "same lower": Case(IMAGE, (BACK,), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
        "output shape": Case(IMAGE, (BACK,), {"strides": [2, 2], "output_shape": [18, 14]}),
        "sequence": Case(SEQUENCE, (floats(4, 3, 4),), {"strides": [2], "pads": [1, 1]}),
    },
    "BatchNormalization": {
        "input": Case(IMAGE, (floats(4), floats(4, seed=1), floats(4, seed=2), np.exp(floats(4, seed=3)))),
        "matrix": Case((3, 4), (floats(4), floats(4), floats(4), np.exp(floats(4))), {"epsilon": 0.1}, opset=15),
    },
    "Gemm": {
        "plain": Case((3, 4), (floats(4, 5),)),
        "rows": Case((3, 4), (floats(5, 4), floats(5)), {"transB": 1}),
        "factors": Case((4, 3), (floats(4, 5), floats(3, 5)), {"transA": 1, "alpha": 0.5, "beta": 2.0}),
        "scalar": Case((3, 4), (floats(4, 5), np.float32(0.5))),
    },
    "MatMul": {
        "matrix": Case((3, 4), (floats(4, 5),)),
        "batched": Case((2, 3, 4), (floats(4, 5),)),
        "broadcast": Case((2, 1, 3, 4), (floats(5, 4, 2),)),
        "vector": Case((3, 4), (floats(4),)),
    },
    "Reshape": {
        "literal": Case(IMAGE, (ints(2, 63, 4),)),
        "zero and rest": Case(IMAGE, (ints(0, -1, 7),)),
        "zeros allowed": Case((0, 3), (ints(3, 0),), {"allowzero": 1}),
        "scalar": Case((1, 1), (np.zeros(0, np.int64),)),
    },
    "Flatten": {
        "plain": Case(IMAGE),
        "axis 0": Case(IMAGE, (), {"axis": 0}),
        "axis 2": Case(IMAGE, (), {"axis": 2}),
        "negative": Case(IMAGE, (), {"axis": -1}),
        "vector": Case((5,)),
        "opset 21": Case(IMAGE, opset=21),
    },
    "Squeeze": {
        "axes": Case((1, 3, 1), (ints(0),)),
        "negative": Case((1, 3, 1), (ints(-1),)),
        "two": Case((1, 3, 1), (ints(0, 2),)),
        "all": Case((1, 3, 1)),
    },
    "Unsqueeze": {
        "axes": Case((3, 2), (ints(0, 3),)),
        "negative": Case((3, 2), (ints(-1, 0),)),
        "middle": Case((3, 2), (ints(1),)),
    },
    "Transpose": {"order": Case(IMAGE, (), {"perm": [0, 2, 3, 1]}), "reverse": Case(IMAGE)},
    "Concat": {
        "channels": Case(IMAGE, (floats(2, 1, 9, 7),), {"axis": 1}),
        "negative": Case(IMAGE, (floats(2, 4, 9, 1), floats(2, 4, 9, 2)), {"axis": -1}),
        "batch": Case(IMAGE, (floats(1, 4, 9, 7),), {"axis": 0}),
        "one": Case(IMAGE, (), {"axis": 1}),
    },
    "Split": {
        "sizes": Case(IMAGE, (ints(1, 3),), {"axis": 1}, outputs=2),
        "parts": Case(IMAGE, (), {"axis": -1, "num_outputs": 2}, outputs=2),
        "parts, the last smaller": Case(IMAGE, (), {"axis": 3, "num_outputs": 4}, outputs=4),
        "before opset 18": Case(IMAGE, (), {"axis": 1}, outputs=2, opset=13),
        "first axis": Case((4, 3), (ints(1, 1, 2),), outputs=3),
    },
    "Slice": {
        "all axes": Case(IMAGE, (ints(0, 1, 2, 3), ints(2, 3, 9, 4))),
        "negative": Case(IMAGE, (ints(-3), ints(-1), ints(-1))),
        "steps": Case(IMAGE, (ints(1, 0), ints(2**62, 2**63 - 1), ints(2, 3), ints(2, 3))),
        "backwards": Case(IMAGE, (ints(-1), ints(LEAST), ints(3), ints(-1))),
        "backwards by two": Case(IMAGE, (ints(6), ints(0), ints(3), ints(-2))),
        "nothing left": Case(IMAGE, (ints(5), ints(2), ints(2))),
        "beyond the end": Case(IMAGE, (ints(7), ints(100), ints(2))),
    },
    "Gather": {
        "numbers": Case(IMAGE, (ints(2, 0),), {"axis": 1}),
        "negative": Case(IMAGE, (ints(-1, -7),), {"axis": -1}),
        "one": Case(IMAGE, (np.int64(-1),), {"axis": 1}),
        "matrix": Case(IMAGE, (np.array([[0, 1], [3, -1]], np.int32),), {"axis": 1}),
    },
    "Pad": {
        "constant": Case(IMAGE, (ints(0, 0, 1, 2, 0, 0, 0, 3),)),
        "value": Case(IMAGE, (ints(0, 1, 1, 0, 0, 0, 2, 0), np.float32(-1.5))),
        "axes": Case(IMAGE, (ints(1, 0, 2, 1), np.float32(2), ints(-1, 2))),
        "cut": Case(IMAGE, (ints(0, 0, -1, 0, 0, 0, 2, -2),)),
        "reflect": Case(IMAGE, (ints(0, 0, 1, 2, 0, 0, 3, 1),), {"mode": "reflect"}),
        "edge": Case(IMAGE, (ints(0, 0, 1, 2, 0, 0, 3, 1),), {"mode": "edge"}),
        "wrap": Case(IMAGE, (ints(0, 0, 1, 2, 0, 0, 3, 1),), {"mode": "wrap"}),
        "reflect channels": Case(IMAGE, (ints(0, 1, 0, 0, 0, 1, 0, 0),), {"mode": "reflect"}),
        "edge of one axis": Case(IMAGE, (ints(2, 1), None, ints(3)), {"mode": "edge"}),
        "reflect a sequence": Case(SEQUENCE, (ints(0, 0, 2, 0, 0, 1),), {"mode": "reflect"}, opset=22),
    },
    "Expand": {
        "wider": Case((2, 1, 3), (ints(2, 4, 3),)),
        "more dimensions": Case((3,), (ints(2, 1),)),
    },
    "Tile": {"plain": Case((2, 3), (ints(2, 1),))},
    "Where": {"plain": Case((2, 3), (np.array([[1.0], [2.0]], np.float32), np.float32(0)), to=TensorProto.BOOL)},
    "Shape": {
        "whole": Case(IMAGE),
        "part": Case(IMAGE, (), {"start": 1, "end": -1}),
        "end": Case(IMAGE, (), {"start": -2}),
    },
    "Cast": {
        "to whole numbers": Case((3, 4), (), {"to": TensorProto.INT64}),
        "to truth": Case((3, 4), (), {"to": TensorProto.BOOL}),
        "to half": Case((3, 4), (), {"to": TensorProto.FLOAT16}),
        "to double": Case((3, 4), (), {"to": TensorProto.DOUBLE}),
    },
    "Clip": {
        "both": Case((3, 4), (np.float32(-0.5), np.float32(0.5))),
        "low": Case((3, 4), (np.float32(0),)),
        "high": Case((3, 4), (None, np.float32(0.25))),
        "none": Case((3, 4)),
    },
    "Softmax": {"last": Case(IMAGE), "axis": Case(IMAGE, (), {"axis": 1}), "negative": Case(IMAGE, (), {"axis": -2})},
    "LogSoftmax": {"last": Case(IMAGE), "axis": Case(IMAGE, (), {"axis": 1})},
    "LayerNormalization": {
        "last": Case((2, 3, 5), (floats(5), floats(5, seed=1))),
        "no bias": Case((2, 3, 5), (floats(5),), {"epsilon": 0.1}),
        "two axes": Case((2, 3, 5), (floats(3, 5), floats(3, 5, seed=1)), {"axis": 1}),
        "broadcast": Case((2, 3, 5), (floats(5), floats(1, 5)), {"axis": -2}),
    },
    "GroupNormalization": {
        "each channel": Case(IMAGE, (floats(4), floats(4, seed=1)), {"num_groups": 2}, opset=21),
    },
    "InstanceNormalization": {
        "input": Case(IMAGE, (floats(4), floats(4, seed=1)), {"epsilon": 0.01}),
        "opset 22": Case(SEQUENCE, (floats(4), floats(4, seed=1)), opset=22),
    },
    "PRelu": {
        "channels": Case(IMAGE, (np.abs(floats(4, 1, 1)),)),
        "one": Case(IMAGE, (np.float32([0.25]),)),
    },
    "Elu": {"plain": Case(IMAGE), "alpha": Case(IMAGE, (), {"alpha": 0.3})},
    "LeakyRelu": {"plain": Case(IMAGE), "alpha": Case(IMAGE, (), {"alpha": 0.3})},
    "Selu": {"plain": Case(IMAGE), "factors": Case(IMAGE, (), {"alpha": 1.2, "gamma": 0.9})},
    "HardSigmoid": {"plain": Case(IMAGE), "factors": Case(IMAGE, (), {"alpha": 1 / 6, "beta": 0.4})},
    "Gelu": {"exact": Case(IMAGE), "tanh": Case(IMAGE, (), {"approximate": "tanh"})},
    "DepthToSpace": {
        "depth first": Case((2, 8, 3, 2), (), {"blocksize": 2}),
        "column first": Case((2, 8, 3, 2), (), {"blocksize": 2, "mode": "CRD"}),
    },
    "SpaceToDepth": {"plain": Case((2, 3, 4, 6), (), {"blocksize": 2})},
    "Add": {"broadcast": Case(IMAGE, (floats(4, 1, 1),)), "whole numbers": Case((3,), (ints(2, 3, 4),), to=7)},
    "Sub": {"broadcast": Case(IMAGE, (floats(4, 1, 1),))},
    "Mul": {"broadcast": Case(IMAGE, (floats(1, 7),))},
    "Div": {
        "broadcast": Case(IMAGE, (floats(4, 1, 1),)),
        "whole numbers": Case((6,), (ints(2, 3, -2, 5, -3, 7),), to=TensorProto.INT64),
    },
    "Pow": {"square": Case(IMAGE, (np.float32(2),)), "whole": Case(IMAGE, (np.int64(3),))},
    "Max": {"three": Case(IMAGE, (floats(4, 1, 1), np.float32(0))), "one": Case(IMAGE)},
    "Min": {"three": Case(IMAGE, (floats(4, 1, 1), np.float32(0)))},
    "Sum": {"three": Case(IMAGE, (floats(4, 1, 1), floats(7))), "one": Case(IMAGE)},
    "Mean": {"three": Case(IMAGE, (floats(4, 1, 1), floats(7))), "one": Case(IMAGE)},
    "And": {"plain": Case((3,), (np.array([True, False, True]),), to=TensorProto.BOOL)},
    "Or": {"plain": Case((3,), (np.array([True, False, True]),), to=TensorProto.BOOL)},
    "Not": {"plain": Case((3,), (), to=TensorProto.BOOL)},
    "Equal": {"plain": Case((3,), (ints(0, 1, -1),), to=TensorProto.INT64)},
}
CASES |= {
    name: {"plain": Case(IMAGE, (floats(4, 1, 1),))} for name in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
}
CASES |= {
    name: {"plain": Case(IMAGE)}
    for name in (
        "Abs Cos Erf Exp GlobalAveragePool GlobalMaxPool HardSwish Identity Mish Neg Reciprocal Relu Sigmoid Sin "
        "Softplus Tanh"
    ).split()
}
CASES |= {name: {"of squares": Case((3, 4))} for name in ("Log", "Sqrt")}
CASES |= {
    name: {
        "axes": Case(IMAGE, (ints(2, 3),)),
        "negative": Case(IMAGE, (ints(-1),), {"keepdims": 0}),
        "all": Case(IMAGE, (), {"keepdims": 0}),
        "none": Case(IMAGE, (np.zeros(0, np.int64),), {"noop_with_empty_axes": 1}),
        "attribute": Case(IMAGE, *(((ints(1),), {}) if name == "ReduceSum" else ((), {"axes": [1]})), opset=13),
    }
    for name in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceSumSquare")
}
for reduction in ("ReduceL2", "ReduceSumSquare"):  # onnxruntime still takes the square of each value then
    del CASES[reduction]["none"]

TWICE, SHRUNK, ODD = np.float32([1, 1, 2, 2]), np.float32([1, 1, 0.6, 0.5]), ints(2, 4, 13, 5)
CASES["Resize"] = {
    f"{mode} {transformation} {name} {rounding}".strip(): Case(
        IMAGE,
        (None, *constants),
        {"mode": mode, "coordinate_transformation_mode": transformation}
        | ({"nearest_mode": rounding} if rounding else {}),
    )
    for mode in ("nearest", "linear", "cubic")
    for transformation in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
    for name, constants in {
        "twice": (TWICE,),
        "shrunk": (SHRUNK,),
        "to sizes": (None, ODD),
        "to one pixel": (None, ints(2, 4, 1, 14)),
    }.items()
    for rounding in (("round_prefer_floor", "round_prefer_ceil", "floor", "ceil") if mode == "nearest" else ("",))
}
CASES["Resize"] |= {
    "axes": Case(IMAGE, (None, None, ints(12, 3)), {"axes": [2, 3], "mode": "linear"}),
    "cubic, outside left out": Case(
        IMAGE, (None, TWICE), {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5}
    ),
    "sequence": Case(SEQUENCE, (None, np.float32([1, 1, 2])), {"mode": "linear"}),
    "sequence, nearest": Case(
        SEQUENCE,
        (None, np.float32([1, 1, 3])),
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    "opset 18": Case(IMAGE, (None, TWICE), {"mode": "linear"}, opset=18),
}
