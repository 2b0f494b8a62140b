"""The walk: labels of every value of a captured graph, by the rules of graph_rules.py, in the order of the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch._ops import OpOverload
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from pipeline.compress.pruning.graph.bins import distributions
from pipeline.compress.pruning.graph.labels import (
    SYMBOLIC,
    Atoms,
    Label,
    Labels,
    Notes,
    Options,
    Rule,
    Site,
    Value,
    unknown,
)
from pipeline.compress.pruning.graph.nodes import arguments_of, is_getitem, layer_path, plain_name, rule_for
from pipeline.compress.pruning.graph.rules import LAYOUT
from pipeline.compress.pruning.tensors import overlapping_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor, fx
    from torch.fx import Node

    from pipeline.compress.pruning.graph.capture import CapturedGraph

Slot = tuple[str, int]

_INPUT = 1
_CONTRACTIONS = frozenset(["matmul", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention"])
_CUTS = frozenset("view reshape _unsafe_view unflatten".split())
_PRODUCERS = _CONTRACTIONS | frozenset(["linear", "conv1d", "conv2d", "conv3d", "mm", "addmm"])


@dataclass(frozen=True)
class Walk:
    """What the walk found, by the names of the graph's nodes.

    Attributes:
        slots: the label of each dimension of each stored tensor, in the order in which the graph first uses them.
        values: the labelled result of each node; a list of them for operators with several results.
        notes: what the rules noted about each call.
    """

    atoms: Atoms
    slots: Mapping[Slot, NDArray[np.int64]]
    values: Mapping[str, Any]
    notes: Mapping[str, Notes]

    def removed(self, keep: Mapping[str, Mapping[int, Iterable[int]]]) -> NDArray[np.bool_]:
        """Say of each atom whether it represents a class that a plan removes."""
        removed = self.atoms.none()
        for (name, dim), label in self.slots.items():
            if dim in keep.get(name, {}):
                stays = np.zeros(len(label), np.bool_)
                stays[list(keep[name][dim])] = True
                removed[self.atoms.roots(label[~stays])] = True
        return removed

    def stays(self, label: Label, size: int, removed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Say of each position of a dimension of `size` whether it stays."""
        if label is None:
            return np.ones(size, np.bool_)
        result: NDArray[np.bool_] = ~removed[self.atoms.roots(label)]
        return result


def walk(captured: CapturedGraph, options: Options) -> Walk:
    """Label every value of the graph. Source and limits: see graph.py."""
    return _Walker(captured, options).run()


class _Walker:
    """One walk over a captured graph. Atoms are numbered by stored tensor, dimension and position."""

    def __init__(self, captured: CapturedGraph, options: Options) -> None:
        self._captured, self._options = captured, options
        self._slots: dict[Slot, NDArray[np.int64]] = {}
        count = 1  # atom 1 is the network's input
        for name, tensor in captured.stored.items():
            if tensor.is_floating_point():
                for dim, size in enumerate(tensor.shape):
                    if size > 1:
                        self._slots[name, dim] = np.arange(count + 1, count + size + 1)
                        count += size
        self._atoms = Atoms(count)
        self._values: dict[Node, Any] = {}
        self._notes: dict[str, Notes] = {}
        self._used: dict[str, None] = {}
        both = (captured, captured.training) if captured.training else (captured,)
        self._graphs = [each.module.graph for each in both]
        self._distributions = {node for graph in self._graphs for node in distributions(graph, captured.stored)}
        self._attentions, self._cuts = _attention_calls(node for graph in self._graphs for node in graph.nodes)

    def run(self) -> Walk:
        """Walk, then freeze what the graph does not use."""
        self._atoms.freeze(np.array([_INPUT]), "input of the network")
        for name in overlapping_tensors(self._captured.stored):
            self._freeze(name, "shares memory with a tensor of another shape")
        (values, notes), *_ = [self._follow(graph) for graph in self._graphs]
        for name in {name for name, _ in self._slots} - self._used.keys():
            self._freeze(name, "" if name in self._captured.folded else "not used in evaluation")
        order = {name: index for index, name in enumerate(self._used)}
        ordered = sorted(self._slots, key=lambda slot: order.get(slot[0], len(order)))
        slots = {slot: self._slots[slot] for slot in ordered}
        return Walk(self._atoms, slots, values, notes)

    def _follow(self, graph: fx.Graph) -> tuple[dict[str, Any], dict[str, Notes]]:
        """Return values and notes of one graph. What training alone uses leaves only with channels of evaluation."""
        before = [label for (name, _), label in self._slots.items() if name in self._used]
        self._values, self._notes = {}, {}
        for node in graph.nodes:
            if node.op == "call_function":
                self._values[node] = self._call(node)
            elif node.op == "output":
                self._finish(node)
            else:
                self._values[node] = self._given(node)
        if graph is not self._graphs[0]:
            evaluated = self._atoms.roots(np.concatenate(before)) if before else np.zeros(0, np.int64)
            for label in self._slots.values():
                alone = label[~np.isin(self._atoms.roots(label), evaluated)]
                self._atoms.freeze(alone, "not used in evaluation")
        return {node.name: value for node, value in self._values.items()}, self._notes

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
        result = node.meta.get("val")
        if not isinstance(result, torch.Tensor):
            return result
        shape = _sizes(result)
        if node.op == "placeholder":
            labels: Labels = tuple(np.full(size, _INPUT) if 1 < size < SYMBOLIC else None for size in shape)
            if not result.is_floating_point():
                labels = (None,) * len(shape)  # positions of tokens, not channels
        else:
            labels = tuple(self._slots.get((str(node.target), dim)) for dim in range(len(shape)))
        return Value(shape, labels, stored=node.op == "get_attr")

    def _call(self, node: Node) -> object:
        """Apply the rule of one operator. A result that is no tensor (a size) is returned as it is."""
        result = node.meta.get("val")
        if is_getitem(node):
            source = self._values[node.args[0]]  # type: ignore[index]
            index: Any = node.args[1]
            return source[index] if isinstance(source, list) else _without_atoms(result)
        for source in node.all_input_nodes:
            if source.op == "get_attr":
                self._used.setdefault(str(source.target))
        listed = list(result) if isinstance(result, (list, tuple)) else [result]
        shapes = tuple(_sizes(tensor) for tensor in listed if isinstance(tensor, torch.Tensor))
        site, rule, layout = self._site(node, shapes)
        self._notes[node.name] = site.notes
        if not shapes:
            if isinstance(node.target, OpOverload) and node.target._schema.is_mutable:  # noqa: SLF001 - as in arguments_of
                unknown(site)
            return result
        stored = layout and all(value.stored for value in site.values())
        values = iter([self._value(site, *each, stored) for each in zip(shapes, rule(site), strict=True)])
        aligned = [next(values) if isinstance(tensor, torch.Tensor) else tensor for tensor in listed]
        return aligned if isinstance(result, (list, tuple)) else aligned[0]

    def _site(self, node: Node, shapes: tuple[tuple[int, ...], ...]) -> tuple[Site, Rule, bool]:
        plain = plain_name(node)
        site = Site(
            atoms=self._atoms,
            options=self._options,
            operator=f"aten.{plain}",
            layer=layer_path(node),
            line=_line(node),
            attention=node in self._attentions,
            cuts_heads=node in self._cuts,
            bins=node in self._distributions,
            arguments=map_arg(arguments_of(node), lambda given: self._values[given]),
            shapes=shapes,
            notes=Notes(),
        )
        return site, rule_for(node) or unknown, plain in LAYOUT

    @staticmethod
    def _value(site: Site, shape: tuple[int, ...], labels: Labels, stored: bool) -> Value:  # noqa: FBT001
        """Make a result. A dimension of one position is never removed: broadcasting would hide that it has gone."""
        checked: list[Label] = []
        for size, label in zip(shape, labels, strict=True):
            positions = size // SYMBOLIC if size >= SYMBOLIC else size
            fits = label is not None and len(label) == positions > 1
            if not fits:
                site.freeze(label, "leaves a single channel" if positions == 1 else "changes the number of channels")
            checked.append(label if fits else None)
        return Value(shape, tuple(checked), stored)


def _line(node: Node) -> str:
    """Return file and line of the user's code that a call comes from: 'model.py:12'."""
    lines = [line for line in (node.meta.get("stack_trace") or "").splitlines() if line.lstrip().startswith("File ")]
    own = [line for line in lines if "/torch/" not in line]
    if not own:
        return ""
    _, file, rest = own[-1].split('"', 2)
    return f"{file.rpartition('/')[2]}:{rest.split('line ')[1].split(',')[0]}"


def _attention_calls(nodes: Iterable[Node]) -> tuple[set[Node], set[Node]]:
    """Return the calls between a projection and a product of computed tensors, and those of them that cut heads.

    These are the last before the product that resize the last dimension.
    """
    passed: set[Node] = set()
    cutting: set[Node] = set()
    for node in nodes:
        if node.op == "call_function" and plain_name(node) in _CONTRACTIONS:
            waiting = [(source, True) for source in node.all_input_nodes]
            while waiting:
                current, uncut = waiting.pop()
                if current.op != "call_function" or current in passed or plain_name(current) in _PRODUCERS:
                    continue
                passed.add(current)
                if uncut and plain_name(current) in _CUTS:
                    uncut = _last_size(current) == _last_size(current.all_input_nodes[0])
                    cutting |= set() if uncut else {current}
                waiting += [(source, uncut) for source in current.all_input_nodes]
    return passed, cutting


def _last_size(node: Node) -> object:
    return node.meta["val"].shape[-1]


def _without_atoms(result: object) -> object:
    """Return a tensor as a value that nothing may change; anything else as it is."""
    if not isinstance(result, torch.Tensor):
        return result
    shape = _sizes(result)
    return Value(shape, (None,) * len(shape))


def _at_batch(expression: Any) -> int:  # noqa: ANN401 - sympy.Expr
    """Return a size for SYMBOLIC images; one computed with floats, which do not hold that number, by its slope."""

    def at(batch: int) -> int:
        return int(expression.subs(dict.fromkeys(expression.free_symbols, batch)))

    if not any(each.is_Float for each in expression.atoms()):
        return at(SYMBOLIC)
    few, more, most = at(64), at(128), at(192)
    slope, rest = divmod(more - few, 64)
    return few + slope * (SYMBOLIC - 64) if not rest and most - more == more - few else at(SYMBOLIC)


def _sizes(tensor: Tensor) -> tuple[int, ...]:
    """Return the sizes with SYMBOLIC in the place of the batch, also within products such as batch x 4."""
    return tuple(size if isinstance(size, int) else _at_batch(size.node.expr) for size in tensor.shape)
