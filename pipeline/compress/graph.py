"""Coupled channels: which slices of which tensors must be removed together, read from the exported graph.

The network is captured by `torch.export` (evaluation mode, symbolic batch). Every dimension of every stored tensor gets
atoms, and the rules of graph_rules.py carry them through the graph. What remains free is grouped: classes that own
slices of the same dimensions of the same tensors form one group, such as the channels of a residual stage.

Source: the notion of dependency groups is that of DepGraph (Fang et al., CVPR 2023); joining positions on the operator
graph instead of module types, with unknown operators freezing what they touch, is this project's.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from pipeline.compress.graph_labels import SYMBOLIC, Atoms, Label, Labels, Rule, Site, Value, unknown
from pipeline.compress.graph_rules import LAYOUT, RULES
from pipeline.compress.inference import first_line, inference
from pipeline.compress.tensors import overlapping, shared_names, stored_tensors
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.fx import Node

Slot = tuple[str, int]

_INPUT = 1


@dataclass(frozen=True)
class Member:
    """The slices of one dimension of one tensor that a group owns.

    `positions` [width, k]: the indices along `dim` that each class owns. `consumes`: this is the input side of a layer,
    which sums over the group's channels.
    """

    tensor: str
    dim: int
    positions: NDArray[np.int64]
    consumes: bool


@dataclass(frozen=True)
class Group:
    """Channels that can be removed one by one. A class is one channel with everything that leaves with it.

    `name` is the layer that first produces the channels, `width` the number of classes.
    """

    name: str
    width: int
    members: tuple[Member, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers whose output channels these are, in the order of the forward pass."""
        return tuple(dict.fromkeys(layer_of(member.tensor) for member in self.members if not member.consumes))


@dataclass(frozen=True)
class Frozen:
    """A dimension of a tensor that is kept whole, or in part, and why. `consumes` as in `Member`."""

    tensor: str
    dim: int
    reason: str
    consumes: bool


@dataclass(frozen=True)
class ChannelGraph:
    """All groups of a network, what is kept whole and why, and the sizes of its tensors.

    `aliases` has, for a tensor that several layers share, all its names; groups mention only the first.
    """

    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    shapes: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, tuple[str, ...]]


def layer_of(tensor: str) -> str:
    """Return the qualified name of the module that owns a tensor: 'layer1.0.conv1' for 'layer1.0.conv1.weight'."""
    return tensor.rpartition(".")[0] or tensor


def trace(model: nn.Module, example: Tensor) -> ChannelGraph:
    """Find the coupled channels of a network with one input.

    Args:
        model: any module that `torch.export` can capture.
        example: an input [batch, ...] with a batch of two or more; its values do not matter.

    Raises:
        InputError: the network cannot be exported with a batch of any size.

    Limits: `self.x = tensor` attributes that are not buffers, and everything that sums or mixes channels without
    weights (attention scores, layer norm, channel means), keep the channels they touch whole.
    """
    return _Tracer(model, capture(model, example)).graph()


def capture(model: nn.Module, example: Tensor) -> ExportedProgram:
    """Export the network in evaluation mode with a symbolic batch dimension."""
    if len(example) < 2:  # noqa: PLR2004 - torch.export treats a batch of one as a constant
        raise InputError(f"The example has a batch of {len(example)}; expected 2 or more.")
    try:
        with inference(model):
            return torch.export.export(model, (example,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)
    except Exception as error:
        raise InputError(
            f"The network cannot be exported with a batch of any size. torch.export: {first_line(error)} "
            "Expected a forward without branches on values and without a fixed batch: x.flatten(1) instead of "
            "x.view(1, -1)."
        ) from error


class _Tracer:
    """One walk over an exported graph. Atoms are numbered by stored tensor, dimension and position."""

    def __init__(self, model: nn.Module, program: ExportedProgram) -> None:
        """Give atoms to every stored tensor of floating point; names of shared tensors share them."""
        signature = program.graph_signature
        self._nodes = program.graph.nodes
        self._user_inputs = frozenset(signature.user_inputs)
        self._tensors = stored_tensors(model)
        self._shared = shared_names(self._tensors)
        first = {name: names[0] for names in self._shared for name in names}
        stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self._names = {node: first[name] for node, name in stored.items()}
        self._slots: dict[Slot, NDArray[np.int64]] = {}
        count = 1  # atom 1 is the network's input
        for name in dict.fromkeys(first.values()):
            if self._tensors[name].is_floating_point():
                for dim, size in enumerate(self._tensors[name].shape):
                    if size > 1:
                        self._slots[name, dim] = np.arange(count + 1, count + size + 1)
                        count += size
        self._atoms = Atoms(count)
        self._consumed = np.zeros(count + 1, np.bool_)
        self._values: dict[Any, Any] = {}
        self._used: dict[str, None] = {}

    def graph(self) -> ChannelGraph:
        """Walk, then collect what is free and what is not."""
        self._atoms.freeze(np.array([_INPUT]), "input of the network")
        for name in overlapping(self._tensors):
            self._freeze(name, "shares memory with a tensor of another shape")
        for node in self._nodes:
            if node.op == "call_function":
                self._values[node] = self._call(node)
            elif node.op == "output":
                self._finish(node)
            else:
                self._values[node] = self._given(node)
        for name in {name for name, _ in self._slots} - self._used.keys():
            self._freeze(name, "not used in evaluation")
        return ChannelGraph(
            groups=tuple(self._groups()),
            frozen=tuple(self._frozen()),
            shapes={name: tuple(tensor.shape) for name, tensor in self._tensors.items()},
            aliases={names[0]: names for names in self._shared if len(names) > 1},
        )

    def _freeze(self, name: str, reason: str) -> None:
        for (tensor, _), label in self._slots.items():
            if tensor == name:
                self._atoms.freeze(label, reason)

    def _finish(self, node: Node) -> None:
        for value in tree_leaves(map_arg(node.args, lambda given: self._values[given])):
            for label in value.labels if isinstance(value, Value) else ():
                if label is not None:
                    self._atoms.freeze(label, "output of the network")

    def _given(self, node: Node) -> object:
        """Return the value of a stored tensor, an input or a constant."""
        result = node.meta.get("val")
        if not isinstance(result, torch.Tensor):
            return result
        shape = _sizes(result)
        labels: Labels = (None,) * len(shape)
        if node.name in self._user_inputs:
            labels = tuple(np.full(size, _INPUT) if 1 < size < SYMBOLIC else None for size in shape)
        elif node.name in self._names:
            name = self._names[node.name]
            labels = tuple(self._slots.get((name, dim)) for dim in range(len(shape)))
        return Value(shape, labels, stored=node.name in self._names)

    def _call(self, node: Node) -> object:
        """Apply the rule of one operator. A result that is no tensor (a size) is returned as it is."""
        result = node.meta.get("val")
        if node.target is operator.getitem:
            source = self._values[node.args[0]]
            index: Any = node.args[1]
            return source[index] if isinstance(source, list) else _without_atoms(result)
        for source in node.all_input_nodes:
            if source.name in self._names:
                self._used.setdefault(self._names[source.name])
        listed = list(result) if isinstance(result, (list, tuple)) else [result]
        shapes = tuple(_sizes(tensor) for tensor in listed if isinstance(tensor, torch.Tensor))
        site, rule, layout = self._site(node, shapes)
        if not shapes:
            if isinstance(node.target, OpOverload) and node.target._schema.is_mutable:  # noqa: SLF001 - as in _arguments
                unknown(site)
            return result
        stored = layout and all(value.stored for value in site.values())
        values = iter([self._value(site, *each, stored) for each in zip(shapes, rule(site), strict=True)])
        aligned = [next(values) if isinstance(tensor, torch.Tensor) else tensor for tensor in listed]
        return aligned if isinstance(result, (list, tuple)) else aligned[0]

    def _site(self, node: Node, shapes: tuple[tuple[int, ...], ...]) -> tuple[Site, Rule, bool]:
        """Return one call with its rule, and whether the operator only moves numbers."""
        arguments = map_arg(_arguments(node), lambda given: self._values[given])
        modules = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if not path.startswith("_")]
        operator_name, _, overload = str(node.target).rpartition(".")
        plain = operator_name.removeprefix("aten.").removesuffix("_")
        layer = modules[-1] if modules else ""
        site = Site(self._atoms, self._consumed, operator_name or overload, layer, arguments, shapes)
        return site, RULES.get(f"{plain}.{overload}") or RULES.get(plain) or unknown, plain in LAYOUT

    @staticmethod
    def _value(site: Site, shape: tuple[int, ...], labels: Labels, stored: bool) -> Value:  # noqa: FBT001
        """Make a result. A dimension of one position is never removed: broadcasting would hide that it has gone."""
        checked: list[Label] = []
        for size, label in zip(shape, labels, strict=True):
            fits = label is not None and len(label) == size > 1
            if not fits:
                site.freeze(label, "leaves a single channel" if size == 1 else "changes the number of channels")
            checked.append(label if fits else None)
        return Value(shape, tuple(checked), stored)

    def _groups(self) -> Iterator[Group]:
        """Yield the free classes, those with equally many positions in the same dimensions together."""
        owned: dict[int, dict[Slot, list[int]]] = defaultdict(dict)
        for slot in self._ordered_slots():
            label = self._slots[slot]
            free = ~self._atoms.frozen(label)
            for position, root in zip(np.flatnonzero(free), self._atoms.roots(label)[free], strict=True):
                owned[root].setdefault(slot, []).append(int(position))
        alike: dict[tuple[tuple[Slot, int], ...], list[dict[Slot, list[int]]]] = defaultdict(list)
        for slots in owned.values():
            alike[tuple((slot, len(positions)) for slot, positions in slots.items())].append(slots)
        names: dict[str, int] = defaultdict(int)
        for signature, classes in alike.items():
            name = layer_of(signature[0][0][0])
            names[name] += 1
            members = tuple(
                Member(
                    *slot, np.array([slots[slot] for slots in classes]), bool(self._consumed[self._slots[slot]].any())
                )
                for slot, _ in signature
            )
            yield Group(name if names[name] == 1 else f"{name}:{names[name]}", len(classes), members)

    def _frozen(self) -> Iterator[Frozen]:
        for slot in self._ordered_slots():
            label = self._slots[slot]
            if reason := self._atoms.reason(label):
                yield Frozen(*slot, reason, bool(self._consumed[label].any()))

    def _ordered_slots(self) -> list[Slot]:
        """Return the dimensions with atoms in the order in which the forward pass first uses their tensors."""
        order = {name: index for index, name in enumerate(self._used)}
        return sorted(self._slots, key=lambda slot: order.get(slot[0], len(order)))


def _without_atoms(result: object) -> object:
    """Return a tensor as a value that nothing may change; anything else as it is."""
    if not isinstance(result, torch.Tensor):
        return result
    shape = _sizes(result)
    return Value(shape, (None,) * len(shape))


def _sizes(tensor: Tensor) -> tuple[int, ...]:
    """Return the sizes with SYMBOLIC in the place of the batch, also within products such as batch x 4."""
    return tuple(
        size
        if isinstance(size, int)
        else int(size.node.expr.subs(dict.fromkeys(size.node.expr.free_symbols, SYMBOLIC)))
        for size in tensor.shape
    )


def _arguments(node: Node) -> dict[str, Any]:
    """Return the arguments by schema name, defaults included."""
    if not isinstance(node.target, OpOverload):
        return {"args": node.args, **node.kwargs}
    schema = node.target._schema.arguments  # noqa: SLF001 - the documented way to an operator's argument names
    defaults = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    return defaults | {argument.name: given for argument, given in zip(schema, node.args, strict=False)} | node.kwargs
