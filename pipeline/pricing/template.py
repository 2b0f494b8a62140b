"""A file as a function of widths and residual blocks: files for probing are cut out of one, in milliseconds each.

A network's file is exported whole and at a few other widths. Each size in it (of tensors, in shapes that nodes are
given, in attributes) is the function of the widths that it has in all of them, and one more file proves that. Then a
file for any widths is the whole one with its tensors cut to those sizes. Its values are those of other channels, which
times do not depend on.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from pipeline.compress.pruning.graph.groups import sizes_by_width
from pipeline.core.errors import InputError
from pipeline.pricing.file_blocks import FileBlocks, match_biases
from pipeline.pricing.file_nodes import describe_nodes
from pipeline.pricing.places import FileNumbers, Place, is_sizes, read_numbers
from pipeline.pricing.widths import Narrower, NoTemplateError, SizeTable, size_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.compress.pruning.depth import ResidualBlock
    from pipeline.compress.pruning.graph import Axis, ChannelGraph
    from pipeline.compress.pruning.state import NetworkState

    Widths = Mapping[str, int]
    Make = Callable[[Widths], ModelProto]
    Functions = Mapping[Place, Axis]

#: Real files that are made at most.
_MOST_FILES = 6


def infer_template(
    make: Make, graph: ChannelGraph, grids: Mapping[str, Sequence[int]], blocks: Sequence[ResidualBlock]
) -> FileTemplate:
    """Return the template of a network's file.

    Args:
        make: makes the real file with these kept widths by group; groups that are not named are whole.
        graph: the network's channels, as `trace_channels` found them.
        grids: the widths that each group may have, ascending, the whole one last; groups that are not named stay whole.
        blocks: the residual blocks that may leave, in the order of the graph.

    Raises:
        NoTemplateError: a size is no function of the widths that can be told, the file has other nodes at other widths,
            or a block is not found in it.

    Cost: three real files in most networks, six at most.
    """
    if graph.walk is None:
        raise InputError("The graph has no walk: expected what trace() returned.")
    whole = {group.name: group.width for group in graph.groups if len(grids.get(group.name, ())) > 1}
    kept = {group.name: group.width for group in graph.groups if group.name not in whole}
    narrower = Narrower(whole, sizes_by_width(graph.walk), kept)
    files = [read_numbers(make({} if widths == whole else widths)) for widths in narrower.networks]
    functions = _functions(make, files, narrower, grids)
    layers = {name.rpartition(".")[0] for name in graph.shapes}
    return FileTemplate(files[0], functions, (whole, kept), FileBlocks.found(files[0], blocks, layers))


def _functions(
    make: Make, files: list[FileNumbers], narrower: Narrower, grids: Mapping[str, Sequence[int]]
) -> dict[Place, Axis]:
    """Return the function of each number of a file, proved on a further one; `files` are those of the networks."""
    source = random.Random(1)  # noqa: S311 - nothing secret
    for other in files[1:]:
        files[0].require_like(other)
    trouble = ""
    while len(files) < _MOST_FILES:
        functions, trouble = _told(files, narrower)
        # what is not told apart yet needs one more network, what is needs a proof at widths of the grids
        widths = narrower.add() if trouble else {name: source.choice([*grids[name]][:-1]) for name in narrower.whole}
        made = read_numbers(make(widths))
        files[0].require_like(made)
        if not trouble:
            trouble = _difference(functions, made, files[0], narrower.whole, widths)
            if not trouble:
                return functions
            narrower.add(widths)
        files.append(made)
    raise NoTemplateError(trouble)


def _told(files: Sequence[FileNumbers], narrower: Narrower) -> tuple[dict[Place, Axis], str]:
    """Return the function of each number, and what cannot be told; empty where all can."""
    functions: dict[Place, Axis] = {}
    for place in files[0].numbers:
        found = [each.numbers[place] for each in files]
        function = narrower.function_of(found)
        if function is None:
            numbers = ", ".join(map(str, found))
            return functions, (
                f"{_said(place, files[0])} is {numbers} in {len(files)} files: no one size of the network changes like "
                "that"
            )
        functions[place] = function
    return functions, ""


def _difference(
    functions: Functions, made: FileNumbers, file: FileNumbers, whole: Mapping[str, int], widths: Mapping[str, int]
) -> str:
    """Say where a file is another than its functions tell; empty where it is not."""
    for place, function in functions.items():
        expected, found = size_at(function, whole, widths), made.numbers[place]
        if expected != found:
            return f"{_said(place, file)} is {found} in a file made to prove the template, which says {expected}"
    return ""


def _said(place: Place, file: FileNumbers) -> str:
    node = file.model.graph.node[place.node]
    return f"{place.kind} {place.slot}[{place.at}] of node {node.name} ({node.op_type})"


class FileTemplate:
    """A file of which every size is a function of the state.

    `nodes` describes it, `whole` are the widths of the groups that may be narrower, `kept` those of the others.
    """

    def __init__(
        self, file: FileNumbers, functions: Functions, widths: tuple[Widths, Widths], blocks: FileBlocks
    ) -> None:
        """Take the whole file, the function of each of its numbers, `whole` and `kept`, and where its blocks are."""
        self.whole, self.kept = widths
        self._blocks = blocks
        self._table = SizeTable(self.whole)
        self._tensors: dict[tuple[str, tuple[int, ...], tuple[int, ...]], _Tensor] = {}
        self._skeleton = _without_tensors(file.model)
        self._attributes = [
            (place.node, str(place.slot), place.at, self._table.add(function))
            for place, function in functions.items()
            if place.kind == "attribute" and function.per_class
        ]
        self._collect(file, functions)
        self.nodes = describe_nodes(file, functions, blocks)

    def file_at(self, state: NetworkState) -> ModelProto:
        """Return the file of a state: its sizes and operators are those of a real one, its numbers are not.

        Where a dropped block leaves two equal Relu or Clip behind each other, or a tensor rounded twice, the second
        leaves too, as in a real export.

        Raises:
            InputError: a group or a block is not in the template, or a width is not among 1 .. whole.
        """
        self._check(state)
        sizes = self._table.sizes(state.widths)
        model: ModelProto = ModelProto.FromString(self._skeleton)
        for node, name, at, place in self._attributes:
            attribute = next(each for each in model.graph.node[node].attribute if each.name == name)
            if attribute.type == onnx.AttributeProto.INT:
                attribute.i = int(sizes[place])
            else:
                attribute.ints[at] = int(sizes[place])
        self._blocks.drop(model.graph, state.dropped)
        read = {value for node in model.graph.node for value in node.input}
        model.graph.initializer.extend(each.cut(sizes) for each in self._tensors.values() if each.name in read)
        if state.dropped:
            match_biases(model.graph)
        return model

    def _check(self, state: NetworkState) -> None:
        for name, width in state.widths.items():
            if not 1 <= width <= self.whole.get(name, 0) and width != self.kept.get(name):
                allowed = f"1 to {self.whole[name]}" if name in self.whole else f"groups {', '.join(self.whole)}"
                raise InputError(
                    f"Group {name} with {width} channels is not in the file's template: expected {allowed}"
                )
        if unknown := state.dropped - self._blocks.names:
            raise InputError(f"Blocks {', '.join(sorted(unknown))} are not in the file's template")

    def _collect(self, file: FileNumbers, functions: Functions) -> None:
        """Note how each stored tensor is cut; one that nodes read at different sizes becomes several."""
        stored = {tensor.name: tensor for tensor in file.model.graph.initializer}
        skeleton = ModelProto.FromString(self._skeleton)
        taken = {value for node in skeleton.graph.node for value in (*node.input, *node.output)}
        seen: set[str] = set()
        for number, node in enumerate(skeleton.graph.node):
            for slot, value in enumerate(node.input):
                if value in stored:
                    tensor = stored[value]
                    dims, numbers = self._places(functions, number, slot, tensor)
                    if is_sizes(tensor, node) and any(self._table.axes[each].per_class for each in dims):
                        raise NoTemplateError(f"node {node.name} ({node.op_type}) reads indices that depend on widths")
                    key = (value, dims, numbers)
                    if key not in self._tensors:
                        name = _free(value, taken) if value in seen else value
                        seen.add(value)
                        self._tensors[key] = _Tensor(name, tensor, dims, numbers, self._table.axes)
                    node.input[slot] = self._tensors[key].name
        self._skeleton = skeleton.SerializeToString()

    def _places(
        self, functions: Functions, number: int, slot: int, tensor: onnx.TensorProto
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the places in the table of a stored tensor's sizes, and of the numbers that it states."""
        dims = (functions[Place("stored", number, slot, at)] for at in range(len(tensor.dims)))
        numbers = (Place("number", number, slot, at) for at in range(int(np.prod(tensor.dims, dtype=np.int64))))
        first = Place("number", number, slot, 0)
        stated = [functions[place] for place in numbers] if first in functions else []
        return tuple(map(self._table.add, dims)), tuple(map(self._table.add, stated))


class _Tensor:
    """A stored tensor and the places in the table of the sizes that it is cut to, and of the numbers it states."""

    def __init__(
        self, name: str, tensor: onnx.TensorProto, dims: Sequence[int], numbers: Sequence[int], axes: Sequence[Axis]
    ) -> None:
        self.name = name
        self._array: NDArray[Any] = numpy_helper.to_array(tensor)
        self._dims, self._numbers = dims, numbers
        varies = any(axes[place].per_class for place in (*dims, *numbers))
        self._always = None if varies else numpy_helper.from_array(self._array, name)

    def cut(self, sizes: NDArray[np.int64]) -> onnx.TensorProto:
        """Return the tensor for these sizes."""
        if self._always is not None:
            return self._always
        if self._numbers:
            stated = sizes[list(self._numbers)].astype(self._array.dtype).reshape(self._array.shape)
            return numpy_helper.from_array(stated, self.name)
        kept = self._array[tuple(slice(int(sizes[place])) for place in self._dims)]
        return numpy_helper.from_array(np.ascontiguousarray(kept), self.name)


def _free(name: str, taken: set[str]) -> str:
    number = next(number for number in range(2, len(taken) + 3) if f"{name}_{number}" not in taken)
    taken.add(f"{name}_{number}")
    return f"{name}_{number}"


def _without_tensors(model: ModelProto) -> bytes:
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.initializer[:], copy.graph.value_info[:]
    return bytes(copy.SerializeToString())
