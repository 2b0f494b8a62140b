"""What decides the time of one node of a file: the class of its operator, and the sizes that its work grows with.

A node's time is a call, its multiplications, the values that it reads and writes, and what kernels lose at the edge of
widths that are no multiple of what they compute at once: such a width can be slower than the next wider one.
Quantizers around integer layers and activations are fused into their neighbours by the runtimes, and reshapes move
nothing: these have no time of their own, unless a profile of the file names them.

Source: bilinear costs of layers in their input and output widths, as in Shen et al., MDP, CVPR 2025, here for the whole
file; times by class of operator as in nn-Meter (Zhang et al., MobiSys 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline.compress.pruning.graph import Axis
    from pipeline.pricing.nodes import FileNode

Kind = Literal["call", "macs", "reads", "writes", "weights", "edge4", "edge8", "edge16", "inner4", "inner8", "inner16"]

#: Operators that a runtime fuses into their neighbours or that move nothing.
FOLDED = frozenset(
    "QuantizeLinear DequantizeLinear Relu Clip Identity Reshape Flatten Squeeze Unsqueeze Constant Shape Dropout "
    "ConstantOfShape BatchNormalization".split()
)
_CONVOLUTIONS = frozenset("Conv ConvTranspose ConvInteger QLinearConv".split())
_MULTIPLYING = frozenset("Gemm MatMul MatMulInteger QGemm QLinearMatMul".split())

#: What is expected of a CPU before anything was measured; only the proportions matter.
_CALL_SECONDS = 2e-6
_BYTES_PER_SECOND = 1e10
_MACS_PER_SECOND = {"float": 2e10, "integer": 6e10, "depthwise": 8e9}
_EDGES_PER_SECOND = 5e8  # places of the output
_EDGE_OF_MACS = 0.03
_EDGE_KINDS: dict[str, tuple[tuple[int, Kind], ...]] = {
    "edge": ((4, "edge4"), (8, "edge8"), (16, "edge16")),
    "inner": ((4, "inner4"), (8, "inner8"), (16, "inner16")),
}


@dataclass(frozen=True)
class Term:
    """A product: `constant` times the sizes of `axes`, each of which a width changes.

    With an `edge` it is 0 where that size is a multiple of `step`.
    """

    constant: float
    axes: tuple[Axis, ...]
    edge: Axis | None = None
    step: int = 1


@dataclass(frozen=True)
class Feature:
    """What a part of a node's time is proportional to: the sum of `terms`.

    `seconds` is a first guess for the whole network, for edges where no width is a multiple.
    """

    node: str
    kind: Kind
    operator: str
    terms: tuple[Term, ...]
    blocks: frozenset[str]
    seconds: float

    @property
    def step(self) -> int:
        """What the edge's size is a multiple of where nothing is lost; 0 without an edge."""
        return self.terms[0].step if self.terms[0].edge else 0


def features_of(node: FileNode, whole: Mapping[str, int], *, timed: bool | None = None) -> tuple[Feature, ...]:
    """Return what the time of a node grows with; nothing for one without time of its own.

    Args:
        node: the node.
        whole: the width of every group of the whole network.
        timed: whether a profile names the node; None when there is none.
    """
    if node.operator in FOLDED and not timed:
        return ()
    operator = operator_class(node)
    found: list[tuple[Kind, tuple[Term, ...], float]] = [("call", (Term(1, ()),), _CALL_SECONDS)]
    if macs := _macs(node):
        rate = _MACS_PER_SECOND[_arithmetic(node, operator)]
        found.append(("macs", macs, _value(macs, whole) / rate))
    value_bytes = 1 if node.integers else 4
    activations = [shape for place, shape in enumerate(node.inputs) if place not in node.constant]
    weights = [shape for place, shape in enumerate(node.inputs) if place in node.constant]
    moved: list[tuple[Kind, list[tuple[Axis, ...]]]] = [("reads", activations), ("writes", list(node.outputs))]
    if node.operator in _MULTIPLYING:
        moved.append(("weights", weights))
    for kind, shapes in moved:
        if terms := tuple(term_of(shape) for shape in shapes if shape):
            found.append((kind, terms, _value(terms, whole) * value_bytes / _BYTES_PER_SECOND))
    if macs:
        found += _edges(node, macs[0], whole)
    return tuple(
        Feature(node.name, kind, operator, terms, node.blocks, seconds) for kind, terms, seconds in found if seconds > 0
    )


def operator_class(node: FileNode) -> str:
    """Return the class of nodes that a runtime is expected to compute alike: 'depthwise3x3s2 int8', 'linear float'."""
    precision = "int8" if node.integers else "float"
    if node.operator in _CONVOLUTIONS:
        kernel = "x".join(str(size) for size in _kernel(node))
        strides = node.attributes.get("strides") or (1,)
        stride = f"s{max(strides)}" if max(strides) > 1 else ""
        kind = "depthwise" if is_depthwise(node) else "grouped" if _groups(node) > 1 else "conv"
        first = "first " if kind == "conv" and not _weight(node)[1].per_class else ""  # of few channels, as they come
        transposed = "transposed " if node.operator == "ConvTranspose" else ""
        return f"{first}{transposed}{kind}{kernel}{stride} {precision}"
    if node.operator in _MULTIPLYING:
        return f"{'linear' if node.constant else 'matmul'} {precision}"
    return f"{node.operator} {precision}"


def is_depthwise(node: FileNode) -> bool:
    """Return whether every channel has a kernel of its own."""
    weight = _weight(node)
    return node.operator in _CONVOLUTIONS and _groups(node) > 1 and not weight[1].per_class and weight[1].fixed == 1


def term_of(axes: Iterable[Axis], constant: float = 1) -> Term:
    """Return a product of sizes with those that no width changes multiplied out."""
    axes = tuple(axes)
    fixed = prod(axis.fixed for axis in axes if not axis.per_class)
    return Term(constant * fixed, tuple(axis for axis in axes if axis.per_class))


def _macs(node: FileNode) -> tuple[Term, ...]:
    if node.operator in _CONVOLUTIONS:
        image = node.inputs[0] if node.operator == "ConvTranspose" else node.outputs[0]
        return (term_of((*image[:1], *image[2:], *_weight(node))),)
    if node.operator in _MULTIPLYING:
        return (term_of((*node.outputs[0], node.inputs[0][-1])),)
    return ()


def _edges(node: FileNode, macs: Term, whole: Mapping[str, int]) -> list[tuple[Kind, tuple[Term, ...], float]]:
    """Return what a multiplying node loses at the edges of what it makes and of what it sums over.

    Integer kernels lose some time for every place of the output, float kernels a part of all multiplications.
    """
    convolves = node.operator in _CONVOLUTIONS
    weight = _weight(node)
    made = node.outputs[0][1 if convolves else -1]
    summed = weight[1] if convolves else node.inputs[0][-1]
    if node.integers:
        places = (*node.outputs[0][:1], *node.outputs[0][2:]) if convolves else node.outputs[0][:-1]
        base = term_of((*places, *(weight[2:] if is_depthwise(node) else ())))
        rate = _EDGES_PER_SECOND
    else:
        base, rate = macs, _MACS_PER_SECOND["float"] / _EDGE_OF_MACS
    seconds = _value([base], whole) / rate
    sides: list[tuple[Literal["edge", "inner"], Axis]] = [("edge", made), ("inner", summed)]
    found: list[tuple[Kind, tuple[Term, ...], float]] = []
    for side, axis in sides:
        for step, kind in _EDGE_KINDS[side]:
            if axis.per_class:
                found.append((kind, (Term(base.constant, base.axes, axis, step),), seconds))
    return found


def _weight(node: FileNode) -> Sequence[Axis]:
    return node.inputs[3 if node.operator == "QLinearConv" else 1]


def _kernel(node: FileNode) -> list[int]:
    return [axis.fixed for axis in _weight(node)[2:]]


def _groups(node: FileNode) -> int:
    return int(node.attributes.get("group", 1))


def _arithmetic(node: FileNode, operator: str) -> str:
    if operator.startswith("depthwise"):
        return "depthwise"
    return "integer" if node.integers else "float"


def _value(terms: Iterable[Term], whole: Mapping[str, int]) -> float:
    """Return the sum of products for the whole network, edges left out."""
    return sum(term.constant * prod(size_of(axis, whole) for axis in term.axes) for term in terms)


def size_of(axis: Axis, widths: Mapping[str, int]) -> float:
    """Return the size of a dimension at these widths of all groups."""
    return axis.fixed + sum(count * widths[group] for group, count in axis.per_class.items())
