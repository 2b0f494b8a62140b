"""Times of an ONNX file's nodes in onnxruntime: the events of its profile, and which nodes a fused kernel stands for.

The profile names kernels as the optimised graph does. Fusions (QDQ units to QLinearConv, Conv with Relu) keep the names
of tensors, so that the graph as it is before memory layouts change tells what each kernel computes: all nodes of the
file between what it reads and what it makes. Changing the layout renames nodes once more, by endings that are taken off
(`_nchwc` after the output's name, `_token_<n>` and `_nhwc` after the node's). Additions that a convolution takes in
while layouts change leave no trace: such nodes are told neither a time nor a kernel.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime

from pipeline.analysis.cost import ONNX_WEIGHTED
from pipeline.analysis.times import WARM_UP, NodeTime, NodeTimes, middle_mean
from pipeline.core.errors import InputError, first_line
from pipeline.onnx_graph.execution import session_options
from pipeline.onnx_graph.file import read_onnx
from pipeline.onnx_graph.links import value_producers
from pipeline.onnx_graph.wiring import CONVERTERS, FileWiring

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto, NodeProto

    from pipeline.analysis.feeds import Feed
    from pipeline.results.file_inspection import Precision

KERNEL = "_kernel_time"
_LAYOUT = re.compile(r"(?P<tensor>.+)_nchwc(_token_\d+)?|(?P<node>.+?)(_nhwc)?(_token_\d+)?")
_ON_INTEGERS = re.compile("^Q|Integer|Quantize")
_PRECISIONS: dict[str, Precision] = {
    "uint8": "int8",
    "int8": "int8",
    "uint16": "int16",
    "int16": "int16",
    "float": "float32",
    "float16": "float16",
    "double": "float64",
}


@dataclass
class _Kernel:
    operator: str
    reads: str
    microseconds: list[float] = field(default_factory=list)


def profile(file: Path, feed: Feed, *, runs: int, threads: int) -> NodeTimes:
    """Profile a file. Raises InputError when it is no ONNX model or onnxruntime refuses it."""
    wiring = FileWiring(read_onnx(file))
    with tempfile.TemporaryDirectory() as folder:
        fused = _before_layouts(wiring.model, Path(folder) / "fused.onnx", file)
        kernels = _kernels(wiring.model, feed, Path(folder), runs=runs, threads=threads)
    meaning = _Meaning(wiring, fused, frozenset(kernels))
    found = tuple(_node_time(name, kernel, meaning) for name, kernel in kernels.items())
    return NodeTimes("onnxruntime", onnxruntime.__version__, threads, runs, found)


def _node_time(name: str, kernel: _Kernel, meaning: _Meaning) -> NodeTime:
    nodes = meaning.nodes(name)
    return NodeTime(
        name=meaning.chief(nodes) or name,
        operator=kernel.operator,
        nanoseconds=1000 * middle_mean(kernel.microseconds),
        nodes=nodes,
        precision=_PRECISIONS.get(kernel.reads),
        own=bool(nodes),
    )


def _before_layouts(model: ModelProto, path: Path, file: Path) -> ModelProto:
    """Return the graph with everything fused and nothing laid out for the processor yet."""
    options = session_options(1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exception classes are private
        raise InputError(f"{file} cannot be opened by onnxruntime: {first_line(error)}") from error
    return onnx.load(path)


def _kernels(model: ModelProto, feed: Feed, folder: Path, *, runs: int, threads: int) -> dict[str, _Kernel]:
    """Run with all optimisations and return the kernels by name, each with its times."""
    options = session_options(threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for _ in range(WARM_UP + runs):
            session.run(None, feed)
    except Exception as error:  # onnxruntime's exception classes are private
        raise InputError(f"onnxruntime cannot profile it: {first_line(error)}") from error
    events = json.loads(Path(session.end_profiling()).read_text())
    found: dict[str, _Kernel] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            name = event["name"].removesuffix(KERNEL)
            kernel = found.setdefault(name, _Kernel(event["args"]["op_name"], _read_type(event)))
            kernel.microseconds.append(float(event["dur"]))
    for kernel in found.values():
        per_run = len(kernel.microseconds) // (WARM_UP + runs)
        kernel.microseconds = kernel.microseconds[WARM_UP * per_run :]
    return found


def _read_type(event: Mapping[str, Any]) -> str:
    """Return onnxruntime's name of the type that a kernel computes in: that of its first input, 'uint8' or 'float'.

    Integer kernels may read a scale first, or floats that they quantize themselves: theirs is that of whole numbers.
    """
    types = [name for each in event["args"].get("input_type_shape") or () for name in each]
    operator = event["args"]["op_name"]
    if operator not in CONVERTERS and _ON_INTEGERS.search(operator):
        types = [name for name in types if "int" in name]
    return types[0] if types else ""


class _Meaning:
    """Finds the nodes of the file that a kernel computes."""

    def __init__(self, wiring: FileWiring, fused: ModelProto, kernels: frozenset[str]) -> None:
        self.wiring = wiring
        self.kernels = kernels
        self.made: dict[str, NodeProto] = {node.name: node for node in wiring.model.graph.node}
        self.makers: dict[str, NodeProto] = value_producers(fused.graph)
        self.members = self._members(fused)

    def nodes(self, kernel: str) -> tuple[str, ...]:
        """Return the names of the file's nodes in the order of computation; none for what the runtime added."""
        if kernel in self.members:
            return self.members[kernel]
        ending = _LAYOUT.fullmatch(kernel)
        if ending is None:
            return ()
        if ending["tensor"]:
            maker = self.makers.get(ending["tensor"])
            return self.members[maker.name] if maker is not None else ()
        # A name that is a kernel's own belongs to that one, whatever else begins like it.
        return () if ending["node"] in self.kernels else self.members.get(ending["node"], ())

    def chief(self, nodes: tuple[str, ...]) -> str | None:
        """Return the node that a kernel counts for: one that multiplies by weights, else the first that computes."""
        computing = [name for name in nodes if self.made[name].op_type not in CONVERTERS] or list(nodes)
        return next(
            (name for name in computing if self.made[name].op_type in ONNX_WEIGHTED), next(iter(computing), None)
        )

    def _members(self, fused: ModelProto) -> dict[str, tuple[str, ...]]:
        """Return the file's nodes in each fused node: that of its name, and all between what it makes and reads."""
        owner = {node.name: node.name for node in fused.graph.node if node.name in self.made}
        place = {name: index for index, name in enumerate(self.made)}
        found: dict[str, tuple[str, ...]] = {}
        for node in fused.graph.node:
            between = self._between(node, owner)
            owner |= dict.fromkeys(between, node.name)
            own = between | ({node.name} & set(self.made))
            found[node.name] = tuple(sorted(own, key=place.__getitem__))
        return found

    def _between(self, node: NodeProto, owner: Mapping[str, str]) -> set[str]:
        """Return the file's nodes from what a fused node makes back to what it reads, or to those of another.

        The runtime may have moved a converter, so that what is read has a name that the file does not know.
        """
        ends = set(node.input)
        found, waiting = set[str](), [name for name in node.output if name]
        while waiting:
            name = waiting.pop()
            maker = self.wiring.made_by.get(name)
            if maker is None or name in self.wiring.fixed or maker.name in found:
                continue
            if owner.get(maker.name, node.name) != node.name:
                continue
            found.add(maker.name)
            waiting.extend(each for each in maker.input if each and each not in ends)
        return found
