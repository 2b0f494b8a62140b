"""The layers of an OpenVINO IR by their operations, and how a FakeQuantize quantizes.

A convolution and the addition of its bias are one layer. FakeQuantize is a quantizer, not a layer; an IR does not say
in which type the whole numbers will be held, so that signed is told where the range is centred on zero. Layers have
their ONNX names where the IR was made of an ONNX file. Bodies of loops are not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.analysis.cost import OPENVINO_WEIGHTED
from pipeline.export.openvino import openvino_specs, read_openvino
from pipeline.results.file_inspection import Quantizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import openvino

    from pipeline.core.artifact import TensorSpec

FAKE = "FakeQuantize"
#: What OpenVINO adds to the name of an ONNX node that it divides in two.
_WITHOUT_BIAS = "/WithoutBiases"
_ENDS = frozenset({"Parameter", "Result", "Constant"})
TYPES = {"i": "int", "u": "uint", "f": "float", "bf": "bfloat"}


@dataclass(frozen=True)
class IrLayers:
    """The operations of an IR that are layers, by name, and those that do not depend on the input."""

    model: openvino.Model
    fixed: frozenset[str]
    layers: Mapping[str, openvino.Node]

    def output(self, layer: openvino.Node) -> openvino.Output:
        """Return the port that a layer ends at: that of its bias where it has one."""
        port = layer.output(0)
        return next((each.output(0) for each in readers(port) if _is_bias(each, self.fixed)), port)

    def reads(self, layer: openvino.Node) -> Iterator[openvino.Output]:
        """Yield the ports that a layer reads and that depend on the input."""
        yield from (port for port in layer.input_values() if port.get_node().get_friendly_name() not in self.fixed)


def read_layers(file: Path, inputs: Sequence[TensorSpec] = ()) -> IrLayers:
    """Read an IR and tell its layers; `inputs` give sizes that it leaves open, the batch becomes 1 where it is open.

    Raises:
        InputError: the file is missing or OpenVINO cannot read it.
    """
    model = read_openvino(file)
    if model.is_dynamic():
        specs = inputs or openvino_specs(model)[0]
        model.reshape({spec.name: [max(size, 1) for size in spec.shape] for spec in specs})
    fixed: set[str] = set()
    layers: dict[str, openvino.Node] = {}
    for operation in model.get_ordered_ops():
        name, kind = operation.get_friendly_name(), operation.get_type_name()
        before = [port.get_node().get_friendly_name() for port in operation.input_values()]
        if kind == "Constant" or (before and all(each in fixed for each in before)):
            fixed.add(name)
        elif kind not in _ENDS and kind != FAKE and not _is_bias(operation, frozenset(fixed)):
            layers[name.removesuffix(_WITHOUT_BIAS)] = operation
    return IrLayers(model, frozenset(fixed), layers)


def described(fake: openvino.Node) -> Quantizer:
    """Describe how a FakeQuantize quantizes: its output range in as many levels as it has."""
    low, high = (np.asarray(fake.input_value(place).get_node().data, np.float64) for place in (3, 4))
    levels = int(fake.get_attributes()["levels"])
    scale = (high - low) / (levels - 1)
    points = np.divide(-low, scale, out=np.zeros_like(low), where=scale > 0)
    centred = bool((np.abs(points - levels // 2) < 1).all())
    axes = [axis for axis, size in enumerate(scale.shape) if size > 1]
    bits = (levels - 1).bit_length()
    port = fake.input_value(0)
    return Quantizer(
        tensor=port.any_name if port.names else port.get_node().get_friendly_name(),
        dtype=f"int{bits}" if centred else f"uint{bits}",
        bits=bits,
        scales=scale.size,
        axis=axes[0] if axes else None,
        scale_min=float(scale.min()),
        scale_max=float(scale.max()),
        zero_point_min=0 if centred else round(float(points.min())),
        zero_point_max=0 if centred else round(float(points.max())),
        low=float(low.min()),
        high=float(high.max()),
    )


def type_name(kind: openvino.Type) -> str:
    """Return numpy's name of an OpenVINO type: 'int8' for i8."""
    name = str(kind.get_type_name())
    letters = name.rstrip("0123456789")
    return TYPES[letters] + name.removeprefix(letters) if letters in TYPES else name


def readers(port: openvino.Output) -> list[openvino.Node]:
    """Return the operations that read a port."""
    return [target.get_node() for target in port.get_target_inputs()]


def fake_behind(port: openvino.Output) -> openvino.Node | None:
    """Return the FakeQuantize that makes a tensor, if one does."""
    node = port.get_node()
    return node if node.get_type_name() == FAKE else None


def constants(port: openvino.Output) -> list[openvino.Node]:
    """Return the constants that a fixed port is computed of."""
    node = port.get_node()
    if node.get_type_name() == "Constant":
        return [node]
    return [constant for source in node.input_values() for constant in constants(source)]


def _is_bias(operation: openvino.Node, fixed: frozenset[str]) -> bool:
    """Say whether this adds stored numbers right after a product, so that it is part of that layer."""
    if operation.get_type_name() != "Add":
        return False
    nodes = [port.get_node() for port in operation.input_values()]
    products = [node for node in nodes if node.get_type_name() in OPENVINO_WEIGHTED]
    others = [node for node in nodes if node.get_friendly_name() in fixed]
    return len(products) == 1 and len(others) == 1 and len(readers(products[0].output(0))) == 1
